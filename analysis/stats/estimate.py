"""A fitted number with its interval, or the reason why there is none. What `report.json` is made of.

Nothing is fitted here: `analysis.stats.bootstrap` makes the intervals, and each law its numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """What it rests on: trials, pairs, cells or sizes, as its owner says."""


@dataclass(frozen=True)
class NotEstimable:
    """The data cannot support a number."""

    reason: str
    """In one clause, lower case, without a full stop: `two sizes are too few for a power law (at least 3)`."""


Fitted = Estimate | NotEstimable
"""Of several fitted numbers, a flat dict by plain path: `{"loss_nd.alpha": Estimate(...), ...}`."""


def there_are(number: int, noun: str) -> str:
    """`1 value of D is`, `2 values of D are`: how a reason begins that counts."""
    first, *rest = noun.split(" ", 1)
    return " ".join([str(number), first if number == 1 else f"{first}s", *rest, "is" if number == 1 else "are"])


def as_json(fitted: Mapping[str, Fitted]) -> dict[str, dict[str, Any]]:
    """`{"value", "low", "high", "n"}` or `{"refused": reason}` by path."""
    return {
        path: {"refused": one.reason}
        if isinstance(one, NotEstimable)
        else {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
        for path, one in fitted.items()
    }
