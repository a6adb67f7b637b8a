"""What a sweep cost: tokens, FLOPs, device-seconds, and how much of what the device can do was reached.

A device-second is a second of one engine (a GPU, or a CPU core). Trials that were trained as one program share theirs.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import Run
from lmcore import columns as col

DEVICE_S = "device_s"
ACHIEVED = "flops_per_s"  # training FLOPs over device-seconds, evaluation included in the time
PEAK_SHARE = "peak_share"  # of the matrix-product rate that an engine measured
ALL = "all"


def device_seconds(rows: pd.DataFrame) -> pd.Series:
    """Seconds of a device by trial: every interval's duration over the trials that were trained as one program in it.

    Rows from before intervals were timed have none. An interval over which the clock was set back counts as nothing.
    """
    width = rows[col.WIDTH].where(rows[col.WIDTH] > 0)
    shares = (rows[col.REPORTED_AT] - rows[col.BEGAN_AT]).clip(lower=0) / width
    return shares.groupby(rows[col.TRIAL]).sum(min_count=1)


def peak_flops_per_s(manifest: dict[str, Any]) -> float:
    """Of one engine: the median of what the engines measured for their device, dtype and threads; NaN where unknown."""
    peaks = manifest.get("hardware", {}).get("peak_flops_per_s") or []
    measured = [peak for peak in peaks if peak is not None]
    return float(np.median(measured)) if measured else math.nan


def cost_table(run: Run) -> pd.DataFrame:
    """A row for each size, and one for all of them where there are several.

    Columns: size, trials (those that trained), tokens, train_flops, device_s, flops_per_s, peak_share. All trials
    count, whatever became of them.
    """
    trials = run.trials.assign(**{DEVICE_S: run.trials[col.TRIAL].map(device_seconds(run.rows)).astype("float64")})
    trials = trials[trials[col.TOKENS].notna()]
    groups = [(size, group) for size, group in trials.groupby(col.SIZE, sort=False)]
    if len(groups) > 1:
        groups.append((ALL, trials))
    records = []
    for size, group in groups:
        timed = group[group[DEVICE_S] > 0]
        seconds = timed[DEVICE_S].sum() if len(timed) else math.nan
        achieved = timed[col.TRAIN_FLOPS].sum() / seconds if len(timed) else math.nan
        records.append(
            {
                col.SIZE: size,
                "trials": len(group),
                col.TOKENS: int(group[col.TOKENS].sum()),
                col.TRAIN_FLOPS: group[col.TRAIN_FLOPS].sum(),
                DEVICE_S: seconds,
                ACHIEVED: achieved,
                PEAK_SHARE: achieved / peak_flops_per_s(run.manifest),
            }
        )
    columns = [col.SIZE, "trials", col.TOKENS, col.TRAIN_FLOPS, DEVICE_S, ACHIEVED, PEAK_SHARE]
    return pd.DataFrame(records, columns=columns)
