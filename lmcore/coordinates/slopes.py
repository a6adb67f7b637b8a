"""The verdict of a coordinate check: how activations grow with the width, as slopes in a log-log plot. Without torch.

In a parametrization whose learning rate carries over from one width to another, no activation grows with the width at
initialization, and all of them change equally much in the first updates. A missing factor of muP shows as a slope of
about 1/2 or more. Small widths bend muP's own lines down, by 0.25 from 64 to 512.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

FLAT = 0.35
"""The steepest slope that counts as flat."""


class Coordinate(NamedTuple):
    """Mean absolute value of a kind of activation, and of its change since initialization."""

    width: int
    seed: int
    step: int  # updates made
    kind: str
    size: float
    change: float


class Slopes(NamedTuple):
    """d log(mean absolute value) / d log(width) of a kind of activation."""

    kind: str
    initial: float  # of its size before the first update
    change: float  # of its change by the last update

    @property
    def flat(self) -> bool:
        """Whether it does not grow at initialization, and changes equally much at every width."""
        return self.initial <= FLAT and abs(self.change) <= FLAT  # false for nan


def slopes(rows: Sequence[Coordinate]) -> list[Slopes]:
    """Slopes of each kind, through the means over seeds and all widths.

    nan where a value is 0 or not finite, as after a divergence: that is not flat.
    """
    last = max(row.step for row in rows)
    return [
        Slopes(
            kind,
            _slope((r for r in rows if r.kind == kind and r.step == 0), lambda row: row.size),
            _slope((r for r in rows if r.kind == kind and r.step == last), lambda row: row.change),
        )
        for kind in dict.fromkeys(row.kind for row in rows)
    ]


def means(rows: Iterable[Coordinate], value: Callable[[Coordinate], float]) -> dict[int, float]:
    """The mean of a value over seeds, by width."""
    by_width: dict[int, list[float]] = {}
    for row in rows:
        by_width.setdefault(row.width, []).append(value(row))
    return {width: statistics.fmean(values) for width, values in sorted(by_width.items())}


def _slope(rows: Iterable[Coordinate], value: Callable[[Coordinate], float]) -> float:
    found = means(rows, value)
    if not all(0 < v < math.inf for v in found.values()):
        return math.nan
    return statistics.linear_regression([math.log(w) for w in found], [math.log(v) for v in found.values()]).slope
