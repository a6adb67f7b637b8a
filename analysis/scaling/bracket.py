"""The lowest of the values on a grid and its two neighbours, between which the optimum is if the loss has one minimum.

A bracket is no confidence interval: it says what was tried, not how much another seed would change. It is what a short
grid shows where `analysis.scaling.optimum` finds too few trials for a fit.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.tables.formatting import scientific


@dataclass(frozen=True)
class Bracket:
    """The lowest value and its neighbours.

    >>> bracket([1e-3, 2e-3, 4e-3, 8e-3], [4.4, 4.1, 4.0, 4.3]).sentence
    'the lowest of 4 rates is 4.0e-03; its neighbours are 2.0e-03 and 8.0e-03'
    """

    lowest: float
    below: float
    above: float
    values: int
    """How many different values finished."""
    vertex: float
    """Where the parabola in log value through the three has its minimum."""
    losses: tuple[float, float, float]
    """At below, lowest and above, each the mean of its trials."""

    @property
    def sentence(self) -> str:
        neighbours = f"{scientific(self.below)} and {scientific(self.above)}"
        return f"the lowest of {self.values} rates is {scientific(self.lowest)}; its neighbours are {neighbours}"

    def parabola(self, points: int = 60) -> tuple[np.ndarray, np.ndarray]:
        """Values [points] from one neighbour to the other, and losses [points] of the parabola through the three."""
        x = np.log([self.below, self.lowest, self.above])
        coefficients = np.polyfit(x - x[1], self.losses, 2)
        grid = np.linspace(x[0], x[2], points)
        return np.exp(grid), np.polyval(coefficients, grid - x[1])


def bracket(values: ArrayLike, loss: ArrayLike) -> Bracket | None:
    """The bracket of positive `values` [n] with `loss` [n]; None if the lowest loss is at an edge, or there is none.

    A value under several seeds counts with its mean. A value of which a trial diverged (its loss is not finite) bounds
    what finished, and is no neighbour.
    """
    tried, losses = np.asarray(values, float), np.asarray(loss, float)
    distinct = np.unique(tried)
    means = np.array([losses[tried == value].mean() for value in distinct])
    finished, means = distinct[np.isfinite(means)], means[np.isfinite(means)]
    if len(finished) < 3:
        return None
    best = int(means.argmin())
    if best in (0, len(finished) - 1):
        return None
    around = slice(best - 1, best + 2)
    x, y = np.log(finished[around]), means[around]
    square, slope, _ = np.polyfit(x - x[1], y, 2)
    vertex = math.exp(x[1] - slope / (2 * square)) if square > 0 else math.exp(x[1])
    below, lowest, above = (float(value) for value in finished[around])
    return Bracket(lowest, below, above, len(finished), vertex, (float(y[0]), float(y[1]), float(y[2])))
