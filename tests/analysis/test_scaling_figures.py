"""Scaling plots show every point, the law where it was fitted and beyond, and what it leaves over."""

import numpy as np
import pandas as pd
import pytest
from test_answer_figures import drawable

from analysis.figures.colours import INK, ORDERED, RED
from analysis.figures.scaling import EXTRAPOLATED, MAX_LEVELS, isoflop_figure, levels, optimum_figure, size_figure
from analysis.scaling.fit import fit_scaling
from analysis.stats.estimate import Estimate

E, A, ALPHA, B, BETA = 1.7, 400.0, 0.34, 1500.0, 0.36


def law(n, d):
    return E + A / n**ALPHA + B / d**BETA


def models(n, d, noise=0.002):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"N": n, "D": d, "loss": law(n, d) * np.exp(noise * rng.standard_normal(len(n)))})


@pytest.fixture(scope="module")
def grid():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(2e8, 2e10, 6)))
    return fit_scaling(models(n, d), resamples=50)


def test_loss_against_size_has_all_points_their_law_and_its_extrapolation(grid):
    figure = drawable(size_figure(grid))
    above, below = figure.chart.panels
    points = [layer for layer in above.layers if layer.kind == "points"]
    assert [len(layer.frame) for layer in points] == [8] * 6
    assert [layer.look.colour for layer in points][:: len(points) - 1] == [ORDERED[0], ORDERED[-1]]
    lines = [layer for layer in above.layers if layer.kind == "line"]
    solid, dashed = ([layer for layer in lines if layer.look.dash == dash] for dash in ("solid", "dashed"))
    assert len(solid) == len(dashed) == 6
    assert solid[0].frame["x"].iloc[[0, -1]].tolist() == pytest.approx([1e7, 1e9])
    assert dashed[0].frame["x"].iloc[[0, -1]].tolist() == pytest.approx([1e9, EXTRAPOLATED * 1e9])
    assert dashed[-1].frame["y"].iloc[-1] == pytest.approx(law(EXTRAPOLATED * 1e9, 2e10), rel=0.01)
    bands = [layer.frame for layer in above.layers if layer.kind == "band"]
    assert len(bands) == 2  # of the smallest and the largest D: more would hide each other
    assert all((band["low"] <= band["high"]).all() for band in bands)
    assert (bands[1]["high"] - bands[1]["low"]).iloc[-1] > (bands[1]["high"] - bands[1]["low"]).min()
    assert "for the smallest and the largest D; dashed up to 4 times the largest N" in figure.caption
    assert below.x.limits == above.x.limits


def test_residuals_are_the_loss_over_that_of_the_law(grid):
    below = size_figure(grid).chart.panels[1]
    (rule,) = (layer for layer in below.layers if layer.kind == "rule")
    assert rule.frame["y"].tolist() == [0.0]
    shown = pd.concat([layer.frame for layer in below.layers if layer.kind == "points"])
    points = grid.points.sort_values(["D", "N"])
    expected = 100 * (points["loss"] / grid.loss_nd.curve.predict(points["N"], points["D"]) - 1)
    assert shown["y"].tolist() == pytest.approx(expected.tolist())
    assert shown["y"].abs().max() < 1  # the noise is 0.2 %


def test_at_one_token_count_the_line_is_that_of_sizes_alone():
    n = np.geomspace(1e6, 1e8, 8)
    scaling = fit_scaling(models(n, np.full(8, 1e9)), resamples=50)
    figure = drawable(size_figure(scaling))
    solid, dashed = figure.chart.layers("line")
    assert (solid.label, solid.look.colour, dashed.look.dash) == ("L(N)", INK, "dashed")
    assert len(figure.chart.layers("band")) == 1
    assert len(figure.chart.panels[1].layers[-1].frame) == 8


def test_without_a_law_there_are_points_alone_and_with_three_sizes_nothing():
    few = models(np.array([1e7, 5e7, 1e8, 1e9]), np.full(4, 1e9))
    figure = drawable(size_figure(fit_scaling(few, resamples=20)))
    assert len(figure.chart.panels) == 1
    assert {layer.kind for layer in figure.chart.layers()} == {"points"}
    assert "No law is drawn" in figure.caption
    assert size_figure(fit_scaling(few.iloc[:3], resamples=20)) is None
    assert size_figure(fit_scaling(few.assign(N=[1e6, 1.01e6, 1.02e6, 1.03e6]), resamples=20)) is None


def test_isoflop_curves_have_their_minima_in_red():
    n, c = (x.ravel() for x in np.meshgrid(np.geomspace(2e7, 1e9, 7), [1e18, 3e18, 1e19]))
    scaling = fit_scaling(models(n, c / 6 / n, noise=0.001), resamples=50)
    figure = drawable(isoflop_figure(scaling))
    (minima,) = figure.chart.layers("points", "minimum")
    best = [budget.N_optimal for budget in scaling.isoflop.budgets if isinstance(budget.N_optimal, Estimate)]
    assert minima.look.colour == RED
    assert minima.frame["x"].tolist() == [one.value for one in best]
    assert minima.frame["x_low"].tolist() == [one.low for one in best]
    assert len(figure.chart.layers("line")) == 3
    assert f"n = {len(n)} models" in figure.caption
    assert isoflop_figure(fit_scaling(models(n[:3], np.full(3, 1e9)), resamples=20)) is None


def test_optima_have_intervals_and_the_law_through_them():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e10, 3)))
    rates = pd.DataFrame({"step": np.linspace(-1.5, 1.5, 9)})
    points = models(n, d, noise=0.0).merge(rates, how="cross")
    best = 30 * points["N"] ** -0.4
    points = points.assign(lr=best * np.exp(points["step"]), loss=points["loss"] * (1 + 0.01 * points["step"] ** 2))
    points["loss"] *= np.exp(0.0003 * np.random.default_rng(1).standard_normal(len(points)))
    scaling = fit_scaling(points.drop(columns="step"), resamples=50)
    figure = drawable(optimum_figure(scaling, "lr", "N"))
    shown = pd.concat([layer.frame for layer in figure.chart.layers("points")])
    assert shown["y"].tolist() == pytest.approx((30 * shown["x"] ** -0.4).tolist(), rel=0.1)
    assert ((shown["low"] <= shown["y"]) & (shown["y"] <= shown["high"])).all()
    assert [layer.label for layer in figure.chart.layers("line")] == ["1.00B tokens", "3.16B tokens", "10.0B tokens"]
    assert f"n = {len(shown)} cells" in figure.caption
    assert optimum_figure(fit_scaling(models(n, d), resamples=20), "lr", "N") is None


def test_many_levels_are_binned_and_every_value_has_one():
    values = pd.Series(np.geomspace(1e6, 1e9, 30))
    groups, looks = levels(values)
    assert len(looks) == MAX_LEVELS
    assert set(groups) == set(looks)
    assert list(looks) == list(dict.fromkeys(groups))  # in rising order
    assert len({(look.colour, look.marker) for look in looks.values()}) == MAX_LEVELS
