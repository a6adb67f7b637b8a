"""The optimum of a setting: surfaces with a known minimum, Step Law's public grid, and what is not estimable."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.scaling.optimum import find_optima, largest_stable, optimum_table
from analysis.scaling.power_law import fit_power_law
from analysis.stats.estimate import Estimate, NotEstimable

DATA = Path(os.environ.get("LMSWEEP_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
STEPLAW = DATA / "steplaw_dense.csv"
SEQUENCE = 2048  # tokens

BEST_LR, BEST_BATCH = 3e-3, 2e5
LRS = np.geomspace(3e-4, 3e-2, 11)
BATCHES = np.geomspace(3e4, 1e6, 9)


def surface(lr, batch=BEST_BATCH, seed=0, noise=0.001):
    """Loss with its minimum at BEST_LR and BEST_BATCH, as curved and asymmetric as Step Law's cells."""
    u, v = np.log(np.asarray(lr) / BEST_LR), np.log(np.asarray(batch) / BEST_BATCH)
    height = 0.012 * u**2 + 0.003 * np.maximum(u, 0) ** 3 + 0.01 * v**2 - 0.004 * u * v
    return 2.5 * (1 + height) * np.exp(np.random.default_rng(seed).normal(0, noise, np.shape(height)))


def grid():
    lr, batch = (x.ravel() for x in np.meshgrid(LRS, BATCHES))
    return {"lr": lr, "batch": batch}


def test_the_minimum_of_a_cubic_is_found_exactly():
    u = np.log(LRS / BEST_LR)
    optimum = find_optima({"lr": LRS}, 2.5 + 0.02 * u**2 + 0.002 * u**3)["lr"]
    assert (optimum.value, optimum.low, optimum.high) == pytest.approx([BEST_LR] * 3)


def test_two_settings_that_interact_are_fitted_together():
    settings = grid()
    u, v = np.log(settings["lr"] / BEST_LR), np.log(settings["batch"] / BEST_BATCH)
    optima = find_optima(settings, 2.5 + 0.02 * u**2 + 0.02 * v**2 - 0.03 * u * v)
    assert optima["lr"].value == pytest.approx(BEST_LR)
    assert optima["batch"].value == pytest.approx(BEST_BATCH)
    assert optima["lr"].n == optima["batch"].n


@pytest.mark.parametrize("number", [1, 2])
def test_intervals_from_20_simulated_cells_contain_the_optimum(number):
    settings = grid() if number == 2 else {"lr": LRS}
    hits, refused = 0, 0
    for seed in range(20):
        optimum = find_optima(settings, surface(**settings, seed=seed), resamples=400, seed=seed)["lr"]
        refused += isinstance(optimum, NotEstimable)
        hits += isinstance(optimum, Estimate) and optimum.low <= BEST_LR <= optimum.high
    assert refused <= 2
    assert hits >= 17 - refused


def test_trials_that_blew_up_or_diverged_do_not_move_the_optimum():
    loss = surface(LRS)
    calm = find_optima({"lr": LRS}, loss)["lr"]
    loss[-1] = np.inf
    loss[-2] = 11.0
    wild = find_optima({"lr": LRS}, loss)["lr"]
    assert wild.value == pytest.approx(calm.value, rel=0.05)


def test_random_search_over_two_settings_needs_no_grid():
    generator = np.random.default_rng(0)
    settings = {
        "lr": np.exp(generator.uniform(*np.log([3e-4, 3e-2]), 40)),
        "batch": np.exp(generator.uniform(*np.log([3e4, 1e6]), 40)),
    }
    optima = find_optima(settings, surface(**settings))
    assert optima["lr"].low <= BEST_LR <= optima["lr"].high
    assert optima["batch"].low <= BEST_BATCH <= optima["batch"].high


@pytest.mark.parametrize(("kept", "end"), [(LRS < 2e-3, "largest"), (LRS > 4e-3, "smallest")])
def test_an_optimum_at_the_edge_of_the_values_tried_is_not_estimable(kept, end):
    optimum = find_optima({"lr": LRS[kept]}, surface(LRS[kept]))["lr"]
    assert optimum.reason.startswith(f"the best trial has the {end} lr that finished")


def test_a_flat_loss_has_no_optimum():
    loss = 2.5 * np.exp(np.random.default_rng(1).normal(0, 0.003, 11))
    assert "no clear minimum" in find_optima({"lr": LRS}, loss)["lr"].reason


def test_too_few_values_and_trials_are_not_estimable():
    two = find_optima({"lr": LRS, "batch": np.where(LRS > 1e-3, 2e5, 1e5)}, surface(LRS))
    assert two["batch"] == NotEstimable("2 values of batch are too few (at least 3)")
    assert isinstance(two["lr"], Estimate)
    three = LRS[[3, 5, 7]]
    assert find_optima({"lr": three}, surface(three))["lr"] == NotEstimable(
        "3 trials are too few near the optimum of lr"
    )
    assert find_optima({"lr": LRS}, np.full(11, np.nan))["lr"] == NotEstimable("no trial has a finite loss")
    with pytest.raises(ValueError, match=r"lr must be positive and finite \(got 0\)"):
        find_optima({"lr": [0.0, 1e-3]}, [3.0, 3.0])


def test_a_table_has_a_row_per_cell_and_setting():
    frame = pd.DataFrame({"size": ["s"] * 11 + ["xs"] * 3, "lr": [*LRS, *LRS[:3]]})
    frame["loss"] = surface(frame["lr"])
    table = optimum_table(frame, ["size"], ["lr"], "loss")
    assert table["size"].tolist() == ["s", "xs"]
    assert table["value"].notna().tolist() == [True, False]
    assert table["refused"].notna().tolist() == [False, True]
    assert table["n"].iloc[1] == 0


def test_the_largest_stable_value_is_between_safe_and_diverged_values():
    values = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    assert largest_stable(values, [False, False, True, False, True]) == Estimate(3e-2, 3e-3, 1e-1, 5)
    assert largest_stable(values, [False, False, False, True, True]) == Estimate(1e-2, 1e-2, 3e-2, 5)
    assert largest_stable(values, [False] * 5) == NotEstimable("no trial diverged, up to 0.1")
    assert largest_stable(values, [True] * 5) == NotEstimable("every trial diverged, down to 0.001")
    assert isinstance(largest_stable(values, [True, False, False, False, False]), NotEstimable)
    assert largest_stable([], []) == NotEstimable("there are no trials")


def test_the_laws_from_step_laws_cells_recommend_settings_that_lose_little():
    """The learning rate nearest to its law in each of the 17 cells, with the batch twice: the best one that was tried
    at that learning rate, and the nearest to the batch law among those tried at it."""
    if not STEPLAW.is_file():
        pytest.skip(f"{STEPLAW} does not exist; set LMSWEEP_SHARED_DATA to its folder")
    runs = pd.read_csv(STEPLAW).assign(batch=lambda r: r["bs"] * SEQUENCE)
    table = optimum_table(runs, ["N", "D"], ["lr", "batch"], "smooth loss").dropna(subset="value")
    fits = {name: fit_power_law(t["value"], t["N"], t["D"]) for name, t in table.groupby("setting")}
    for name, published in (("lr", "1.79 N^-0.713 D^0.307"), ("batch", "0.58 D^0.571")):
        shown = {key: f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]" for key, e in fits[name].fitted.items()}
        print(f"\n{name}: {shown} from {fits[name].fitted['coefficient'].n} cells; published {published}")

    cells = runs.groupby(["N", "D"])
    chosen = [losses_of_choice(cell, *(fits[s].law.predict(*key) for s in ("lr", "batch"))) for key, cell in cells]
    best_batch, law_batch = 100 * np.mean(chosen, axis=0)
    print(f"above the cells' best: {best_batch:.3f} % at the best batch, {law_batch:.3f} % at the batch law's")
    assert len(chosen) == 17
    assert best_batch <= 0.15
    assert law_batch <= 0.15


def losses_of_choice(cell, lr, batch):
    """How far above the cell's best loss, as a share: with the best batch at the nearest lr, and with the law's."""
    at_lr = cell[cell["lr"] == nearest(cell["lr"], lr)]
    at_both = at_lr[at_lr["batch"] == nearest(at_lr["batch"], batch)]
    return [x["smooth loss"].min() / cell["smooth loss"].min() - 1 for x in (at_lr, at_both)]


def nearest(tried, value):
    return tried.iloc[np.abs(np.log(tried / value)).argmin()]
