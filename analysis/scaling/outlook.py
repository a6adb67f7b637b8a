"""The final losses that trials which were stopped early would probably have had, as the sweep itself expects them.

A law of optima needs to know where the loss is high, and early stopping leaves few complete trials there.
"""

import numpy as np
import pandas as pd

from lmcore import columns as col


def outlooks(trials: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """By index of `trials`, of which those that were stopped count: the last validation loss, plus the median of what
    complete trials of the same size and arm gained from that number of tokens to their end; never below their best.

    Trials are left out where no complete trial has reported at as many tokens. `rows` are those of the run.

    >>> run = analysis.load("runs/ladder")
    >>> outlooks(run.trials, run.rows)
    """
    found: dict[object, float] = {}
    searched = trials[(trials[col.PHASE] == col.SEARCH) & trials[col.EXPERIMENT].isna()]
    for _, group in searched.groupby([col.SIZE, col.ARM], dropna=False, sort=False):
        complete = group[(group[col.STATUS] == col.COMPLETE) & np.isfinite(group[col.LOSS].astype(float))]
        stopped = group[group[col.STATUS] == col.PRUNED]
        if complete.empty or stopped.empty:
            continue
        finals = complete.set_index(col.TRIAL)[col.LOSS].astype(float)
        own = rows[rows[col.TRIAL].isin(finals.index)]
        if own.empty:
            continue
        gains = own[col.TRIAL].map(finals) - own[col.VAL_LOSS].astype(float)
        usual = gains.groupby(own[col.TOKENS]).median()
        gain = stopped[col.TOKENS].map(usual)
        outlook = (stopped[col.VAL_LOSS].astype(float) + gain).clip(lower=finals.min())
        found |= outlook[np.isfinite(outlook)].to_dict()
    return pd.Series(found, dtype=float)
