"""Which settings of a study were tried, so that none is trained twice.

All trials of a sweep have the same seeds unless those are searched. A setting that was tried before would therefore
have the same result once more.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.spec.space import Layout
from sweeps.study.spread import count_values, stepped_value

Key = tuple[float | None, ...]
"""None stands for an entry that does not apply."""


MAX_COUNTED = 10_000
"""Most combinations of values of a space with conditions for which the settings among them are counted."""


class TriedSettings:
    """The settings of the trials of one study, by number of the trial.

    Two trials have one setting if they have the same entries with the same values.

    Args:
        space: what is searched. An entry with a single value tells no two settings apart.
        reserved: settings that waiting trials will have.
        layout: of the space, if some of its entries apply in some trials only.

    Example:
        tried = TriedSettings({"model.d_model": CategoricalDistribution((64, 128))})
        tried.add(0, {"model.d_model": 64})
        {"model.d_model": 64} in tried  # True
        tried.another({"model.d_model": 64}, {}, seed=0)  # {"model.d_model": 128}
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        reserved: Iterable[Mapping[str, Any]] = (),
        layout: Layout | None = None,
    ) -> None:
        self._layout = layout if layout is not None and layout.conditional else None
        names = space if self._layout is None else (*self._layout.searched, *self._layout.conditional)
        self._space = {name: space[name] for name in names if not space[name].single()}
        self._single = {name: _value(space[name], 0) for name in names if space[name].single()}
        self._numbers: dict[Key, list[int]] = {}
        self._reserved = {self._key(values) for values in reserved}

    @cached_property
    def _points(self) -> int | None:
        """Number of settings of the space; None if there is no end of them, or if they are too many to count."""
        counts = [_count(distribution) for distribution in self._space.values()]
        if None in counts:
            return None
        total = math.prod(count for count in counts if count is not None)
        if self._layout is None:
            return total
        return (
            len({self._key(self._at(place, self._space)) for place in range(total)}) if total <= MAX_COUNTED else None
        )

    @property
    def exhausted(self) -> bool:
        """Whether every setting of the space was tried, as far as they could be counted."""
        return self._points is not None and len(self._numbers) >= self._points

    def add(self, number: int, values: Mapping[str, Any]) -> None:
        """Note that a trial has this setting. One that lacks a field of the space is ignored."""
        if self._is_setting(values):
            self._numbers.setdefault(self._key(values), []).append(number)

    def remove(self, number: int, values: Mapping[str, Any]) -> None:
        """Forget a trial, which failed."""
        key = self._key(values) if self._is_setting(values) else None
        numbers = self._numbers.get(key, []) if key is not None else []
        if key is not None and number in numbers:
            numbers.remove(number)
            if not numbers:
                del self._numbers[key]

    def first(self, values: Mapping[str, Any], before: int) -> int | None:
        """Number of the first trial with this setting, if it is below `before`; otherwise None."""
        if not self._is_setting(values):
            return None
        number = min(self._numbers.get(self._key(values), ()), default=before)
        return number if number < before else None

    def __contains__(self, values: Mapping[str, Any]) -> bool:
        key = self._key(values)
        return key in self._numbers or key in self._reserved

    def another(self, values: Mapping[str, Any], fixed: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """A setting that was not tried, with these `fixed` values; `values` themselves if none is found.

        It is the next one after a random place, among the combinations of the fields with finitely many values. Other
        fields keep their values.
        """
        rng = np.random.default_rng(seed)
        free = {name: one for name, one in self._space.items() if name not in fixed and _count(one) is not None}
        total = math.prod(_count(distribution) or 0 for distribution in free.values())
        start = int(rng.integers(total)) if total < 2**63 else 0
        steps = len(self._numbers) + len(self._reserved) + 1
        # Where entries do not apply, several combinations are one setting.
        for place in range(min(total, steps if self._layout is None else max(steps, MAX_COUNTED))):
            found = {**values, **self._at((start + place) % total, free)}
            if found not in self:
                return found
        return dict(values)

    @staticmethod
    def _at(place: int, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """The combination of values at a place, of which the first entry varies fastest."""
        found = {}
        for name, distribution in space.items():
            place, digit = divmod(place, _count(distribution) or 1)
            found[name] = _value(distribution, digit)
        return found

    def _is_setting(self, values: Mapping[str, Any]) -> bool:
        """Whether there is a value for everything that a trial with these values has."""
        if self._layout is not None:
            return self._layout.complete({**self._single, **values})
        return self._space.keys() <= values.keys()

    def _key(self, values: Mapping[str, Any]) -> Key:
        if self._layout is not None:
            values = self._layout.applicable({**self._single, **values})
        return tuple(
            _cell(distribution, values[name]) if self._layout is None or name in values else None
            for name, distribution in self._space.items()
        )


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
    return distribution.low if distribution.single() else stepped_value(distribution, place)
