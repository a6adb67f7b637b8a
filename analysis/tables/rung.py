"""The step at which trials can be compared: the largest one that most of them have reached.

Under early stopping the last loss of one trial is from update 50 and that of another from update 200. Losses are
comparable at a common rung only, a fraction of training that trials with different numbers of updates share.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.tables.formatting import number
from analysis.tables.searched import STEPS_PATH
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MOST = 0.8  # of the trials that did not diverge have reached a common rung
ALIVE = (col.COMPLETE, col.PRUNED, col.RUNNING, col.PAUSED)
DECIMALS = 6  # of fractions that count as equal


@dataclass(frozen=True)
class Rung:
    """The losses of trials at one fraction of their training."""

    fraction: float
    """1 at the end of training, where losses are those of the final evaluation if there was one."""
    losses: pd.Series
    """Nats per token by trial id, infinite for trials that diverged; trials that did not get there are missing."""
    steps: tuple[int, int]
    """The lowest and the highest number of updates that the fraction stands for."""
    reached: int
    """How many trials did not diverge and got there."""
    of: int
    """How many trials did not diverge."""

    @property
    def is_end(self) -> bool:
        """Whether these are the losses of trials that were trained to their end."""
        return self.fraction == 1

    @property
    def name(self) -> str:
        """`at the end of training`, or `at update 50, 25 % of training`."""
        low, high = self.steps
        updates = f"update {low}" if low == high else f"updates {low} to {high}"
        return "at the end of training" if self.is_end else f"at {updates}, {number(100 * self.fraction)} % of training"

    @property
    def sentence(self) -> str:
        """For a caption: at which update losses are compared, and how many trials that leaves out."""
        left = self.of - self.reached
        if self.is_end:
            missing = f"; {left} {'trial' if left == 1 else 'trials'} without one left out" if left else ""
            return f"Losses {self.name}{missing}."
        missing = f", which {self.reached} of {self.of} trials reached" if left else ", which all trials reached"
        return f"Early stopping: all losses are those {self.name}{missing}."


def common_rung(trials: pd.DataFrame, rows: pd.DataFrame) -> Rung:
    """The largest fraction of training that most trials have reached, and their losses there.

    >>> common_rung(run.trials[run.trials["phase"] == "search"], run.rows).name
    'at update 50, 25 % of training'

    Trials whose result is that of another, and those that failed or never began, do not count. Where rows are missing
    for most of the trials, it is the end of training.
    """
    counted = _counted(trials)
    alive = counted[counted[col.STATUS].isin(ALIVE)]
    complete = (alive[col.STATUS] == col.COMPLETE).sum()
    if complete >= MOST * len(alive):
        return end_of_training(trials)
    steps = alive.set_index(col.TRIAL)[STEPS_PATH].astype("float64")
    own = rows[rows[col.TRIAL].isin(steps.index) & np.isfinite(rows[col.VAL_LOSS])]
    own = own.assign(
        fraction=(own[col.STEP].astype("float64") / own[col.TRIAL].map(steps).astype("float64")).round(DECIMALS)
    )
    reached = own.groupby("fraction")[col.TRIAL].nunique()
    enough = reached[reached >= MOST * len(alive)]
    if enough.empty:
        enough = reached[reached == reached.max()] if reached.max() >= len(alive) / 2 else enough
    if enough.empty or enough.index.max() == 1:
        return end_of_training(trials)
    fraction = float(enough.index.max())
    there = own[own["fraction"] == fraction]
    losses = there.set_index(col.TRIAL)[col.VAL_LOSS].astype("float64")
    updates = int(there[col.STEP].min()), int(there[col.STEP].max())
    return Rung(fraction, _with_diverged(losses, counted), updates, len(losses), len(alive))


def end_of_training(trials: pd.DataFrame) -> Rung:
    """The losses of the trials that were trained to their end."""
    counted = _counted(trials)
    complete = counted[(counted[col.STATUS] == col.COMPLETE) & np.isfinite(counted[col.LOSS])]
    losses = complete.set_index(col.TRIAL)[col.LOSS].astype("float64")
    steps = complete[col.STEP].dropna()
    updates = (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)
    return Rung(1.0, _with_diverged(losses, counted), updates, len(losses), int(counted[col.STATUS].isin(ALIVE).sum()))


def at_rung(trials: pd.DataFrame, rung: Rung) -> pd.DataFrame:
    """The trials that have a loss at the rung, or diverged, with that loss in place of their own."""
    known = trials[trials[col.TRIAL].isin(rung.losses.index)]
    return known.assign(**{col.LOSS: known[col.TRIAL].map(rung.losses)})


def _counted(trials: pd.DataFrame) -> pd.DataFrame:
    known = trials[trials[LR_PATH].notna() & trials[col.STATUS].isin((*ALIVE, col.DIVERGED))]
    return known[known[col.SAME_AS].isna()] if col.SAME_AS in known else known


def _with_diverged(losses: pd.Series, counted: pd.DataFrame) -> pd.Series:
    ids = counted.loc[counted[col.STATUS] == col.DIVERGED, col.TRIAL]
    diverged = pd.Series(math.inf, index=pd.Index(ids, name=col.TRIAL), dtype="float64")
    return pd.concat([losses[~losses.index.isin(ids)], diverged])
