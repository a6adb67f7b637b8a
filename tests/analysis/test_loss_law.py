"""The loss law: SciPy agrees with the fit and with every resample, intervals contain the truth, and what the data do
not determine is not estimable."""

import numpy as np
import pytest
from scipy import optimize

from analysis.scaling import huber_solver as huber
from analysis.scaling.loss_law import fit_loss_law, fit_size_law
from analysis.stats import bootstrap
from analysis.stats.estimate import Estimate, NotEstimable

TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}  # Besiroglu et al. 2024
TRUTH["N_exponent"] = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


def true_loss(N, D):
    return TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]


def runs(seed=0, noise=0.003, sizes=7, tokens=7):
    """N, D, loss of a grid of runs."""
    N = np.repeat(np.geomspace(2e7, 5e9, sizes), tokens)
    D = np.tile(np.geomspace(5e8, 2e11, tokens), sizes)
    return N, D, true_loss(N, D) * noise_of(len(N), seed, noise)


def noise_of(n, seed, noise=0.003):
    return np.exp(np.random.default_rng(seed).normal(0, noise, n))


def scipy_objective(theta, log_N, log_D, log_loss, weights):
    """Hoffmann et al. 2022, equation (3), written by hand."""
    e, a, alpha, b, beta = theta
    terms = np.stack([a - alpha * log_N, b - beta * log_D, np.full(len(log_N), e)])
    return np.sum(weights * huber_by_definition(log_loss - np.logaddexp.reduce(terms)))


def huber_by_definition(residual, delta=1e-3):
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


def test_the_objective_is_hubers_loss_of_log_sum_exp_and_its_gradient_is_right():
    N, D, loss = runs()
    x, weights = np.log([N, D]), bootstrap.exponential_weights(len(N), 1, 0)
    theta = np.array([[0.5, 6.0, 0.33, 7.5, 0.36]])
    value = huber.objective(theta, x, np.log(loss), weights)[0]
    assert value == pytest.approx(scipy_objective(theta[0], *x, np.log(loss), weights[0]))
    numerical = optimize.approx_fprime(theta[0], scipy_objective, 1e-8, *x, np.log(loss), weights[0])
    assert huber.gradient(theta, x, np.log(loss), weights)[0] == pytest.approx(numerical, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_few_noisy_runs_over_a_narrow_range_converge_with_wide_intervals(seed):
    N, D = np.repeat(np.geomspace(2e8, 1e9, 5), 4), np.tile(np.geomspace(4e9, 1e11, 4), 5)
    fitted = fit_loss_law(N, D, true_loss(N, D) * noise_of(len(N), seed, 0.01), resamples=200).fitted
    assert fitted["E"] == NotEstimable("E cannot be told from zero")
    assert fitted["alpha"].low < TRUTH["alpha"] < fitted["alpha"].high
    assert fitted["alpha"].high > 4 * fitted["alpha"].low


def test_every_resample_is_fitted_as_well_as_scipy_fits_it():
    N, D, loss = runs()
    x = np.log([N, D])
    x -= x.mean(axis=1, keepdims=True)
    weights = bootstrap.exponential_weights(len(N), 12, seed=0)
    bounds = optimize.Bounds(np.array([-3.0, -10, 0.03, -10, 0.03]), np.array([2.0, 2, 3, 2, 3]))
    start = np.array([[0.5, -1, 0.3, -1, 0.3]])
    found, converged = huber.fit(start, x, np.log(loss), weights, bounds)
    assert converged.all()
    values = huber.objective(found, x, np.log(loss), weights)
    for theta, value, row in zip(found, values, weights, strict=True):

        def scaled(t, row=row):
            one = t[None], x, np.log(loss), row[None]
            return 1e6 * huber.objective(*one)[0], 1e6 * huber.gradient(*one)[0]

        options = {"gtol": 1e-9, "maxiter": 5000}
        reference = optimize.minimize(scaled, start[0], jac=True, method="BFGS", options=options)
        assert 1e6 * value <= reference.fun * (1 + 1e-9)
        assert theta == pytest.approx(reference.x, abs=2e-5)


def test_the_fit_is_as_good_as_the_best_of_many_starts_of_l_bfgs():
    N, D, loss = runs(sizes=5, tokens=5)
    law = fit_loss_law(N, D, loss, resamples=20)
    x = np.log([N, D]) - law.curve.center[:, None]
    ones = np.ones((1, len(N)))
    generator = np.random.default_rng(0)

    def scaled(t):
        one = t[None], x, np.log(loss), ones
        return 1e6 * huber.objective(*one)[0], 1e6 * huber.gradient(*one)[0]

    starts = generator.uniform([-1, -3, 0.1, -3, 0.1], [1, 1, 1, 1, 1], (20, 5))
    bounds = [(-6, 2), (-13, 2), (0.03, 3), (-13, 2), (0.03, 3)]
    best = min(optimize.minimize(scaled, s, jac=True, method="L-BFGS-B", bounds=bounds).fun for s in starts)
    assert scaled(law.curve.theta)[0] <= best * (1 + 1e-9)


def test_a_law_without_noise_is_recovered():
    fitted = fit_loss_law(*runs(noise=0), resamples=50).fitted
    for name, value in TRUTH.items():
        assert fitted[name] == Estimate(*[pytest.approx(value, rel=1e-4)] * 3, 49)


def test_intervals_from_20_simulated_sets_contain_the_truth():
    hits = dict.fromkeys((*TRUTH, "band"), 0)
    for seed in range(20):
        law = fit_loss_law(*runs(seed, sizes=6, tokens=6), resamples=200, seed=seed)
        for name, value in TRUTH.items():
            hits[name] += law.fitted[name].low <= value <= law.fitted[name].high
        low, high = law.curve.band(1e9, 2e10)
        hits["band"] += low <= true_loss(1e9, 2e10) <= high
    assert min(hits.values()) >= 17, hits


def test_intervals_from_20_simulated_size_sweeps_contain_the_truth():
    N = np.repeat(np.geomspace(1e6, 1e9, 7), 3)
    hits = dict.fromkeys(("E", "A", "alpha"), 0)
    for seed in range(20):
        loss = (TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"]) * noise_of(len(N), seed)
        fitted = fit_size_law(N, loss, resamples=200, seed=seed).fitted
        assert fitted.keys() == hits.keys()
        for name in hits:
            hits[name] += fitted[name].low <= TRUTH[name] <= fitted[name].high
    assert min(hits.values()) >= 17, hits


def test_the_curve_is_close_to_the_true_loss_and_inside_its_band():
    N, D, loss = runs()
    curve = fit_loss_law(N, D, loss, resamples=300).curve
    assert curve.predict(N, D) == pytest.approx(true_loss(N, D), rel=6e-3)
    low, high = curve.band(N, D)
    assert ((low < curve.predict(N, D)) & (curve.predict(N, D) < high)).all()
    assert curve.band(np.array([[1e8], [1e9]]), [1e9, 1e10, 1e11]).shape == (2, 2, 3)


def test_the_same_seed_gives_the_same_intervals_and_diverged_runs_change_nothing():
    N, D, loss = runs(sizes=5, tokens=5)
    first = fit_loss_law(N, D, loss, resamples=50, seed=1)
    more = [np.append(x, extra) for x, extra in ((N, 1e8), (D, 1e9), (loss, np.nan))]
    assert fit_loss_law(*more, resamples=50, seed=1).fitted == first.fitted
    assert fit_loss_law(N, D, loss, resamples=50, seed=2).fitted != first.fitted


def test_with_one_number_of_tokens_the_size_term_is_estimable_and_the_floor_is_not():
    N, _, _ = runs()
    D = np.full(len(N), 1e10)
    law = fit_loss_law(N, D, true_loss(N, D) * noise_of(len(N), 0), resamples=200)
    for name in ("E", "B", "beta", "N_exponent"):
        assert law.fitted[name] == NotEstimable("1 value of D is too few (at least 4)")
    assert law.fitted["alpha"].value == pytest.approx(TRUTH["alpha"], abs=0.03)
    assert isinstance(law.fitted["A"], Estimate)
    assert law.curve is None


def test_with_two_sizes_the_token_term_is_estimable():
    N, D, loss = runs(sizes=2, tokens=15)
    fitted = fit_loss_law(N, D, loss, resamples=200).fitted
    for name in ("E", "A", "alpha"):
        assert fitted[name] == NotEstimable("2 values of N are too few (at least 4)")
    assert fitted["beta"].value == pytest.approx(TRUTH["beta"], abs=0.03)


def test_an_absent_term_is_not_estimable_in_ten_of_ten_sets_and_the_other_one_is():
    N, D, _ = runs()
    for seed in range(10):
        loss = (TRUTH["E"] + TRUTH["B"] / D ** TRUTH["beta"]) * noise_of(len(N), seed)
        fitted = fit_loss_law(N, D, loss, resamples=100, seed=seed).fitted
        assert isinstance(fitted["alpha"], NotEstimable)
        assert isinstance(fitted["E"], NotEstimable)
        assert isinstance(fitted["beta"], Estimate), fitted["beta"]


def test_an_absent_floor_is_not_estimable_and_everything_else_is():
    N, D, loss = runs(noise=0)
    for seed in range(1, 6):
        fitted = fit_loss_law(N, D, (loss - TRUTH["E"]) * noise_of(len(N), seed), resamples=200).fitted
        assert fitted["E"] == NotEstimable("E cannot be told from zero")
        assert fitted["alpha"].value == pytest.approx(TRUTH["alpha"], abs=0.01)


def test_a_logarithm_has_no_exponent():
    N, D, _ = runs()
    loss = (6 - 0.1 * np.log(N / 1e8) + TRUTH["B"] / D ** TRUTH["beta"]) * noise_of(len(N), 0)
    fitted = fit_loss_law(N, D, loss, resamples=200).fitted
    assert fitted["alpha"] == NotEstimable("alpha is not identified: its interval reaches 0.03 or 3")


def test_sizes_and_tokens_that_rise_together_are_not_estimable():
    N = np.geomspace(1e7, 1e10, 20)
    fitted = fit_loss_law(N, 20 * N, true_loss(N, 20 * N)).fitted
    assert len(set(fitted.values())) == 1
    assert "rise together" in fitted["alpha"].reason


def test_too_few_runs_and_too_few_sizes_are_not_estimable():
    N, D, loss = runs()
    assert fit_loss_law(N[:7], D[:7], loss[:7]).fitted["E"].reason.startswith("7 runs are too few for 5 parameters")
    assert fit_loss_law([], [], []).fitted.keys() == TRUTH.keys()
    three = fit_size_law(np.repeat([1e7, 1e8, 1e9], 5), np.repeat([4.0, 3.0, 2.5], 5)).fitted
    assert set(three.values()) == {NotEstimable("3 values of N are too few (at least 4)")}


def test_values_that_are_not_positive_are_an_error():
    N, D, loss = runs()
    with pytest.raises(ValueError, match="D must be positive"):
        fit_loss_law(N, D * 0, loss)
    with pytest.raises(ValueError, match="loss must be positive"):
        fit_loss_law(N, D, -loss)
