"""Loss against the peak learning rate in a group of trials: what a figure may draw through its points, and why.

Points are joined where the learning rate is all that differs between them. A search changes several settings at once,
so that its points scatter above a lower envelope: the lowest trial in each of several bins of learning rates. A fitted
curve is drawn where its minimum has a 95 % interval (`analysis.scaling.optimum`); the lowest value of a grid otherwise
has a bracket of neighbours (`analysis.scaling.bracket`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.scaling.bracket import Bracket, bracket
from analysis.scaling.optimum import curve_near_optimum, find_optima
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.searched import varies_only_in_lr
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MOST_GRID_VALUES = 20  # of a grid with neighbours worth marking
FEWEST_OF_A_SEARCH = 12  # trials for a fit or an envelope, if the learning rate is not all that varies
RESAMPLES = 1000


@dataclass(frozen=True)
class UCurve:
    """The result of `u_curve`: learning rates and losses, each pair of arrays in the order of the learning rate."""

    joined: tuple[Array, Array] | None
    """Each learning rate and the mean of its losses."""
    envelope: tuple[Array, Array] | None
    optimum: Fitted
    fit: tuple[Array, Array] | None
    """The curve whose minimum is the optimum; None if that is not estimable."""
    bracket: Bracket | None


def u_curve(trials: pd.DataFrame) -> UCurve:
    """The curve of trials of one group, whose column `loss` is that at a common rung, not finite if diverged.

    >>> u_curve(at_rung(trials, common_rung(trials, run.rows))).bracket.sentence
    'the lowest of 7 rates is 2.9e-03; its neighbours are 1.2e-03 and 7.1e-03'
    """
    known = trials[trials[LR_PATH].notna()]
    lr, loss = known[LR_PATH].to_numpy(float), known[col.LOSS].to_numpy(float)
    finite = np.isfinite(loss)
    if not finite.any():
        return UCurve(None, None, NotEstimable("no trial has a finite loss"), None, None)
    joins = varies_only_in_lr(known)
    optimum: Fitted = NotEstimable("other settings vary as well, and the trials are few")
    if joins or finite.sum() >= FEWEST_OF_A_SEARCH:
        optimum = find_optima({"lr": lr}, loss, RESAMPLES)["lr"]
    fit = curve_near_optimum(lr, loss) if isinstance(optimum, Estimate) else None
    if joins:
        means = pd.Series(loss[finite]).groupby(lr[finite]).mean()
        joined = means.index.to_numpy(float), means.to_numpy(float)
        found = bracket(lr, loss) if len(means) <= MOST_GRID_VALUES else None
        return UCurve(joined, None, optimum, fit, found)
    return UCurve(None, _envelope(lr[finite], loss[finite]), optimum, fit, None)


def _envelope(lr: Array, loss: Array) -> tuple[Array, Array] | None:
    """The lowest trial of each of sqrt(n) bins of equal width in log learning rate."""
    if len(lr) < FEWEST_OF_A_SEARCH or lr.min() == lr.max():
        return None
    bins = pd.cut(np.log(lr), int(np.sqrt(len(lr))), labels=False)
    lowest = np.sort(pd.Series(loss).groupby(bins).idxmin().to_numpy())
    lowest = lowest[np.argsort(lr[lowest])]
    return lr[lowest], loss[lowest]
