"""Which settings of a study were tried, so that none is trained twice.

All trials of a sweep have the same seeds unless those are searched. A setting that was tried before would therefore
have the same result once more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.study.spread import count_values, stepped_value

Key = tuple[float, ...]


class TriedSettings:
    """The settings of the trials of one study, by number of the trial.

    Args:
        space: what is searched. An entry with a single value tells no two settings apart.
        reserved: settings that waiting trials will have.

    Example:
        tried = TriedSettings({"model.d_model": CategoricalDistribution((64, 128))})
        tried.add(0, {"model.d_model": 64})
        {"model.d_model": 64} in tried  # True
        tried.another({"model.d_model": 64}, {}, seed=0)  # {"model.d_model": 128}
    """

    def __init__(self, space: Mapping[str, BaseDistribution], reserved: Iterable[Mapping[str, Any]] = ()) -> None:
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        counts = [_count(distribution) for distribution in self._space.values()]
        self._points = None if None in counts else math.prod(count for count in counts if count is not None)
        self._numbers: dict[Key, list[int]] = {}
        self._reserved = {self._key(values) for values in reserved}

    @property
    def exhausted(self) -> bool:
        """Whether every setting of the space was tried."""
        return self._points is not None and len(self._numbers) >= self._points

    def add(self, number: int, values: Mapping[str, Any]) -> None:
        """Note that a trial has this setting. One that lacks a field of the space is ignored."""
        if self._space.keys() <= values.keys():
            self._numbers.setdefault(self._key(values), []).append(number)

    def remove(self, number: int, values: Mapping[str, Any]) -> None:
        """Forget a trial, which failed."""
        numbers = self._numbers.get(self._key(values), [])
        if number in numbers:
            numbers.remove(number)
            if not numbers:
                del self._numbers[self._key(values)]

    def first(self, values: Mapping[str, Any], before: int) -> int | None:
        """Number of the first trial with this setting, if it is below `before`; otherwise None."""
        number = min(self._numbers.get(self._key(values), ()), default=before)
        return number if number < before else None

    def __contains__(self, values: Mapping[str, Any]) -> bool:
        key = self._key(values)
        return key in self._numbers or key in self._reserved

    def another(self, values: Mapping[str, Any], fixed: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """A setting that was not tried, with these `fixed` values; `values` themselves if there is none.

        In a space with a finite number of settings it is the next one after a random place.
        """
        rng = np.random.default_rng(seed)
        free = {name: distribution for name, distribution in self._space.items() if name not in fixed}
        counts = [_count(distribution) or 0 for distribution in free.values()]
        total = math.prod(counts)  # 0 if a field is continuous, and no two proposals are the same then
        start = int(rng.integers(total)) if 0 < total < 2**63 else 0
        for place in range(min(total, len(self._numbers) + len(self._reserved) + 1)):
            index, found = (start + place) % total, dict(values)
            for (name, distribution), count in zip(free.items(), counts, strict=True):
                index, digit = divmod(index, count)
                found[name] = _value(distribution, digit)
            if found not in self:
                return found
        return dict(values)

    def _key(self, values: Mapping[str, Any]) -> Key:
        return tuple(_cell(distribution, values[name]) for name, distribution in self._space.items())


def settings_in(space: Mapping[str, BaseDistribution], listed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the listed settings that give every field of the space a value."""
    return [values for values in listed if space.keys() <= values.keys()]


def _count(distribution: BaseDistribution) -> int | None:
    """Number of values; None for a range of floats without steps."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        return None
    return count_values(distribution)


def _cell(distribution: BaseDistribution, value: Any) -> float:
    """A number that two values share if they are the same value: the place among those that there are."""
    if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.step is not None:
        return float(round((value - distribution.low) / distribution.step))
    return float(distribution.to_internal_repr(value))


def _value(distribution: BaseDistribution, place: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[place]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return stepped_value(distribution, place)
