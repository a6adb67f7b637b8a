"""The axis of a hyperparameter, by its kind: logarithmic, 1 - beta, a fraction from 0, whole numbers, or choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis
from analysis.figures.marks import whole_ticks
from analysis.figures.style import LEARNING_RATE
from analysis.stats.bootstrap import Array
from analysis.tables.formatting import number
from analysis.tables.searched import BATCH_PATH, MOST_CHOICES
from analysis.tables.trials import LR_PATH, TIED_PATH, TYING
from lmcore import columns as col

ONE_MINUS = ("beta1", "beta2", "muon_momentum")
FRACTIONS = ("warmup_fraction", "dropout", "min_lr_ratio")
WIDE = 20  # ratio of the largest to the smallest value from which on an axis is logarithmic, if nothing else is known
LABELS = {
    TIED_PATH: "embeddings",
    LR_PATH: LEARNING_RATE,
    BATCH_PATH: "batch size",
    f"{col.PARAMS_PREFIX}optim.warmup_fraction": "warm-up (fraction of the run)",
    f"{col.PARAMS_PREFIX}optim.weight_decay": "weight decay",
}
MARGIN = 0.06  # of the range, at both ends of an axis


@dataclass(frozen=True)
class Scale:
    """The result of `scale_of`."""

    values: Array
    """Where the trials are on the axis, [n]."""
    axis: Axis
    is_choice: bool = False
    """Whether the values are words, at 0, 1, ..."""

    @property
    def is_one_minus(self) -> bool:
        """Whether the axis shows 1 minus the hyperparameter."""
        return self.axis.label.startswith("1 - ")

    @property
    def unit(self) -> Array:
        """The values scaled to [0, 1] between the lowest and the highest, [n]; log values on a logarithmic axis."""
        at = np.log(self.values) if self.axis.log else self.values
        low, high = np.nanmin(at), np.nanmax(at)
        return np.asarray((at - low) / (high - low if high > low else 1.0))

    @property
    def ends(self) -> dict[float, str]:
        """Words for the ends of the axis scaled to [0, 1], or for each of a few choices."""
        low, high = float(np.nanmin(self.values)), float(np.nanmax(self.values))
        inside = {at: text for at, text in self.axis.ticks.items() if low <= at <= high}
        if 0 < len(inside) <= MOST_CHOICES and set(inside) == set(np.unique(self.values)):
            ends = np.log([low, high]) if self.axis.log else np.array([low, high])
            span = ends[1] - ends[0] or 1.0
            return {float(((np.log(at) if self.axis.log else at) - ends[0]) / span): t for at, t in inside.items()}
        return {0.0: f"{low:.3g}", 1.0: f"{high:.3g}"}


def scale_of(path: str, values: pd.Series, space: Mapping[str, Any] | None = None) -> Scale:
    """Places of the `values` of the column `path` and their axis; `space` is its entry in the sweep's search space.

    >>> scale_of("params.optim.beta2", pd.Series([0.9, 0.99]), {"choices": [0.9, 0.99]}).axis.label
    '1 - beta2'
    """
    name = path.removeprefix(col.PARAMS_PREFIX).partition(".")[2]
    label = LABELS.get(path, name)
    if not _is_numeric(values):
        return _choice_scale(path, values, label)
    numbers = values.astype("float64").to_numpy()
    few = np.unique(numbers[np.isfinite(numbers)])
    few = few if len(few) <= MOST_CHOICES and len(numbers) >= 2 * len(few) else np.array([])
    if name in ONE_MINUS and (numbers < 1).all():
        # 0.9, 0.99 and 0.999 are equally far apart in the memory that they give an optimizer.
        rest = np.round(1 - numbers, 12)
        return Scale(rest, _log_axis(f"1 - {name}", rest, np.round(1 - few, 12)))
    if (numbers > 0).all() and _is_log(path, numbers, space or {}):
        return Scale(numbers, _log_axis(label, numbers, few))
    span = float(np.ptp(numbers)) or 1.0
    low, high = float(numbers.min()) - MARGIN * span, float(numbers.max()) + MARGIN * span
    if name in FRACTIONS:
        low, high = 0.0, float(numbers.max()) * (1 + MARGIN) or 1.0
    ticks = {float(value): number(float(value)) for value in few}
    if not ticks and (numbers == np.round(numbers)).all():
        ticks = whole_ticks(float(numbers.min()), float(numbers.max()))
    return Scale(numbers, Axis(label, ticks=ticks, limits=(low, high)))


def _choice_scale(path: str, values: pd.Series, label: str) -> Scale:
    words = [TYING[bool(value)] if path == TIED_PATH else number(value) for value in values]
    names = sorted(dict.fromkeys(words))
    ticks = {float(place): name for place, name in enumerate(names)}
    places = np.array([names.index(word) for word in words], float)
    return Scale(places, Axis(label, ticks=ticks, limits=(-0.5, len(names) - 0.5)), is_choice=True)


def _log_axis(label: str, numbers: Array, few: Array) -> Axis:
    low, high = float(numbers.min()), float(numbers.max())
    margin = (high / low) ** MARGIN if high > low else 1.5
    return Axis(label, True, {float(v): number(float(v)) for v in sorted(few)}, (low / margin, high * margin))


def _is_log(path: str, numbers: Array, space: Mapping[str, Any]) -> bool:
    if path in (LR_PATH, BATCH_PATH) or space.get("log"):
        return True
    if "low" in space or path.rpartition(".")[2] in FRACTIONS:
        return False
    return bool(numbers.max() / numbers.min() > WIDE)


def _is_numeric(values: pd.Series) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.tolist())
