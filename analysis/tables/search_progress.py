"""How the best loss of a search fell from trial to trial."""

import numpy as np
import pandas as pd

from lmcore import columns as col

ORDER = "ended"  # 1 for the first trial that ended
LAST_QUARTER = 0.75


def search_progress(trials: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The trials of one size and arm in the order in which they ended, those of the search first.

    >>> search_progress(run.trials, run.rows)[["ended", "trial", "best"]]

    Columns: those of `trials`; ended (1, 2, ...); best (nats per token: the lowest loss of a trial that was trained to
    its end so far, NaN before the first one and for confirmation trials). Trials that have not ended are last. Where
    rows have no times, the order is that of the trials' numbers.
    """
    at = rows.groupby(col.TRIAL)[col.REPORTED_AT].max()
    times = trials[col.TRIAL].map(at).astype("float64")
    ended = ~trials[col.STATUS].isin(col.UNFINISHED)
    keyed = trials.assign(
        confirms=trials[col.PHASE] == col.CONFIRM, waits=~ended, at=times.where(ended).fillna(np.inf)
    ).sort_values(["confirms", "waits", "at", col.NUMBER], kind="stable")
    ordered = keyed.drop(columns=["confirms", "waits", "at"]).reset_index(drop=True)
    counts = (ordered[col.STATUS] == col.COMPLETE) & (ordered[col.PHASE] == col.SEARCH)
    losses = ordered[col.LOSS].where(counts & np.isfinite(ordered[col.LOSS]))
    best = losses.cummin().ffill().where(ordered[col.PHASE] == col.SEARCH)
    return ordered.assign(**{ORDER: np.arange(1, len(ordered) + 1), "best": best})


def improvement(progress: pd.DataFrame) -> float:
    """By how much the last quarter of the search's trials lowered the best loss, in nats per token.

    >>> improvement(search_progress(run.trials, run.rows))
    0.012

    NaN if no trial was trained to its end before that quarter.
    """
    best = progress.loc[progress[col.PHASE] == col.SEARCH, "best"].to_numpy(float)
    if not len(best):
        return np.nan
    before = best[int(np.ceil(LAST_QUARTER * len(best))) - 1]
    return float(before - best[-1])
