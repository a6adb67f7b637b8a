"""Two fixed sets of weights on the same validation windows: their difference with its 95 % interval.

    from analysis.stats.windows import paired_windows
    paired_windows(trials, "xs-0003", "xs-0007")     # Estimate: the loss of xs-0007 minus that of xs-0003

The interval says what other windows of the same text would change. It does not say what another seed would: that takes
several runs of each setting (`analysis.stats.verdicts`).
"""

import math

import pandas as pd
from scipy import stats

from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.window_pairs import window_difference
from lmcore import columns as col
from lmcore.measure.window_difference import WindowDifference


def paired_windows(trials: pd.DataFrame, a: str, b: str) -> Fitted:
    """The loss of trial b minus that of trial a (nats per token), with Student's interval; n counts windows.

    The error is clustered by document (`lmcore.measure.window_difference`). Not estimable if the trials do not share
    their windows, or these were not kept. Raises KeyError if a trial does not exist.
    """
    rows = trials.set_index(col.TRIAL)
    return estimate_of(window_difference(rows.loc[a].to_dict(), rows.loc[b].to_dict()))


def estimate_of(found: WindowDifference | str) -> Fitted:
    """The result of `window_difference` with its 95 % interval."""
    if isinstance(found, str):
        return NotEstimable(found)
    if math.isnan(found.se):
        return NotEstimable(f"all {found.n} windows are of one document")
    half = float(stats.t.ppf(0.975, found.df)) * found.se
    return Estimate(found.mean, found.mean - half, found.mean + half, found.n)
