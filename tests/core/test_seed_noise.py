"""The noise between seeds, against textbook formulas and a simulation."""

import numpy as np
import pytest
from scipy import stats

from lmcore.measure.seed_noise import SeedNoise, paired_difference, seed_noise


def test_of_two_settings_it_is_the_paired_t():
    generator = np.random.default_rng(0)
    losses = generator.normal(4, 0.1, (2, 6))
    noise = seed_noise(losses)
    gaps = losses[1] - losses[0]
    assert noise.df == 5
    assert np.sqrt(2) * noise.sd == pytest.approx(gaps.std(ddof=1), rel=1e-12)
    mean, error, n = paired_difference(*losses, noise)
    assert (mean, n) == (pytest.approx(gaps.mean()), 6)
    assert error == pytest.approx(stats.sem(gaps), rel=1e-12)


def test_what_a_seed_does_to_all_settings_is_not_noise():
    generator = np.random.default_rng(1)
    losses = generator.normal(0, 0.02, (40, 5)) + generator.normal(4, 1, (40, 1)) + generator.normal(0, 1, (1, 5))
    noise = seed_noise(losses)
    assert noise.df == 39 * 4
    assert noise.sd == pytest.approx(0.02, rel=0.15)


def test_cells_that_were_not_trained_are_left_out():
    generator = np.random.default_rng(2)
    losses = generator.normal(4, 0.1, (4, 3))
    losses[3, 1:] = np.nan
    losses[2, 2] = np.inf  # diverged
    assert seed_noise(losses).df == 9 - (4 + 3 - 1)
    alone = losses.copy()
    alone[3, 0] += 5.0  # a setting with one seed says nothing about the noise
    assert seed_noise(alone).sd == pytest.approx(seed_noise(losses).sd, rel=1e-9)


@pytest.mark.parametrize(
    "losses", [np.empty((0, 3)), np.full((2, 3), np.nan), np.array([[4.0, 4.1]]), np.array([[4.0], [5.0]])]
)
def test_without_degrees_of_freedom_it_is_unknown(losses):
    noise = seed_noise(losses)
    assert noise.df == 0
    assert np.isnan(noise.sd)


def test_settings_without_a_common_seed_have_no_difference():
    mean, _, n = paired_difference(np.array([4.0, np.nan]), np.array([np.nan, 4.0]), SeedNoise(0.1, 3))
    assert np.isnan(mean)
    assert n == 0
