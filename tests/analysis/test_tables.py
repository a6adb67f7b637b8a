"""The tables of trials, checked by hand."""

import math

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.tables.trials import parameter_table, status_counts, trials_table


def table_of(run):
    return parameter_table(analysis.load(run.path).trials)


def test_each_arm_is_represented_by_its_best_trial(folder):
    table = table_of(folder)
    assert table[["size", "tied", "trial", "status", "val_loss"]].values.tolist() == [
        ["xs", False, "xs-0000", "complete", 4.20],
        ["xs", True, "xs-0002", "complete", 4.50],
        ["s", False, "s-0001", "complete", 3.50],
        ["s", True, "s-0003", "running", 4.00],
    ]


def test_the_columns_of_a_row_are_those_of_its_trial(folder):
    row = table_of(folder).iloc[0]
    missing = ["half", "windows", "peak_lr_optimum", "peak_lr_low", "peak_lr_high", "unconfirmed", "beaten"]
    assert row[missing].isna().all()
    assert row.drop(missing).to_dict() == {
        **{"size": "xs", "tied": False, "params_estimate": 1000, "params_exact": 1100, "params_non_embedding": 800},
        **{"tokens": 25_600, "train_flops": 7000 * 25_600, "val_loss": 4.20, "val_loss_se": 0.01},
        **{"loss": 4.20, "seeds": 1, "same": "xs-0001"},
        **{"perplexity": pytest.approx(math.exp(4.2)), "bits_per_byte": pytest.approx(4.2 / math.log(2) / 3)},
        **{"peak_lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "warmup": 0.05},
        **{"step": 100, "status": "complete", "trial": "xs-0000"},
    }


def test_a_pruned_trial_never_beats_a_complete_one(make_run):
    run = make_run()
    run.add("xs", "pruned", 1.0)
    run.add("xs", "complete", 9.0)
    assert table_of(run)["trial"].tolist() == ["xs-0001"]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_diverged_and_failed_trials_never_win_whatever_their_last_loss(make_run, status):
    run = make_run()
    run.add("xs", status, 1.0)
    run.add("xs", "pruned", 9.0)
    run.add("s", status, 1.0)
    run.add("s", status, None)
    assert table_of(run)["trial"].tolist() == ["xs-0001"]


def test_all_diverged_gives_an_empty_table_with_all_its_columns(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    columns = table_of(run).columns.tolist()
    trials = analysis.load(run.path).trials.assign(status="diverged", val_loss=np.inf)
    assert parameter_table(trials).empty
    assert parameter_table(trials).columns.tolist() == columns


def test_equal_losses_go_to_the_earlier_trial(make_run):
    run = make_run()
    for _ in range(3):
        run.add("xs", "complete", 4.0)
    assert table_of(run)["trial"].tolist() == ["xs-0000"]


def test_an_ablation_has_a_row_for_each_experiment_in_its_own_order(make_run):
    run = make_run(studies={"main": "main"})
    run.add("main", "complete", 4.0, experiment="baseline")
    run.add("main", "complete", 4.2, experiment="tied", model__tie_embeddings=True)
    run.add("main", "complete", 3.9, experiment="another-seed", train__seed=1)
    table = table_of(run)
    assert table.columns[:3].tolist() == ["size", "experiment", "tied"]
    assert table["experiment"].tolist() == ["baseline", "tied", "another-seed"]


def test_a_trial_without_a_runspec_is_no_arm_of_its_own(folder):
    folder.study("xs").ask()
    assert len(table_of(folder)) == 4


def test_the_trials_table_is_sorted_by_size_status_and_loss(folder):
    table = trials_table(analysis.load(folder.path).trials)
    assert table["trial"].tolist() == [
        *("xs-0000", "xs-0001", "xs-0002", "xs-0003", "xs-0004", "xs-0005"),
        *("s-0001", "s-0000", "s-0002", "s-0003"),
    ]


def test_the_trials_table_shows_the_peak_lr_and_what_varies_within_a_size(folder):
    table = trials_table(analysis.load(folder.path).trials)
    assert table.columns.tolist() == [
        *("trial", "size", "status", "val_loss", "val_loss_se", "train_loss", "peak_lr", "tied", "beta1"),
        *("step", "tokens", "elapsed_s", "tokens_per_s", "message"),
    ]


def test_fields_of_one_name_in_two_parts_keep_their_part(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", "complete", 4.1, train__seed=1, optim__clip_norm=None)
    table = trials_table(analysis.load(run.path).trials)
    assert table["train.seed"].tolist() == [0, 1]
    assert "data.seed" not in table
    assert np.isnan(table["clip_norm"].iloc[1])


def test_tables_do_not_depend_on_the_order_of_the_trials_within_a_size(folder):
    trials = analysis.load(folder.path).trials
    shuffled = pd.concat([group.sample(frac=1, random_state=0) for _, group in trials.groupby("size", sort=False)])
    pd.testing.assert_frame_equal(parameter_table(shuffled), parameter_table(trials))
    pd.testing.assert_frame_equal(trials_table(shuffled), trials_table(trials))


def test_statuses_are_counted_by_size(folder):
    counts = status_counts(analysis.load(folder.path).trials)
    assert counts.to_dict("records") == [
        {"size": "xs", "complete": 3, "pruned": 1, "running": 0, "paused": 0, "diverged": 1, "failed": 1, "total": 6},
        {"size": "s", "complete": 2, "pruned": 1, "running": 1, "paused": 0, "diverged": 0, "failed": 0, "total": 4},
    ]
