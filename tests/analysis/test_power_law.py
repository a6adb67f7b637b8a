"""Optima against size: their law is recovered with intervals that contain it, or is not estimable."""

import numpy as np
import pytest
from scipy import stats

from analysis.scaling.power_law import fit_power_law
from analysis.stats.estimate import Estimate, NotEstimable

TRUTH = {"coefficient": 1.79, "N_exponent": -0.713, "D_exponent": 0.307}


def cells(seed=0, noise=0.1, sizes=4, tokens=4):
    """N, D, y of a grid of cells about the published law of the learning rate."""
    N = np.repeat(np.geomspace(2e8, 1e9, sizes), tokens)
    D = np.tile(np.geomspace(4e9, 1e11, tokens), sizes)
    scatter = np.exp(np.random.default_rng(seed).normal(0, noise, len(N)))
    return N, D, 1.79 * N**-0.713 * D**0.307 * scatter


def test_a_law_without_noise_is_recovered_exactly():
    N, D, y = cells(noise=0)
    fit = fit_power_law(y, N, D)
    for name, value in TRUTH.items():
        assert fit.fitted[name] == Estimate(*[pytest.approx(value, rel=1e-9)] * 3, 16)
    assert fit.law.predict(N, D) == pytest.approx(y)


def test_with_one_regressor_it_is_linear_regression_of_the_logs():
    N, _, y = cells(tokens=1, sizes=9)
    fit = fit_power_law(y, N, resamples=10_000)
    reference = stats.linregress(np.log(N), np.log(y))
    exponent = fit.fitted["N_exponent"]
    half = stats.t.ppf(0.975, 7) * reference.stderr
    assert exponent.value == pytest.approx(reference.slope)
    assert (exponent.high - exponent.low) / 2 == pytest.approx(half, rel=0.1)
    assert fit.fitted.keys() == {"coefficient", "N_exponent"}


def test_intervals_from_20_simulated_sets_of_cells_contain_the_truth():
    hits = dict.fromkeys(TRUTH, 0)
    for seed in range(20):
        N, D, y = cells(seed)
        fitted = fit_power_law(y, N, D, resamples=400, seed=seed).fitted
        for name, value in TRUTH.items():
            hits[name] += fitted[name].low <= value <= fitted[name].high
    assert min(hits.values()) >= 17, hits


def test_the_band_contains_the_curve_and_widens_away_from_the_cells():
    N, D, y = cells()
    law = fit_power_law(y, N, D).law
    low, high = law.band(N, D)
    assert ((low < law.predict(N, D)) & (law.predict(N, D) < high)).all()
    near, far = (np.divide(*law.band(x, 2e10)[::-1]) for x in (5e8, 5e11))
    assert far > near
    assert law.predict(np.array([[1e8], [1e9]]), [1e9, 1e10, 1e11]).shape == (2, 3)


def test_the_same_seed_gives_the_same_interval():
    N, D, y = cells()
    assert fit_power_law(y, N, D, seed=1).fitted == fit_power_law(y, N, D, seed=1).fitted
    assert fit_power_law(y, N, D, seed=1).fitted != fit_power_law(y, N, D, seed=2).fitted


def test_a_constant_regressor_has_no_exponent_and_the_other_one_is_estimable():
    N, _, y = cells(tokens=1, sizes=6)
    fit = fit_power_law(y, N, np.full(6, 1e10))
    assert fit.fitted["D_exponent"] == NotEstimable("1 value of D is too few for an exponent (at least 3)")
    assert isinstance(fit.fitted["coefficient"], NotEstimable)
    assert fit.law is None
    assert fit.fitted["N_exponent"] == fit_power_law(y, N).fitted["N_exponent"]


def test_two_sizes_have_no_exponent_but_their_effect_is_removed_from_the_other_one():
    N, D, y = cells(sizes=2, tokens=5, noise=0.01)
    fitted = fit_power_law(y, N, D).fitted
    assert isinstance(fitted["N_exponent"], NotEstimable)
    assert fitted["D_exponent"].value == pytest.approx(0.307, abs=0.02)


def test_regressors_that_rise_together_are_not_estimable():
    N, _, y = cells(tokens=1, sizes=6)
    fitted = fit_power_law(y, N, 20 * N).fitted
    assert len({fitted[key] for key in fitted}) == 1
    assert "rise together" in fitted["N_exponent"].reason


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_cells_are_not_estimable(number):
    N, D, y = (x[:number] for x in cells(sizes=3, tokens=1))
    fitted = fit_power_law(y, N, D).fitted
    assert all(isinstance(one, NotEstimable) for one in fitted.values())


def test_values_that_are_not_positive_are_an_error():
    with pytest.raises(ValueError, match="positive and finite"):
        fit_power_law([1e-3, 0.0], [1e8, 1e9])
    with pytest.raises(ValueError, match="needs N or D"):
        fit_power_law([1e-3, 1e-2])
