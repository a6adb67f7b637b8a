"""`Axis`: the place of a number between the ends of its range, on the scale on which it matters.

Rates and sizes are measured by their logarithm, and decays such as beta2 by their distance from 1: 0.99 is to 0.999 as
0.9 is to 0.99.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

DECAYS = ("optim.beta1", "optim.beta2", "optim.muon_momentum")
"""Fields of which the distance from 1 matters."""
LOG_RATIO = 5.0
"""Positive numbers that span at least this ratio are measured by their logarithm."""


Scale = Literal["linear", "log", "decay"]


class Axis(NamedTuple):
    """One number, from 0 at `low` to 1 at `high`.

    >>> axis = Axis("optim.beta2", 0.9, 0.999, "decay")
    >>> round(axis.value(0.5), 6), round(axis.place(0.99), 6)
    (0.99, 0.5)
    """

    name: str
    """Dotted path of the field."""
    low: float
    high: float
    scale: Scale

    @classmethod
    def over(cls, name: str, values: Sequence[float]) -> "Axis":
        """From the smallest to the largest of several values, on the scale that suits them."""
        low, high = min(values), max(values)
        if name in DECAYS:
            return cls(name, low, high, "decay")
        return cls(name, low, high, "log" if low > 0 and high / low >= LOG_RATIO else "linear")

    def place(self, value: float) -> float:
        """Where a value lies."""
        start, end = self._measure(self.low), self._measure(self.high)
        return (self._measure(value) - start) / (end - start)

    def value(self, place: float) -> float:
        """The value at a place; those beyond the ends are moved there."""
        start, end = self._measure(self.low), self._measure(self.high)
        value = measure = start + (end - start) * place
        if self.scale != "linear":
            value = math.exp(measure) if self.scale == "log" else 1 - math.exp(-measure)
        return min(max(value, self.low), self.high)

    @property
    def span(self) -> float | None:
        """Its length in factors of e, on a logarithmic scale; None on another."""
        return math.log(self.high / self.low) if self.scale == "log" else None

    def _measure(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value)
        return -math.log(max(1 - value, 1e-12)) if self.scale == "decay" else float(value)
