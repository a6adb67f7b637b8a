"""Trials of an early-stopped search are compared at the largest step that most of them have reached."""

import math

import pytest

import analysis
from analysis.tables.rung import at_rung, common_rung, end_of_training
from analysis.tables.search_progress import improvement, search_progress


def stopped(made, ended, last, lr=1e-3, **changes):
    """A trial with a row every 25 updates up to `last`: its loss falls by 1 from one to the next."""
    loss = 8.0 - last / 25 + lr
    trial = made.add("xs", ended, loss if ended in ("complete", "pruned") else None, optim__lr=lr, step=last, **changes)
    for step in range(25, last + 1, 25):
        made.row(trial, step, 8.0 - step / 25 + lr)
    return trial


def test_losses_are_those_at_the_step_that_all_have_reached(make_run):
    made = make_run()
    first, second = stopped(made, "complete", 100), stopped(made, "pruned", 50)
    diverged, failed = stopped(made, "diverged", 25), stopped(made, "failed", 25)
    run = analysis.load(made.path)
    rung = common_rung(run.trials, run.rows)
    assert rung.losses.to_dict() == {first: pytest.approx(6.001), second: pytest.approx(6.001), diverged: math.inf}
    assert (rung.fraction, rung.steps, rung.reached, rung.of) == (0.5, (50, 50), 2, 2)
    assert (
        rung.sentence
        == "Early stopping: all losses are those at update 50, 50 % of training, which all trials reached."
    )
    shown = at_rung(run.trials, rung)
    assert set(shown["trial"]) == {first, second, diverged}
    assert failed not in set(shown["trial"])


def test_a_few_trials_that_lag_behind_are_left_out(make_run):
    made = make_run()
    for last in (100, 75, 75, 75, 75, 25):
        stopped(made, "complete" if last == 100 else "pruned", last)
    run = analysis.load(made.path)
    rung = common_rung(run.trials, run.rows)
    assert (rung.steps, rung.reached, rung.of) == ((75, 75), 5, 6)
    assert "which 5 of 6 trials reached" in rung.sentence


def test_without_early_stopping_losses_are_the_final_ones(make_run):
    made = make_run()
    ids = [stopped(made, "complete", 100) for _ in range(4)]
    stopped(made, None, 50)
    run = analysis.load(made.path)
    rung = common_rung(run.trials, run.rows)
    assert rung.is_end
    assert set(rung.losses.index) == set(ids)
    assert rung.sentence == "Losses at the end of training; 1 trial without one left out."


def test_trials_with_different_numbers_of_updates_share_a_fraction(make_run):
    made = make_run()
    stopped(made, "pruned", 50)
    stopped(made, "pruned", 100, train__steps=200)
    run = analysis.load(made.path)
    rung = common_rung(run.trials, run.rows)
    assert (rung.fraction, rung.steps) == (0.5, (50, 100))
    assert rung.losses.tolist() == pytest.approx([6.001, 4.001])


def test_a_run_without_rows_is_compared_at_its_end(original):
    run = analysis.load(original.path)
    rung = common_rung(run.trials, run.rows)
    assert rung.is_end
    assert rung.losses.equals(end_of_training(run.trials).losses)


def test_the_best_so_far_counts_complete_trials_of_the_search_in_the_order_of_their_ends(make_run):
    made = make_run()
    for loss, at in ((4.0, 30.0), (4.5, 10.0), (3.0, 20.0), (3.9, 40.0)):
        trial = made.add("xs", "pruned" if loss == 3.0 else "complete", loss)
        made.row(trial, 100, loss, reported_at=at)
    run = analysis.load(made.path)
    progress = search_progress(run.trials, run.rows)
    assert progress["trial"].tolist() == ["xs-0001", "xs-0002", "xs-0000", "xs-0003"]
    assert progress["best"].tolist() == [4.5, 4.5, 4.0, 3.9]
    assert improvement(progress) == pytest.approx(0.1)
