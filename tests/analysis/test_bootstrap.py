"""Resamples have the promised distribution, and intervals contain the truth as often as they should."""

import numpy as np
import pytest
from scipy import stats

from analysis.stats import bootstrap


def line(n, seed):
    x = np.linspace(-1, 1, n)
    return np.stack([np.ones(n), x], axis=1), np.random.default_rng(seed).normal(size=n)


def test_exponential_weights_have_the_moments_of_resampled_counts_and_lose_no_point():
    weights = bootstrap.exponential_weights(10, 20_000, seed=0)
    assert weights.min() > 0
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.std() == pytest.approx(1, abs=0.01)


def test_linear_draws_have_the_spread_of_the_t_distribution():
    """Closed form: standard error of least squares, stretched by the t distribution."""
    design, y = line(9, seed=1)
    coefficients, draws = bootstrap.linear_draws(design, y, 20_000, seed=0)
    reference = stats.linregress(design[:, 1], y)
    assert coefficients == pytest.approx([reference.intercept, reference.slope])
    low, high = bootstrap.interval(draws)[:, 1]
    half = stats.t.ppf(0.975, 7) * reference.stderr
    assert (low, high) == pytest.approx((reference.slope - half, reference.slope + half), abs=0.08 * half)


def test_linear_draws_from_points_on_a_line_are_all_equal():
    design, _ = line(5, seed=0)
    coefficients, draws = bootstrap.linear_draws(design, design @ [2.0, 3.0], 100, seed=0)
    assert coefficients == pytest.approx([2, 3])
    assert draws == pytest.approx(np.tile([2, 3], (100, 1)), abs=1e-12)


def test_linear_draws_need_more_points_than_coefficients():
    with pytest.raises(ValueError, match="2 coefficients needs more points than that, got 2"):
        bootstrap.linear_draws(*line(2, seed=0), 10, seed=0)


def test_intervals_of_200_lines_through_five_points_contain_the_slope_in_90_to_99_percent():
    hits = 0
    for seed in range(200):
        _, draws = bootstrap.linear_draws(*line(5, seed), 400, seed)
        low, high = bootstrap.interval(draws)[:, 1]
        hits += low <= 0 <= high
    assert 180 <= hits <= 198


def test_the_tail_is_the_normal_one_for_many_points_and_smaller_for_few():
    assert bootstrap.tail() == pytest.approx(0.025)
    assert bootstrap.tail(10**6, 5) == pytest.approx(0.025, abs=1e-5)
    # Hesterberg 2015: for a mean of 10 numbers, 2.5 % become 0.86 %.
    assert bootstrap.tail(10, 1) == pytest.approx(0.0086, abs=5e-5)
    with pytest.raises(ValueError, match="5 points leave no degree of freedom"):
        bootstrap.tail(5, 5)


def test_an_interval_is_the_percentiles_rounded_outwards_and_keeps_infinities():
    draws = np.arange(1001.0)
    assert bootstrap.interval(draws).tolist() == [25, 975]
    assert bootstrap.interval(draws, 0.0101).tolist() == [10, 990]
    draws[-30:] = np.inf
    assert bootstrap.interval(draws).tolist() == [25, np.inf]
