"""The law of optima: recovers a known one, covers it, and says so where it knows nothing."""

import numpy as np

from lmcore.measure.optimum_law import Cell, Slopes, fit_optimum_law

BOWL = np.array([[3.0, 0.8], [0.8, 2.0]])
MIDDLE, MOVES = np.array([0.6, 0.4]), np.array([[-0.08, 0.03], [0.02, 0.07]])
SIZES = [np.log([n, 20 * n * (1 + k % 3)]) for k, n in enumerate(np.geomspace(1e5, 1e7, 6))]
CENTER = np.mean(SIZES, axis=0)


def optimum(size):
    return MIDDLE + MOVES @ (size - CENTER)


def cell(rng, size, n=20, noise=0.003, deviation=0.0):
    at = optimum(size) + deviation * rng.standard_normal(2)
    settings = rng.random((n, 2))
    excess = 0.5 * np.einsum("ni,ij,nj->n", settings - at, BOWL, settings - at)
    losses = 3.5 * np.exp(size[0] * -0.05 + excess + noise * rng.standard_normal(n))
    return Cell(size, settings, np.zeros((n, 0)), losses)


def test_a_known_law_is_recovered_and_predicts_a_size_beyond_those_known():
    rng = np.random.default_rng(0)
    law = fit_optimum_law([cell(rng, size, n=60) for size in SIZES[:5]])
    assert np.abs(law.predict(SIZES[5]).value - optimum(SIZES[5])).max() < 0.03
    assert np.abs(law.slopes().mean(axis=0) - MOVES).max() < 0.02
    assert np.abs(law.curvature().mean(axis=0) - BOWL).max() < 0.5
    assert np.abs(law.optimum(2, SIZES[2]).value - optimum(SIZES[2])).max() < 0.02


def test_the_best_guess_has_the_lowest_expected_loss():
    rng = np.random.default_rng(7)
    law = fit_optimum_law([cell(rng, size, n=6, noise=0.05) for size in SIZES[:2]])
    guess, bowls = law.predict(SIZES[2]), law.curvature()
    expected = [
        np.einsum("ri,rij,rj->r", place - guess.draws, bowls, place - guess.draws).mean()
        for place in (guess.value, *(guess.value + 0.02 * rng.standard_normal((50, 2))))
    ]
    assert np.argmin(expected) == 0


def test_one_good_trial_at_the_ends_of_the_ranges_does_not_put_the_next_guess_there():
    """Two sizes: the larger one has a single trial near its optimum, at an end of both settings' ranges."""
    lrs, betas = [0.53, 0.45, 0.36, 0.63, 0.74, 0.85], [0.1, 0.3, 0.11, 0.6, 0.02, 0.38]
    first = Cell(
        SIZES[0], np.column_stack([lrs, betas]), np.zeros((6, 0)), np.array([3.70, 3.77, 4.08, 4.22, 4.27, 4.29])
    )
    lrs, betas = [0.3, 0.64, 0.63, 0.71], [1.0, 0.21, 0.61, 0.5]
    second = Cell(SIZES[1], np.column_stack([lrs, betas]), np.zeros((4, 0)), np.array([3.42, 3.92, 3.99, 4.15]))
    guess = fit_optimum_law([first, second]).predict(SIZES[2])
    assert ((guess.value > 0.05) & (guess.value < 0.95)).all()


def test_intervals_cover_the_optimum_of_a_new_size_as_often_as_they_say():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cells = [cell(rng, size, deviation=0.02) for size in SIZES[:4]]
        low, high = fit_optimum_law(cells, seed=seed).predict(SIZES[4]).interval()
        covered.append((low <= optimum(SIZES[4])) & (optimum(SIZES[4]) <= high))
    assert np.mean(covered) >= 0.9  # of 120, with a standard error of 0.02


def test_intervals_are_wider_where_sizes_deviate_from_the_law():
    def width(deviation):
        rng = np.random.default_rng(1)
        low, high = fit_optimum_law([cell(rng, s, 40, deviation=deviation) for s in SIZES]).predict(SIZES[5]).interval()
        return (high - low).mean()

    assert width(0.1) > 1.5 * width(0.0)


def test_from_one_size_optima_move_as_the_prior_says():
    cells = [cell(np.random.default_rng(2), SIZES[0], n=60)]
    slopes = Slopes(np.array([[-0.1, 0.0], [0.0, 0.05]]), np.full((2, 2), 0.02))
    law = fit_optimum_law(cells, slopes)
    moved = law.predict(SIZES[0] + np.array([1.0, 2.0])).value - law.predict(SIZES[0]).value
    assert np.allclose(moved, [-0.1, 0.1], atol=0.01)
    low, high = law.predict(SIZES[0]).interval()
    later_low, later_high = law.predict(SIZES[0] + np.array([3.0, 3.0])).interval()
    assert ((later_high - later_low) > (high - low)).all()


def test_losses_that_say_nothing_leave_the_optimum_anywhere():
    rng = np.random.default_rng(3)
    told = [cell(rng, size, n=40) for size in SIZES[:5]]
    widths = []
    for cells in (told, [one._replace(losses=rng.permutation(one.losses)) for one in told]):
        low, high = fit_optimum_law(cells).predict(SIZES[5]).interval()
        widths.append(high - low)
    assert (widths[0] < 0.3).all()
    assert (widths[1] > 0.6).all()


def test_choices_have_the_effects_that_they_have():
    rng = np.random.default_rng(4)
    cells = []
    for size in SIZES[:3]:
        one = cell(rng, size, n=40)
        second = rng.integers(2, size=40)
        losses = one.losses * np.exp(0.05 * second)
        cells.append(Cell(size, one.settings, np.eye(2)[second], losses))
    law = fit_optimum_law(cells)
    for effects in (law.effects(), law.effects(0)):
        assert np.isclose((effects[:, 1] - effects[:, 0]).mean(), 0.05, atol=0.01)
    assert ((effects[:, 1] - effects[:, 0]) > 0).mean() > 0.99


def test_a_cell_in_which_another_choice_is_better_has_an_effect_of_its_own():
    rng = np.random.default_rng(6)
    cells = []
    for number, size in enumerate(SIZES[:4]):
        one, second = cell(rng, size, n=20), rng.integers(2, size=20)
        sign = -1 if number == 3 else 1
        cells.append(Cell(size, one.settings, np.eye(2)[second], one.losses * np.exp(0.03 * sign * second)))
    law = fit_optimum_law(cells)
    gaps = [(law.effects(c)[:, 1] - law.effects(c)[:, 0]).mean() for c in range(4)]
    assert [gap > 0 for gap in gaps] == [True, True, True, False]


def test_a_setting_that_hardly_matters_may_have_its_optimum_anywhere():
    covered, widths = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cells = []
        for size in SIZES[:3]:
            settings = rng.random((16, 2))
            losses = 3 * np.exp(1.5 * (settings[:, 0] - 0.5) ** 2 + 0.01 * (settings[:, 1] - 0.8) ** 2)
            losses = losses * np.exp(0.003 * rng.standard_normal(16))
            cells.append(Cell(size, settings, np.zeros((16, 0)), losses))
        low, high = fit_optimum_law(cells, seed=seed).predict(SIZES[3]).interval()
        covered.append(low[1] <= 0.8 <= high[1])
        widths.append(high[1] - low[1])
    assert np.mean(covered) >= 0.9
    assert np.median(widths) > 0.5


def test_the_same_trials_give_the_same_law():
    cells = [cell(np.random.default_rng(5), size) for size in SIZES[:3]]
    assert np.array_equal(fit_optimum_law(cells).coefficients, fit_optimum_law(cells).coefficients)
