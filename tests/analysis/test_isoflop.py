"""Compute-optimal sizes: minima and their exponent against the closed form of the loss law."""

import numpy as np
import pytest

from analysis.scaling.isoflop import fit_isoflop
from analysis.stats.estimate import Estimate, NotEstimable

E, A, ALPHA, B, BETA = 1.69, 406.4, 0.34, 410.7, 0.28  # Hoffmann et al. 2022
EXPONENT = BETA / (ALPHA + BETA)
COMPUTE = np.geomspace(6e18, 1e21, 6)  # FLOPs
FACTORS = np.geomspace(1 / 6, 6, 9)


def optimal(compute):
    """Where dL/dN = 0 at 6 N D = compute."""
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (compute / 6) ** EXPONENT


def runs(seed=0, noise=0.002, factors=FACTORS, compute=COMPUTE):
    """N, D, loss of `factors` times the optimal size at each budget."""
    N = (optimal(compute)[:, None] * factors).ravel()
    D = np.repeat(compute, len(factors)) / 6 / N
    loss = (E + A / N**ALPHA + B / D**BETA) * np.exp(np.random.default_rng(seed).normal(0, noise, len(N)))
    return N, D, loss


def test_curves_that_are_cubic_in_log_size_are_recovered_exactly():
    N, D, _ = runs()
    u = np.log(N / optimal(6 * N * D))
    result = fit_isoflop(N, D, 3 + 0.01 * u**2 + 0.002 * u**3)
    assert result.fitted["N_exponent"] == Estimate(*[pytest.approx(EXPONENT)] * 3, 6)
    assert result.fitted["D_exponent"] == Estimate(*[pytest.approx(1 - EXPONENT)] * 3, 6)
    assert [budget.compute for budget in result.budgets] == pytest.approx(COMPUTE)
    assert [budget.N_optimal.value for budget in result.budgets] == pytest.approx(optimal(COMPUTE))
    assert result.budgets[0].predict(optimal(COMPUTE[0])) == pytest.approx(3)


def test_intervals_from_20_simulated_sets_contain_the_exponent_and_the_minima():
    exponents, minima = 0, 0
    for seed in range(20):
        result = fit_isoflop(*runs(seed), resamples=400, seed=seed)
        exponent = result.fitted["N_exponent"]
        exponents += exponent.low <= EXPONENT <= exponent.high
        for budget in result.budgets:
            minima += budget.N_optimal.low <= optimal(budget.compute) <= budget.N_optimal.high
    assert exponents >= 17
    assert 105 <= minima <= 120


def test_rounded_token_counts_are_still_one_budget_and_unfinished_runs_are_left_out():
    N, D, loss = runs()
    D *= np.exp(np.random.default_rng(0).uniform(-0.01, 0.01, len(D)))
    loss[4] = np.nan
    result = fit_isoflop(N, D, loss)
    assert [len(budget.members) for budget in result.budgets] == [8, 9, 9, 9, 9, 9]
    assert result.budgets[0].N_optimal.n == 8


def test_differences_in_compute_within_a_budget_are_corrected_for():
    N, D, _ = runs()
    D *= np.exp(0.04 * np.sin(np.arange(len(D))))
    u = np.log(N / np.repeat(optimal(COMPUTE), len(FACTORS)))
    loss = 3 + 0.01 * u**2 + 0.002 * u**3 - 0.2 * np.log(6 * N * D / np.repeat(COMPUTE, len(FACTORS)))
    result = fit_isoflop(N, D, loss)
    assert [budget.N_optimal.value for budget in result.budgets] == pytest.approx(optimal(COMPUTE), rel=1e-3)


def test_runs_with_arbitrary_compute_form_no_budgets():
    generator = np.random.default_rng(0)
    N, D = 10 ** generator.uniform(7.5, 9.5, 60), 10 ** generator.uniform(9, 11, 60)
    result = fit_isoflop(N, D, E + A / N**ALPHA + B / D**BETA)
    assert max(len(budget.members) for budget in result.budgets) < 10
    assert isinstance(result.fitted["N_exponent"], NotEstimable)


def test_a_minimum_at_the_edge_is_not_estimable_and_does_not_count():
    N, D, loss = runs()
    kept = (np.arange(len(N)) >= 9) | (N / optimal(COMPUTE[0]) <= 1.01)
    result = fit_isoflop(N[kept], D[kept], loss[kept])
    assert "the largest size" in result.budgets[0].N_optimal.reason
    assert result.fitted["N_exponent"].n == 5


def test_with_too_few_budgets_the_reason_includes_why_others_have_no_minimum():
    N, D, loss = runs(factors=np.geomspace(1.2, 6, 6))
    fitted = fit_isoflop(N, D, loss).fitted
    assert fitted["N_exponent"] == fitted["D_exponent"]
    assert "0 of 6 compute budgets" in fitted["N_exponent"].reason
    assert "smallest size" in fitted["N_exponent"].reason
    two = fit_isoflop(*runs(compute=COMPUTE[:2])).fitted
    assert two["N_exponent"] == NotEstimable("2 of 2 compute budgets have a minimum, too few (at least 3)")


def test_three_sizes_are_too_few_for_a_minimum():
    result = fit_isoflop(*runs(factors=np.array([0.5, 1, 2])))
    assert result.budgets[0].N_optimal == NotEstimable("3 sizes at this compute are too few (at least 4)")
    with pytest.raises(ValueError, match="no curve"):
        result.budgets[0].predict(1e8)


def test_a_curve_that_bends_downwards_has_no_minimum():
    N, D, _ = runs()
    u = np.log(N / optimal(6 * N * D))
    lucky = np.where(np.abs(u) < 0.1, -0.6, 0)
    result = fit_isoflop(N, D, 3 - 0.1 * u**2 + lucky)
    assert all(isinstance(budget.N_optimal, NotEstimable) for budget in result.budgets)


def test_no_runs_give_no_budgets():
    result = fit_isoflop([], [], [])
    assert result.budgets == []
    assert isinstance(result.fitted["N_exponent"], NotEstimable)


def test_a_budget_with_as_many_models_as_coefficients_has_no_curve():
    sizes = np.array([1e6, 2e6, 4e6, 8e6])
    tokens = np.array([8e7, 4.1e7, 2e7, 1e7])  # not quite at the same compute: one slope more
    fit = fit_isoflop(sizes, tokens, np.array([4.0, 3.8, 3.7, 3.9]))
    assert all(isinstance(one, NotEstimable) for one in fit.fitted.values())
    assert [budget.form for budget in fit.budgets] == [None]
