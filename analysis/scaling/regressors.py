"""What all fits need to know about their regressors: valid logarithms, distinct values, and collinearity."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.bootstrap import Array

SAME = 0.01  # values of N or D within 1 % count as one, because token counts are rounded to whole steps
COLLINEAR = 0.05
"""Standard deviation of the part of log D that log N does not explain (5 %); below it, their effects are confounded."""


def log_of(name: str, values: ArrayLike) -> Array:
    """The logarithms of `values` [n].

    Raises ValueError if a value is not positive and finite.
    """
    numbers = np.asarray(values, float)
    valid = np.isfinite(numbers) & (numbers > 0)
    if not valid.all():
        raise ValueError(f"{name} must be positive and finite (got {numbers[~valid][0]:g}); leave such values out")
    return np.asarray(np.log(numbers))


def levels_of(logs: Array, width: float = SAME) -> NDArray[np.intp]:
    """The level [n] of each value, from 0 upwards: a level reaches from its smallest value to `width` above it.

    >>> levels_of(np.log([100, 1e3, 100.5, 1e4])).tolist()
    [0, 1, 0, 2]
    """
    levels = np.empty(len(logs), np.intp)
    level, start = -1, -np.inf
    for index in np.argsort(logs, kind="stable"):
        if logs[index] > start + width:
            level, start = level + 1, logs[index]
        levels[index] = level
    return levels


def count_levels(logs: Array) -> int:
    """How many values there are, counting values within 1 % of each other once (SAME)."""
    return int(levels_of(logs).max(initial=-1)) + 1


def indistinguishable(first: Array, second: Array) -> bool:
    """Whether two centred logs [n] are so collinear that their effects cannot be separated (COLLINEAR)."""
    slope = first @ second / (first @ first)
    return bool(np.std(second - slope * first) < COLLINEAR)
