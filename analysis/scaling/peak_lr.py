"""The optimal peak learning rate of each arm with its interval, for the parameter table."""

from collections.abc import Mapping

import pandas as pd

from analysis.runs.trial_csv import LOSS, LR
from analysis.scaling.fit import points_of
from analysis.scaling.optimum import find_optima
from analysis.stats.estimate import Estimate, Fitted
from analysis.tables.trials import TIED_PATH, TYING
from lmcore import columns as col


def peak_lr_optima(trials: pd.DataFrame) -> dict[tuple[str, str], Fitted]:
    """By (size, arm), from the trials of the search; without arms, tied and untied models by themselves.

    >>> peak_lr_optima(analysis.load("runs/quick").trials)["xs", "tied"]
    """
    searched = trials[(trials[col.PHASE] == col.SEARCH) & trials[TIED_PATH].notna() & trials[col.EXPERIMENT].isna()]
    tying = searched[TIED_PATH].astype(bool).map(TYING)
    arms = searched[col.ARM].where(searched[col.ARM].notna(), tying)
    found = {}
    for (size, arm), group in searched.groupby([searched[col.SIZE], arms], sort=False):
        points = points_of(group)
        found[str(size), str(arm)] = find_optima({LR: points[LR]}, points[LOSS])[LR]
    return found


def lr_intervals(optima: Mapping[tuple[str, str], Fitted]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Those of `peak_lr_optima` that are estimable, as (optimum, low, high).

    >>> parameter_table(trials, lr_intervals(peak_lr_optima(trials)))["peak_lr_low"]
    """
    return {key: (one.value, one.low, one.high) for key, one in optima.items() if isinstance(one, Estimate)}
