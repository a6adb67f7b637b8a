"""Whether a law of optima would have predicted the largest size: predicted from the sizes below it, and what was found.

What was found follows from the trials of that size, wherever the law is: sizes share the shape of the response, as five
trials do not show it, but the place of its minimum is free in each. The same response says what the predicted setting
would have cost: how far its loss is above the lowest. A prediction that the sweep recorded before the size was trained
is checked in the same way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.scaling.ladder import Ladder, LadderSize, ladder_of
from analysis.scaling.optimum_law import NO_FIELD, LadderLaw, estimate_of, fit_ladder
from analysis.stats.bootstrap import Array, tail
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, ShowsFitted, as_cells

HELD_OUT, RECORDED = "held out", "recorded"
FREE = (0.5,)
"""Standard deviation of optima from the law, in shares of the values tried, with which they do not follow it."""
LEAST = 2
"""Sizes below the largest from which its optimum is predicted."""


@dataclass(frozen=True)
class Prediction:
    """A predicted optimum of one setting, and the optimum that was found."""

    setting: str
    predicted: Fitted
    found: Fitted

    @property
    def inside(self) -> bool | None:
        """Whether what was found is in the interval of the prediction; None if either is not estimable."""
        if isinstance(self.predicted, NotEstimable) or isinstance(self.found, NotEstimable):
            return None
        return self.predicted.low <= self.found.value <= self.predicted.high


@dataclass(frozen=True, repr=False)
class HeldOut(ShowsFitted):
    """The result of `held_out`.

    >>> check = analysis.held_out(analysis.load("runs/ladder").trials)
    >>> check.size, check.fitted["lr.predicted"], check.fitted["lr.found"], check.fitted["excess"]
    """

    source: str
    """HELD_OUT, or RECORDED by the sweep before the size was trained."""
    size: str
    predictions: tuple[Prediction, ...]
    excess: Fitted
    """How far the loss at the predicted setting is above the lowest, as a share of it; `n` counts the size's trials."""
    loss: float
    """The lowest loss of the size, nats per token."""

    @property
    def excess_nats(self) -> Fitted:
        """The same in nats per token."""
        one = self.excess
        if isinstance(one, NotEstimable):
            return one
        return Estimate(one.value * self.loss, one.low * self.loss, one.high * self.loss, one.n)

    @cached_property
    def fitted(self) -> Mapping[str, Fitted]:  # type: ignore[override]
        """`<setting>.predicted`, `<setting>.found`, `excess` and `excess_nats`."""
        found: dict[str, Fitted] = {}
        for one in self.predictions:
            found |= {f"{one.setting}.predicted": one.predicted, f"{one.setting}.found": one.found}
        return {**found, "excess": self.excess, "excess_nats": self.excess_nats}

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per setting. Columns: source, size, setting, predicted, predicted_low, predicted_high, found,
        found_low, found_high, inside (True, False, or missing), excess, excess_low, excess_high, excess_nats (of the
        whole setting, the same in all rows), refused (why a number is not estimable, else missing)."""
        rows = []
        for one in self.predictions:
            predicted, found, excess = as_cells(one.predicted), as_cells(one.found), as_cells(self.excess)
            reasons = [f"{what}: {why}" for what, why in (("predicted", predicted[4]), ("found", found[4])) if why]
            cells = (*predicted[:3], *found[:3], one.inside, *excess[:3], as_cells(self.excess_nats)[0])
            rows.append((self.source, self.size, one.setting, *cells, "; ".join(reasons) or None))
        names = [f"{what}{end}" for what in ("predicted", "found") for end in ("", "_low", "_high")]
        excess_names = ["excess", "excess_low", "excess_high", "excess_nats"]
        columns = ["source", "size", "setting", *names, "inside", *excess_names, "refused"]
        return pd.DataFrame(rows, columns=columns)


def held_out(
    trials: pd.DataFrame, arm: str | None = None, seed: int = 0, rows: pd.DataFrame | None = None
) -> HeldOut | NotEstimable:
    """The check of an arm, by default the first, from the trials of `analysis.load`: the law is fitted without the
    largest size, and predicts it.

    >>> analysis.held_out(analysis.load("runs/ladder").trials).table[["setting", "predicted", "found", "inside"]]

    NotEstimable if fewer than three sizes have three trials, or no numeric field was searched in all of them.
    """
    return hold_out(ladder_of(trials, arm, rows), seed)


def hold_out(ladder: Ladder, seed: int = 0) -> HeldOut | NotEstimable:
    """`held_out` of a ladder."""
    if (refused := _refused(ladder)) is not None:
        return refused
    largest = ladder.sizes[-1]
    law = fit_ladder(ladder.without_largest(), seed, LEAST)
    if law.law is None:
        return law.refused or NotEstimable("there is no law")
    own = _free(ladder, seed)
    places = np.median(law.law.predict(largest.logs).draws, axis=0)
    return _checked(HELD_OUT, largest, own, law.predict(largest.N, largest.D), places)


def check_recorded(ladder: Ladder, recorded: Mapping[str, Any], seed: int = 0) -> HeldOut | NotEstimable:
    """The check of what the sweep predicted of the largest size before it was trained: the study's attribute
    `transfer`, with `predicted`, `low` and `high` by path, and `trials`, from how many."""
    if (refused := _refused(ladder)) is not None:
        return refused
    predicted: dict[str, Fitted] = {}
    parts = [recorded.get(name) for name in ("predicted", "low", "high")]
    values, lows, highs = (part if isinstance(part, dict) else {} for part in parts)
    for name, axis in zip(ladder.names, ladder.axes, strict=True):
        numbers = [part.get(axis.name) for part in (values, lows, highs)]
        known = [float(one) for one in numbers if isinstance(one, (int, float)) and math.isfinite(one)]
        if len(known) < len(numbers):
            return NotEstimable("the sweep recorded no such prediction")
        predicted[name] = Estimate(known[0], known[1], known[2], int(recorded.get("trials") or 0))
    places = np.array([axis.place(values[axis.name]) for axis in ladder.axes])
    largest = ladder.sizes[-1]
    return _checked(RECORDED, largest, _free(ladder, seed), predicted, places)


def _refused(ladder: Ladder) -> NotEstimable | None:
    """Why there is nothing to check."""
    return ladder.refused or (None if ladder.axes else NO_FIELD)


def _free(ladder: Ladder, seed: int) -> LadderLaw:
    """The responses of all sizes, each with a minimum of its own."""
    return fit_ladder(ladder, seed, deviations=FREE)


def _checked(source: str, size: LadderSize, own: LadderLaw, predicted: Mapping[str, Fitted], places: Array) -> HeldOut:
    found = own.optimum(size)
    pairs = tuple(Prediction(name, one, found[name]) for name, one in predicted.items())
    return HeldOut(source, size.name, pairs, _excess(own, size, places), float(size.losses.min()))


def _excess(own: LadderLaw, size: LadderSize, places: Array) -> Fitted:
    """Loss at a point over the lowest, minus 1, from the response of the size."""
    if own.law is None:
        return own.refused or NotEstimable("there is no response")
    if all(flat > tail() for flat in own.law.flat):
        return NotEstimable("the trials do not show how the loss rises from its minimum")
    cell = own.ladder.sizes.index(size)
    return estimate_of(np.expm1(own.law.excess(cell, size.logs, places)), len(size.losses))
