"""Settings as points of the unit cube, in which a surrogate measures how far two of them are apart."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweeps.recorded.recorded_runs import Array

DECAYS = ("optim.beta1", "optim.beta2", "optim.muon_momentum")
"""Fields of which the distance from 1 matters: 0.99 is to 0.999 as 0.9 is to 0.99."""
LOG_RATIO, LOG_MEDIAN = 5.0, 0.3
"""A field is measured on a logarithmic scale if its recorded values, all positive, span at least this ratio and half of
them lie in the lowest part of their range, as half of the values that are log-uniform over a decade do."""


class Coordinates:
    """Maps settings to points: a number to its place among the recorded ones, anything else to one axis per value.

    >>> coordinates = Coordinates([{"optim.lr": lr} for lr in (1e-4, 2e-4, 1e-2)], ["optim.lr"])
    >>> coordinates.of({"optim.lr": 1e-3}).round(3)
    array([0.5])
    """

    def __init__(self, settings: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> None:
        """Fields with one recorded value have no axis."""
        self.ranges: dict[str, tuple[float, float]] = {}
        """Smallest and largest recorded number by path."""
        self.levels: dict[str, tuple[Any, ...]] = {}
        """The recorded values by path, of fields that are not numbers."""
        self._log: dict[str, bool] = {}
        for path in paths:
            values = list(dict.fromkeys(setting[path] for setting in settings))
            if len(values) < 2:
                continue
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                self.ranges[path] = min(values), max(values)
                self._log[path] = path not in DECAYS and _is_logarithmic(values)
            else:
                self.levels[path] = tuple(values)

    def of(self, setting: Mapping[str, Any]) -> Array:
        """The point of a setting, [d]. ValueError if a value that is not a number was never recorded."""
        point = [self.scaled(path, setting[path]) for path in self.ranges]
        for path, values in self.levels.items():
            at = values.index(setting[path])
            point += [float(i == at) for i in range(len(values))]
        return np.array(point)

    def scaled(self, path: str, value: float) -> float:
        """The place of a number on its axis: 0 for the smallest recorded one, 1 for the largest."""
        start, end = (self._measured(path, bound) for bound in self.ranges[path])
        return (self._measured(path, value) - start) / (end - start)

    def _measured(self, path: str, value: float) -> float:
        if path in DECAYS:
            return -math.log(max(1 - value, 1e-12))
        # A value far below all recorded ones, such as 0, is as far as a thousandth of the lowest.
        return math.log(max(value, self.ranges[path][0] / 1000)) if self._log[path] else float(value)


def _is_logarithmic(values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    return low > 0 and high / low >= LOG_RATIO and statistics.median(values) < low + LOG_MEDIAN * (high - low)
