"""Which hyperparameters were searched, and from which learning rate on trials diverge, checked by hand."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.tables.searched import largest_lr, searched_dimensions


def trials_of(*ended):
    """Trials of one size, each given as (status, lr)."""
    records = [
        {"trial": f"xs-{i:04d}", "size": "xs", "number": i, "status": status, "params.optim.lr": lr}
        for i, (status, lr) in enumerate(ended)
    ]
    return pd.DataFrame(records)


def edge_of(*ended):
    (edge,) = largest_lr(trials_of(*ended)).to_dict("records")
    return edge


def test_searched_dimensions_vary_within_a_size_and_keep_the_order_of_the_fields(folder):
    trials = analysis.load(folder.path).trials
    assert searched_dimensions(trials) == ["params.model.tie_embeddings", "params.optim.lr", "params.optim.beta1"]


def test_seeds_and_trials_without_a_runspec_do_not_count_as_searched(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", "complete", 4.1, train__seed=1, data__seed=2)
    run.study("xs").ask()
    assert searched_dimensions(analysis.load(run.path).trials) == []


def test_null_counts_as_a_value(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", "complete", 4.1, optim__clip_norm=None)
    assert searched_dimensions(analysis.load(run.path).trials) == ["params.optim.clip_norm"]


def test_the_edge_lies_between_the_largest_complete_and_the_smallest_diverged():
    edge = edge_of(("complete", 1e-3), ("complete", 3e-3), ("diverged", 3e-2), ("diverged", 1e-2), ("failed", 5e-3))
    assert (edge["largest_complete"], edge["largest_complete_trial"]) == (3e-3, "xs-0001")
    assert (edge["smallest_diverged"], edge["smallest_diverged_trial"]) == (1e-2, "xs-0003")
    assert (edge["complete"], edge["diverged"], edge["overlap"]) == (2, 2, False)
    assert pd.isna(edge["refused"])
    assert edge["reading"] == "the edge is between 0.003 (trained to its end) and 0.01 (diverged)"


def test_a_trial_that_diverged_below_a_complete_one_is_mentioned():
    edge = edge_of(("complete", 1e-2), ("diverged", 3e-3))
    assert edge["overlap"]
    assert edge["reading"].endswith("the edge depends on more than lr")


def test_without_divergence_the_edge_is_above_what_was_tried():
    edge = edge_of(("complete", 1e-3), ("complete", 1e-2))
    assert np.isnan(edge["smallest_diverged"])
    assert pd.isna(edge["smallest_diverged_trial"])
    assert edge["reading"] == "no trial diverged: the edge, if there is one, is above 0.01"


def test_a_pruned_trial_does_not_show_that_its_lr_is_stable():
    edge = edge_of(("complete", 1e-3), ("pruned", 3e-3), ("diverged", 1e-2))
    assert (edge["largest_complete"], edge["pruned_above"]) == (1e-3, 1)
    assert "1 above 0.001 stopped early" in edge["reading"]


def test_all_diverged_puts_the_edge_below():
    assert (
        edge_of(("diverged", 1e-3), ("diverged", 1e-2))["reading"] == "no trial was complete: the edge is below 0.001"
    )


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ([("complete", 3e-3), ("complete", 3e-3)], "one learning rate was tried (0.003)"),
        ([("failed", 3e-3), ("pruned", 1e-3)], "no trial was complete or diverged"),
        ([("running", np.nan)], "no trial was complete or diverged"),
    ],
)
def test_an_edge_that_is_not_estimable_comes_with_a_reason(ended, reason):
    assert edge_of(*ended)["refused"] == reason


def test_every_size_of_a_loaded_run_has_a_row(folder):
    edges = largest_lr(analysis.load(folder.path).trials)
    assert edges["size"].tolist() == ["xs", "s"]
    assert edges["largest_complete"].tolist() == [3e-3, 3e-3]
    assert edges["smallest_diverged"].iloc[0] == 0.09
    assert edges["refused"].fillna("").tolist() == ["", "one learning rate was tried (0.003)"]
