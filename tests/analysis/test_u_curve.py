"""What may be drawn through losses against learning rates, and what a short grid says about its optimum."""

import numpy as np
import pytest

import analysis
from analysis.scaling.bracket import bracket
from analysis.scaling.optimum import curve_near_optimum, find_optima
from analysis.scaling.peak_lr import peak_lr_notes, peak_lr_optima
from analysis.scaling.u_curve import u_curve
from analysis.stats.estimate import Estimate, NotEstimable

GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
V_SHAPED = (6.3, 5.9, 5.6, 5.85, 6.1, 6.2)  # its few points near the minimum do not lie on a parabola


def test_a_bracket_is_the_lowest_of_the_grid_and_its_neighbours():
    found = bracket(GRID, V_SHAPED)
    assert (found.below, found.lowest, found.above, found.values) == (1e-3, 2e-3, 4e-3, 6)
    assert found.losses == (5.9, 5.6, 5.85)
    assert found.sentence == "the lowest of 6 rates is 2.0e-03; its neighbours are 1.0e-03 and 4.0e-03"


def test_the_parabola_through_a_bracket_has_its_vertex_in_log_lr():
    lr = np.array([1e-3, 2e-3, 4e-3, 8e-3])
    found = bracket(lr, 4 + np.log(lr / 2.5e-3) ** 2)
    assert found.vertex == pytest.approx(2.5e-3)
    x, y = found.parabola()
    assert x[[0, -1]] == pytest.approx([1e-3, 4e-3])
    assert y.min() == pytest.approx(4.0, abs=1e-3)


def test_a_lowest_loss_at_the_edge_has_no_bracket_and_a_diverged_rate_is_an_edge():
    assert bracket(GRID, sorted(V_SHAPED)) is None
    assert bracket([1e-3, 2e-3, 4e-3], [4.2, 4.0, np.inf]) is None
    assert bracket([1e-3, 2e-3], [4.2, 4.0]) is None


def test_seeds_of_a_rate_count_with_their_mean():
    found = bracket([1e-3, 2e-3, 2e-3, 4e-3], [4.2, 3.9, 4.1, 4.3])
    assert found.losses == pytest.approx((4.2, 4.0, 4.3))


def grid_run(made, batches=(8,)):
    for shift, batch in enumerate(batches):
        for lr, loss in zip(GRID, V_SHAPED, strict=True):
            made.add("xs", "complete", loss + shift, optim__lr=lr, train__batch_size=batch)
    return analysis.load(made.path)


def test_a_grid_says_between_which_rates_its_minimum_is_where_no_fit_holds(make_run):
    trials = grid_run(make_run()).trials
    optima = peak_lr_optima(trials)
    sentence = "the lowest of 6 rates is 2.0e-03; its neighbours are 1.0e-03 and 4.0e-03"
    assert optima["xs", "untied"] == NotEstimable(f"{sentence}; its trials are too few for a 95 % interval")
    assert peak_lr_notes(trials, optima) == [f"xs: peak lr: {sentence}."]


def test_a_grid_of_two_batch_sizes_is_read_at_the_better_one(make_run):
    trials = grid_run(make_run(), batches=(4, 16)).trials
    (note,) = peak_lr_notes(trials, peak_lr_optima(trials))
    assert note.startswith("xs: peak lr: at batch 4 the lowest of 6 rates is 2.0e-03")


def test_a_search_over_more_than_the_learning_rate_has_no_neighbours(make_run):
    made = make_run()
    for place, (lr, loss) in enumerate(zip(GRID, V_SHAPED, strict=True)):
        made.add("xs", "complete", loss, optim__lr=lr, optim__beta1=0.9 + place / 100)
    trials = analysis.load(made.path).trials
    assert peak_lr_notes(trials, peak_lr_optima(trials)) == []
    curve = u_curve(trials)
    assert (curve.joined, curve.bracket, curve.envelope) == (None, None, None)


def test_points_are_joined_where_the_learning_rate_is_all_that_varies(make_run):
    curve = u_curve(grid_run(make_run()).trials)
    assert [one.tolist() for one in curve.joined] == [list(GRID), list(V_SHAPED)]
    assert curve.fit is None
    assert curve.bracket.lowest == 2e-3


def test_the_curve_that_is_drawn_has_the_fitted_optimum_as_its_minimum(make_run):
    made = make_run()
    noise = np.random.default_rng(0).normal(0, 0.003, 15)
    for lr, error in zip(np.geomspace(1e-3, 1e-2, 15), noise, strict=True):
        made.add("xs", "complete", 4 + 0.2 * np.log(lr / 3e-3) ** 2 + error, optim__lr=float(lr))
    trials = analysis.load(made.path).trials
    curve = u_curve(trials)
    assert isinstance(curve.optimum, Estimate)
    assert curve.optimum.low < 3e-3 < curve.optimum.high
    lr, loss = curve.fit
    assert lr[loss.argmin()] == pytest.approx(curve.optimum.value, rel=0.05)
    given = trials["params.optim.lr"], trials["loss"]
    assert curve_near_optimum(*given)[1].tolist() == loss.tolist()
    assert curve.optimum == find_optima({"lr": given[0]}, given[1])["lr"]


def test_a_search_has_the_lowest_trial_of_each_range_of_rates_as_its_envelope(make_run):
    made = make_run()
    for place, lr in enumerate(np.geomspace(1e-4, 1e-2, 16)):
        made.add("xs", "complete", 4.0 + (place % 4 != 1), optim__lr=float(lr), optim__beta1=0.9 + place / 1000)
    lr, loss = u_curve(analysis.load(made.path).trials).envelope
    assert loss.tolist() == [4.0] * 4
    assert lr == pytest.approx(np.geomspace(1e-4, 1e-2, 16)[1::4])
