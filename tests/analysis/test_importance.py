"""Importance of hyperparameters on losses whose true dependence is known."""

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.importance import COLUMNS, estimates, importance

RESAMPLES = 40
LR, BETA2 = "optim.lr", "optim.beta2"


def search(loss, n=60, seed=0, **columns):
    """A random search of one size over five hyperparameters; loss(trials, rng) of each, in nats per token."""
    rng = np.random.default_rng(seed)
    trials = pd.DataFrame(
        {
            **{"size": "xs", "number": range(n), "status": "complete", "experiment": None},
            "params.optim.lr": 10 ** rng.uniform(-4, -1, n),
            "params.optim.beta1": rng.uniform(0.8, 0.98, n),
            "params.optim.beta2": rng.choice([0.9, 0.95, 0.99, 0.999], n),
            "params.optim.warmup_fraction": rng.uniform(0, 0.2, n),
            "params.model.tie_embeddings": rng.integers(0, 2, n).astype(bool),
        }
    )
    return trials.assign(**{"val_loss": loss(trials, rng), **columns})


def nothing(trials, rng):
    return 4 + 0.05 * rng.standard_normal(len(trials))


def lr_only(trials, rng):
    return nothing(trials, rng) + 0.5 * (np.log10(trials["params.optim.lr"]) + 2.5) ** 2


def lr_and_beta2(trials, rng):
    return lr_only(trials, rng) + 0.6 * (trials["params.optim.beta2"] == 0.999)


def by_parameter(table):
    return table.set_index("parameter")


def test_a_single_relevant_parameter_gets_all_the_importance():
    table = importance(search(lr_only), resamples=RESAMPLES)
    assert table.columns.tolist() == list(COLUMNS)
    assert table["parameter"].iloc[0] == LR
    assert by_parameter(table)["separable"].to_dict() == {name: name == LR for name in table["parameter"]}
    assert by_parameter(table).loc[LR, "low"] > 0.5
    assert by_parameter(table).loc[LR, "high"] == 1.0  # the truth
    assert (table["low"].iloc[1:] == 0).all()  # the truth of the others
    assert table[["n", "complete"]].drop_duplicates().values.tolist() == [[60, 60]]


def test_two_relevant_parameters_lead_and_their_intervals_contain_the_value_from_many_trials():
    many = by_parameter(importance(search(lr_and_beta2, n=300, seed=99), resamples=19))["importance"]
    assert set(many.index[:2]) == {LR, BETA2}
    covered, second = [], []
    for seed in range(4):
        table = importance(search(lr_and_beta2, n=60, seed=seed), resamples=25, seed=seed)
        assert table["parameter"].iloc[0] == LR
        second.append(table["parameter"].iloc[1])
        few = by_parameter(table)
        covered += [few.loc[name, "low"] <= many[name] <= few.loc[name, "high"] for name in (LR, BETA2)]
    assert second.count(BETA2) >= 3
    assert sum(covered) >= 7  # of 8


def test_without_a_relevant_parameter_no_share_is_estimable():
    tables = [importance(search(nothing, seed=seed), resamples=RESAMPLES) for seed in range(6)]
    refused = [table["refused"].notna().all() for table in tables]
    assert sum(refused) >= 5  # a test at the 5 % level
    assert tables[0]["refused"].tolist() == ["in 60 trials no hyperparameter stands out from what shuffled losses give"]


def test_diverged_trials_are_used():
    """lr only matters through the region that diverges; without those trials it has no effect."""
    trials = search(nothing, seed=1)
    diverges = trials["params.optim.lr"] > 0.01
    diverging = trials.assign(
        status=np.where(diverges, "diverged", "complete"), val_loss=trials["val_loss"].mask(diverges)
    )
    assert importance(diverging, resamples=RESAMPLES)["parameter"].iloc[0] == LR
    without = importance(diverging[~diverges], resamples=RESAMPLES)
    assert without["refused"].notna().all()


def test_pruned_trials_rank_behind_complete_ones_whatever_their_early_loss():
    trials = search(lr_only)
    stopped = trials["val_loss"] > trials["val_loss"].median()
    pruned = trials.assign(
        status=np.where(stopped, "pruned", "complete"), val_loss=trials["val_loss"].where(~stopped, 0.1)
    )
    table = importance(pruned, resamples=RESAMPLES)
    assert table["parameter"].iloc[0] == LR
    assert table[["n", "complete"]].iloc[0].tolist() == [60, 30]


def test_running_and_failed_trials_and_experiments_are_ignored():
    trials = search(lr_only)
    more = [trials.assign(status=status, val_loss=0.0) for status in ("running", "failed")]
    more.append(trials.assign(experiment="baseline", val_loss=0.0))
    together = pd.concat([trials, *more], ignore_index=True)
    pd.testing.assert_frame_equal(importance(together, resamples=RESAMPLES), importance(trials, resamples=RESAMPLES))


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        (search(lr_only, n=8), "8 trials, 8 of them complete, are too few (at least 20 and 10)"),
        (
            search(lr_only, n=40, status=["complete"] * 9 + ["pruned"] * 31),
            "40 trials, 9 of them complete, are too few (at least 20 and 10)",
        ),
        (
            search(lr_only)[["size", "number", "status", "experiment", "params.optim.lr", "val_loss"]],
            "1 hyperparameter was searched, and a share needs two",
        ),
    ],
    ids=["few", "few-complete", "one-dimension"],
)
def test_too_few_trials_or_dimensions_are_not_estimable(trials, reason):
    table = importance(trials, resamples=RESAMPLES)
    assert table["refused"].tolist() == [reason]
    assert table[["importance", "low", "high"]].isna().all(axis=None)


def test_each_size_is_judged_separately_and_a_seed_reproduces_the_table():
    small = search(lr_only)
    trials = pd.concat([small, search(lr_only, n=8, size="s")], ignore_index=True)
    table = importance(trials, resamples=RESAMPLES, seed=3)
    assert table["size"].tolist() == ["xs"] * 5 + ["s"]
    pd.testing.assert_frame_equal(table, importance(trials, resamples=RESAMPLES, seed=3))
    fitted = estimates(table)
    assert isinstance(fitted["importance.xs.optim.lr"], Estimate)
    assert isinstance(fitted["importance.s"], NotEstimable)


def test_many_trials_are_subsampled_and_n_says_how_many_were_used():
    table = importance(search(lr_only, n=400), resamples=19)
    assert table[["parameter", "n", "complete"]].iloc[0].tolist() == [LR, 300, 300]


def test_fanova_finds_the_same_parameter_from_complete_trials(monkeypatch):
    monkeypatch.setattr("analysis.stats.importance.FANOVA_TREES", 4)  # seconds
    trials = search(lr_only, n=40)
    diverged = search(lr_only, n=10, seed=5, status="diverged", val_loss=np.nan)
    table = importance(pd.concat([trials, diverged], ignore_index=True), "fanova", resamples=19)
    assert table[["parameter", "n"]].iloc[0].tolist() == [LR, 40]
    assert table["low"].iloc[0] > 0.3


def test_an_unknown_evaluator_and_too_few_resamples_are_errors():
    with pytest.raises(ValueError, match="one of ped-anova, fanova"):
        importance(search(lr_only), "shapley")
    with pytest.raises(ValueError, match="must be >= 19"):
        importance(search(lr_only), resamples=10)


def test_the_verbosity_of_optuna_is_restored():
    before = optuna.logging.get_verbosity()
    importance(search(lr_only, n=20), resamples=19)
    assert optuna.logging.get_verbosity() == before
