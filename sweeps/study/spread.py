"""The first trials of a study: points of a scrambled Sobol sequence over the full space.

A few points of such a sequence cover every field's range evenly, which as many random points rarely do. Choices are
dealt out so that each of them appears equally often.
"""

import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def spread_point(space: Mapping[str, BaseDistribution], seed: int, index: int, startup: int) -> dict[str, Any]:
    """Point `index` of the sequence that `seed` scrambles: a value for each field of the space, by name.

    Among the first `startup` points, any two choices of a field appear equally often, or one of them once more.
    Arms of a size have one seed, so that they begin with the same points.

    >>> space = {"optim.lr": FloatDistribution(1e-4, 1e-2), "model.d_model": CategoricalDistribution((64, 128))}
    >>> points = [spread_point(space, seed=0, index=index, startup=4) for index in range(4)]
    >>> sorted(point["model.d_model"] for point in points)
    [64, 64, 128, 128]
    """
    if not space:
        return {}
    points = _sobol(len(space), seed, 2 ** math.ceil(math.log2(max(startup, index + 1))))
    values = {}
    for column, (name, distribution) in enumerate(space.items()):
        place = points[index, column]
        if isinstance(distribution, CategoricalDistribution):
            order = np.random.default_rng([seed, column]).permutation(len(distribution.choices))
            if index < startup:
                # The rank among the startup points replaces the place itself, which is balanced only for powers of two.
                place = np.argsort(np.argsort(points[:startup, column]))[index] / startup
            values[name] = distribution.choices[order[int(place * len(order))]]
        else:
            values[name] = _value(distribution, float(place))
    return values


@lru_cache(maxsize=16)
def _sobol(dimensions: int, seed: int, count: int) -> NDArray[np.float64]:
    """The first `count` points, a power of two, as an array [count, dimensions] of numbers in [0, 1)."""
    from scipy.stats import qmc  # takes half a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points: NDArray[np.float64] = qmc.Sobol(dimensions, rng=np.random.default_rng(seed)).random(count)
    return points


def _value(distribution: BaseDistribution, place: float) -> float | int:
    """The value at a place in [0, 1) of a range."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, FloatDistribution) and step is None:
        if distribution.log:
            value = math.exp(math.log(low) * (1 - place) + math.log(high) * place)
        else:
            value = low * (1 - place) + high * place
        return min(max(value, low), high)
    if distribution.log:  # of integers: each has the share of the scale between its halfway marks
        value = math.exp(math.log(low - 0.5) * (1 - place) + math.log(high + 0.5) * place)
        return min(max(round(value), int(low)), int(high))
    return stepped_value(distribution, int(place * count_values(distribution)))


def count_values(distribution: FloatDistribution | IntDistribution) -> int:
    """Number of values of a range with steps.

    >>> count_values(FloatDistribution(0.8, 0.95, step=0.05))
    4
    """
    assert distribution.step is not None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def stepped_value(distribution: FloatDistribution | IntDistribution, place: int) -> float | int:
    """The value at a place, from 0, of a range with steps.

    >>> stepped_value(FloatDistribution(0.8, 0.95, step=0.05), 3)
    0.95
    """
    assert distribution.step is not None
    value = distribution.low + place * distribution.step
    # Rounded, because 0.8 + 3 * 0.05 is more than 0.95.
    return min(float(f"{value:.12g}"), distribution.high) if isinstance(value, float) else value
