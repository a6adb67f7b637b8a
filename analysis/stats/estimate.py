"""An estimate with its 95 % interval, or the reason why the data support none. `report.json` is made of these.

Nothing is computed here: `analysis.stats.bootstrap` makes the intervals, and every fit decides what it can estimate.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    >>> Estimate(value=0.34, low=0.31, high=0.37, n=49)
    Estimate(value=0.34, low=0.31, high=0.37, n=49)
    """

    value: float
    low: float
    high: float
    n: int  # number of observations: runs, trials, pairs, cells or budgets, as the function that made it says

    @property
    def complement(self) -> "Estimate":
        """1 minus this number: the other exponent of two that sum to 1."""
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low, self.n)


@dataclass(frozen=True)
class NotEstimable:
    """The data do not support this number.

    >>> NotEstimable("2 values of N are too few (at least 4)")
    NotEstimable(reason='2 values of N are too few (at least 4)')
    """

    reason: str  # one clause in lower case, without a full stop


Fitted = Estimate | NotEstimable
"""Fits return several of these as a flat dict by dotted path: `{"loss_nd.alpha": Estimate(...), ...}`."""


def too_few(number: int, noun: str, least: int, purpose: str = "") -> NotEstimable:
    """The most common reason, with the grammar of one and many.

    >>> too_few(1, "value of D", 3, " for an exponent").reason
    '1 value of D is too few for an exponent (at least 3)'
    >>> too_few(2, "cell", 4).reason
    '2 cells are too few (at least 4)'
    """
    first, *rest = noun.split(" ", 1)
    subject = " ".join([str(number), first if number == 1 else f"{first}s", *rest])
    return NotEstimable(f"{subject} {'is' if number == 1 else 'are'} too few{purpose} (at least {least})")


def as_cells(fitted: Fitted, n: int = 0) -> tuple[float, float, float, int, str | None]:
    """The cells value, low, high, n and refused (the reason) of a table's row; `n` is used where nothing is estimated.

    >>> as_cells(Estimate(0.5, 0.4, 0.6, 12))
    (0.5, 0.4, 0.6, 12, None)
    """
    if isinstance(fitted, NotEstimable):
        return math.nan, math.nan, math.nan, n, fitted.reason
    return fitted.value, fitted.low, fitted.high, fitted.n, None


def as_json(fitted: Mapping[str, Fitted]) -> dict[str, dict[str, Any]]:
    """`{"value", "low", "high", "n"}` or `{"refused": reason}` for each path, as in report.json."""
    return {
        path: {"refused": one.reason} if isinstance(one, NotEstimable) else asdict(one) for path, one in fitted.items()
    }
