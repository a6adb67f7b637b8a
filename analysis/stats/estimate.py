"""An estimate with its 95 % interval, or the reason why the data support none. `report.json` is made of these.

Nothing is computed here: `analysis.stats.bootstrap` makes the intervals, and every fit decides what it can estimate.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmcore.notebook import html_card, html_lines, html_table


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

    def _repr_html_(self) -> str:
        return html_lines([f"{self.value:.4g} (95 % interval {self.low:.4g} to {self.high:.4g}, n = {self.n})"])

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

    def _repr_html_(self) -> str:
        return html_lines([f"not estimable: {self.reason}"])


Fitted = Estimate | NotEstimable
"""Fits return several of these as a flat dict by dotted path: `{"loss_nd.alpha": Estimate(...), ...}`."""


class ShowsFitted:
    """A result with a dict `fitted`, which is what a console and a notebook show of it: no arrays.

    Example:
        @dataclass(frozen=True, repr=False)
        class LossLaw(ShowsFitted):
            fitted: Mapping[str, Fitted]
    """

    fitted: Mapping[str, Fitted]

    def _shown(self) -> Mapping[str, Fitted]:
        """The numbers to show, by path."""
        return self.fitted

    def __repr__(self) -> str:
        shown = self._shown()
        known = {path: one for path, one in shown.items() if isinstance(one, Estimate)}
        numbers = [f"{path} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]" for path, one in known.items()]
        missing = f"{len(shown) - len(known)} not estimable"
        return f"<{type(self).__name__}: {'; '.join([*numbers, missing] if len(known) < len(shown) else numbers)}>"

    def _repr_html_(self) -> str:
        return html_card(type(self).__name__, html_fitted(self._shown()))


def html_fitted(fitted: Mapping[str, Fitted]) -> str:
    """Fitted numbers with their intervals as a table for a notebook, and below it why the others are not estimable."""
    known = {path: one for path, one in fitted.items() if isinstance(one, Estimate)}
    rows = [(path, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", str(one.n)) for path, one in known.items()]
    table = html_table(["number", "value", "95 % interval", "n"], rows, numeric=[1, 2, 3]) if rows else ""
    reasons: dict[str, list[str]] = {}
    for path, one in fitted.items():
        if isinstance(one, NotEstimable):
            reasons.setdefault(one.reason, []).append(path)
    return table + html_lines(f"not estimable: {', '.join(paths)} ({reason})" for reason, paths in reasons.items())


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
