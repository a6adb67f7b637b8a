"""How long a sweep will still take, estimated from its FLOPs: those left, over those of a second."""

import pandas as pd

from analysis.runs.load import Run
from lmcore import columns as col

WINDOW_S = 900.0
"""The speed is that of the last quarter of an hour: a sweep may have been interrupted, or have fewer engines now."""


def seconds_left(run: Run, planned: int | None, until: float | None = None) -> float | None:
    """Seconds until `planned` trials will have ended; None while nothing has been reported.

    A trial is taken to cost as many FLOPs as those that have ended did on average, pruned ones included. `until` is how
    many seconds the sweep may still take (`search.time`), which limits the estimate, and is all that is known if
    `planned` is None.
    """
    limit = None if until is None else max(0.0, until)
    if planned is None:
        return limit
    speed = flops_per_s(run)
    cost = flops_per_trial(run.trials)
    if speed is None or speed <= 0 or cost is None:
        return None
    unfinished = run.trials[run.trials[col.STATUS].isin(col.UNFINISHED)]
    ended = len(run.trials) - len(unfinished)
    left = max(0.0, (planned - ended) * cost - float(unfinished[col.TRAIN_FLOPS].clip(upper=cost).sum()))
    return left / speed if limit is None else min(left / speed, limit)


def flops_per_trial(trials: pd.DataFrame) -> float | None:
    """Mean FLOPs of the trials that have ended, or else those that an unfinished one will have had at its end."""
    trained = trials[trials[col.TRAIN_FLOPS] > 0]
    ended = trained[~trained[col.STATUS].isin(col.UNFINISHED)]
    if len(ended):
        return float(ended[col.TRAIN_FLOPS].mean())
    whole = trained[col.TRAIN_FLOPS] * trained[f"{col.PARAMS_PREFIX}train.steps"] / trained[col.STEP].astype("float64")
    return float(whole.mean()) if len(trained) else None


def flops_per_s(run: Run) -> float | None:
    """Training FLOPs a second, all engines together, over the last WINDOW_S of the sweep; None without times."""
    rows = run.rows[run.rows[col.REPORTED_AT].notna() & run.rows[col.BEGAN_AT].notna()]
    if rows.empty:
        return None
    per_token = rows[col.TRIAL].map(run.trials.set_index(col.TRIAL)[col.FLOPS_PER_TOKEN]).astype("float64")
    tokens = rows[col.TOKENS].astype("float64")
    flops = per_token * (tokens - tokens.groupby(rows[col.TRIAL]).shift(fill_value=0.0))
    recent = rows[col.REPORTED_AT] > rows[col.REPORTED_AT].max() - WINDOW_S
    seconds = rows[col.REPORTED_AT].max() - rows.loc[recent, col.BEGAN_AT].min()
    return float(flops[recent].sum() / seconds) if seconds > 0 else None
