"""Settings of a study as points of the unit cube, in which optima are fitted and predicted.

A number has an axis: its place in its range, on the scale on which it is searched. A decay rate is measured by its
distance from 1. Choices of three numbers and more are an axis, too; any other choices are told apart, without an order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lmcore.measure.axis import DECAYS, Axis, Scale
from sweeps.study.spread import count_values, stepped_value

Array = NDArray[np.float64]

MIDDLE = 0.5
"""The place of an entry that does not apply in a trial."""


class Axes:
    """The numbers and the choices of a space.

    >>> axes = Axes({"optim.lr": FloatDistribution(1e-4, 1e-2, log=True), "model.ffn": CategoricalDistribution("ab")})
    >>> axes.point({"optim.lr": 1e-3, "model.ffn": "b"})
    (array([0.5]), array([0., 1.]))
    >>> axes.params(np.array([0.5]), np.array([0.1, -0.1]))
    {'optim.lr': 0.001, 'model.ffn': 'b'}
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._space = {name: one for name, one in space.items() if not one.single()}
        found = {name: _axis(name, one) for name, one in self._space.items()}
        self.numbers: tuple[Axis, ...] = tuple(axis for axis in found.values() if axis is not None)
        self.choices: tuple[tuple[str, Any], ...] = tuple(
            (name, choice)
            for name, one in self._space.items()
            if found[name] is None and isinstance(one, CategoricalDistribution)
            for choice in one.choices
        )
        """Name and value of each choice without an order."""

    def point(self, params: Mapping[str, Any]) -> tuple[Array, Array]:
        """The place of each number [P], and 1 for each choice [Q] that is taken."""
        places = [axis.place(params[axis.name]) if axis.name in params else MIDDLE for axis in self.numbers]
        taken = [float(name in params and _is(params[name], choice)) for name, choice in self.choices]
        return np.array(places), np.array(taken)

    def params(self, places: Array, effects: Array) -> dict[str, Any]:
        """The setting at a point [P], with the choices that add the least to the loss [Q]."""
        values = {axis.name: axis.value(float(u)) for axis, u in zip(self.numbers, places, strict=True)}
        best: dict[str, tuple[float, Any]] = {}
        for (name, choice), effect in zip(self.choices, effects, strict=True):
            if name not in best or effect < best[name][0]:
                best[name] = float(effect), choice
        values |= {name: choice for name, (_, choice) in best.items()}
        return {name: _nearest(name, one, values[name]) for name, one in self._space.items()}


def _axis(name: str, distribution: BaseDistribution) -> Axis | None:
    """The axis of a number; None for choices that have no order."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        scale: Scale = "log" if distribution.log else "decay" if name in DECAYS else "linear"
        return Axis(name, distribution.low, distribution.high, scale)
    assert isinstance(distribution, CategoricalDistribution)
    numbers: list[Any] = [choice for choice in distribution.choices if _is_number(choice)]
    if len(numbers) < 3 or len(numbers) < len(distribution.choices):
        return None
    return Axis.over(name, numbers)


def _nearest(name: str, distribution: BaseDistribution, value: Any) -> Any:
    """The value of the distribution that is nearest."""
    if isinstance(distribution, CategoricalDistribution):
        axis = _axis(name, distribution)
        if axis is None:
            return value
        numbers: tuple[Any, ...] = distribution.choices
        return min(numbers, key=lambda choice: abs(axis.place(choice) - axis.place(value)))
    if isinstance(distribution, IntDistribution) and distribution.log:
        return min(max(round(value), distribution.low), distribution.high)
    if isinstance(distribution, IntDistribution | FloatDistribution) and distribution.step is not None:
        place = round((value - distribution.low) / distribution.step)
        return stepped_value(distribution, min(max(place, 0), count_values(distribution) - 1))
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)
