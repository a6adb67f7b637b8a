"""How the end of a trial is marked, and what the mouse shows of it: the same in every figure."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures.chart import Layer, Look
from analysis.figures.colours import GREY, RED
from analysis.tables.formatting import count, loss, scientific
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

ENDS = {
    col.PRUNED: Look(GREY, "|", 6),
    col.RUNNING: Look(GREY, ">", 4),
    col.PAUSED: Look(GREY, "_", 6),
    col.DIVERGED: Look(RED, "x", 5),
    col.FAILED: Look(GREY, "+", 5),
}
"""Marks of trials that were not trained to their end, by status."""
WORDS = {col.PRUNED: "stopped early", col.RUNNING: "running", col.PAUSED: "paused", col.DIVERGED: "diverged"}
MANY = 120  # points of a panel
MARGIN = 0.08  # of the range of losses, below the lowest, and above the highest, where diverged trials are drawn


def hovers(trials: pd.DataFrame) -> list[str]:
    """What the mouse shows of each trial: its id, status, loss and learning rate."""
    rates = trials.get(LR_PATH, pd.Series(float("nan"), trials.index))
    return [
        f"{trial} ({status})\nloss {loss(value)}, peak lr {scientific(rate)}"
        for trial, status, value, rate in zip(
            trials[col.TRIAL], trials[col.STATUS], trials[col.LOSS], rates, strict=True
        )
    ]


def loss_limits(losses: pd.Series) -> tuple[float, float]:
    """The range of finite losses with a margin, so that diverged trials are drawn above all others."""
    finite = losses[losses.abs() < float("inf")].dropna()
    if finite.empty:
        return 0.0, 1.0
    span = float(finite.max() - finite.min()) or 1.0
    return float(finite.min()) - MARGIN * span, float(finite.max()) + MARGIN * span


def diverged_layers(diverged: pd.DataFrame, path: str, top: float) -> list[Layer]:
    """Diverged trials as crosses on the upper edge; none if there are none."""
    if diverged.empty:
        return []
    frame = pd.DataFrame({"x": diverged[path].astype("float64").to_numpy(), "y": top})
    frame = frame.assign(trial=diverged[col.TRIAL].tolist(), hover=hovers(diverged))
    return [Layer("points", frame, ENDS[col.DIVERGED], "diverged")]


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def sized(look: Look, trials: int) -> Look:
    """The look of points, smaller and paler if there are so many that they would hide each other.

    >>> sized(Look(size=5.0), 1000).size
    2.5
    """
    return replace(look, size=look.size / 2, opacity=0.5) if trials > MANY else look


def whole_ticks(low: float, high: float, most: int = 7) -> dict[float, str]:
    """Ticks at whole numbers for `chart.Axis`, at most this many.

    >>> whole_ticks(0, 12)
    {0.0: '0', 2.0: '2', 4.0: '4', 6.0: '6', 8.0: '8', 10.0: '10', 12.0: '12'}
    """
    steps = (factor * 10**power for power in range(12) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= most - 1)
    first = -(-int(np.ceil(low)) // step) * step
    return {float(value): count(value) for value in range(first, int(high) + 1, step)}
