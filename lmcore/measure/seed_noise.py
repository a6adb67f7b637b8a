"""How much the loss changes with the seed: the additive model of settings and seeds that races and verdicts use.

Settings that are trained under the same seeds share most of what a seed does (initial weights, order of the data), so
their differences vary less than their losses. `seed_noise` estimates what is left when both the mean of each setting
and the mean of each seed are taken out: loss[c, s] = setting[c] + seed[s] + noise. Imports numpy alone, because both
the sweep and its analysis need it.

Shapes: C settings, S seeds.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class SeedNoise(NamedTuple):
    """Standard deviation of the noise, in nats per token, and its degrees of freedom; NaN with none."""

    sd: float
    df: int


def seed_noise(losses: Array) -> SeedNoise:
    """The noise of losses [C, S]; cells that are not finite were not trained, and are left out.

    With two settings, `sqrt(2) * sd` is the standard deviation of their paired differences, and df that of a paired t.

    >>> seed_noise(np.array([[4.0, 4.1, 4.2], [4.5, 4.6, 4.7]])).df
    2
    """
    setting, seed = np.nonzero(np.isfinite(losses))
    settings = losses.shape[0]
    counts = np.bincount(setting, minlength=settings)

    # The means of settings are swept out first (Frisch and Waugh 1933), which leaves a column per seed to fit: with one
    # per setting as well, a large grid would take minutes.
    def centred(values: Array) -> Array:
        return np.asarray(values - (np.bincount(setting, values, settings) / np.maximum(counts, 1))[setting])

    y = centred(losses[setting, seed])
    design = np.stack([centred((seed == s).astype(np.float64)) for s in range(losses.shape[1])], axis=1)
    coefficients, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    df = len(y) - int(np.count_nonzero(counts)) - int(rank)
    if df < 1:
        return SeedNoise(math.nan, 0)
    residuals = y - design @ coefficients
    return SeedNoise(math.sqrt(float(residuals @ residuals) / df), df)


def paired_difference(a: Array, b: Array, noise: SeedNoise) -> tuple[float, float, int]:
    """Mean of b - a [S] over the seeds that both have, its standard error under `noise`, and the number of seeds.

    >>> paired_difference(np.array([4.0, 4.1]), np.array([4.5, 4.6]), SeedNoise(0.01, 4))
    (0.5, 0.01, 2)
    """
    gaps = (b - a)[np.isfinite(a) & np.isfinite(b)]
    n = len(gaps)
    return (float(gaps.mean()), noise.sd * math.sqrt(2 / n), n) if n else (math.nan, math.nan, 0)
