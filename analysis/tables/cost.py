"""What a sweep cost: tokens, FLOPs and device-seconds, and which share of the device's peak it reached.

A device-second is one second of one device (a GPU, or a CPU core). Trials that were trained as one program share it.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.branches import OWN_TOKENS
from analysis.runs.load import Run
from lmcore import columns as col

DEVICE_S = "device_s"
ACHIEVED = "flops_per_s"  # training FLOPs over device-seconds, which include evaluation
PEAK_SHARE = "peak_share"  # of the FLOP/s of matrix products that the engines measured
ALL = "all"


def device_seconds(rows: pd.DataFrame) -> pd.Series:
    """Device-seconds by trial: the duration of each interval over the number of slots in its program, summed.

    NaN for rows without times (older sweeps). An interval during which the clock was set back counts as zero.
    """
    width = rows[col.WIDTH].where(rows[col.WIDTH] > 0)
    shares = (rows[col.REPORTED_AT] - rows[col.BEGAN_AT]).clip(lower=0) / width
    return shares.groupby(rows[col.TRIAL]).sum(min_count=1)


def peak_flops_per_s(manifest: dict[str, Any]) -> float:
    """Peak FLOP/s of one engine: the median over the engines, each measured with its dtype and threads; NaN if none."""
    measured = [peak for peak in manifest.get("hardware", {}).get("peak_flops_per_s") or [] if peak is not None]
    return float(np.median(measured)) if measured else math.nan


def cost_table(run: Run) -> pd.DataFrame:
    """One row per size, and one for all of them if there are several. Every trial that trained counts.

    Tokens and FLOPs are those of the trials and of the branches that ended.

    Columns: size, trials (how many), tokens, train_flops, device_s, flops_per_s, peak_share.
    """
    trials = run.trials.assign(**{DEVICE_S: run.trials[col.TRIAL].map(device_seconds(run.rows)).astype("float64")})
    trials = trials[trials[col.TOKENS].notna() & trials[col.SAME_AS].isna()]
    if len(run.branches):
        own = trials[col.TRIAL].map(run.branches.groupby(col.TRIAL)[OWN_TOKENS].sum()).fillna(0)
        flops = trials[col.TRAIN_FLOPS] + trials[col.FLOPS_PER_TOKEN].astype("float64") * own.astype("float64")
        trials = trials.assign(**{col.TOKENS: trials[col.TOKENS] + own, col.TRAIN_FLOPS: flops})
    groups = [*trials.groupby(col.SIZE, sort=False)]
    if len(groups) > 1:
        groups.append((ALL, trials))
    peak = peak_flops_per_s(run.manifest)
    records = []
    for size, group in groups:
        timed = group[group[DEVICE_S] > 0]
        seconds = timed[DEVICE_S].sum() if len(timed) else math.nan
        achieved = timed[col.TRAIN_FLOPS].sum() / seconds
        tokens, flops = int(group[col.TOKENS].sum()), group[col.TRAIN_FLOPS].sum()
        records.append((size, len(group), tokens, flops, seconds, achieved, achieved / peak))
    columns = [col.SIZE, "trials", col.TOKENS, col.TRAIN_FLOPS, DEVICE_S, ACHIEVED, PEAK_SHARE]
    return pd.DataFrame(records, columns=columns)
