"""Learning curves: validation loss against updates, tokens, FLOPs and seconds."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.style import ReportFigure
from analysis.runs.load import Run
from analysis.tables.formatting import COUNT_SUFFIXES, FLOP_SUFFIXES, tally
from lmcore import columns as col

AXES = {
    col.STEP: ("steps", "updates"),
    col.TOKENS: ("tokens", "tokens trained on"),
    col.TRAIN_FLOPS: ("flops", "training FLOPs"),
    col.ELAPSED_S: ("seconds", "seconds since the trial began"),
}
"""Column to name in the file's name, and label with unit."""
LOG_AXES = {col.TOKENS: COUNT_SUFFIXES, col.TRAIN_FLOPS: FLOP_SUFFIXES}
LOOKS: dict[str, dict[str, Any]] = {
    col.COMPLETE: {"marker": "o", "linestyle": "-", "color": style.GREY},
    col.PRUNED: {"marker": "|", "linestyle": "-", "color": style.GREY},
    col.RUNNING: {"marker": ">", "linestyle": "--", "color": style.GREY},
    col.PAUSED: {"marker": "_", "linestyle": "--", "color": style.GREY},
    col.DIVERGED: {"marker": "x", "linestyle": ":", "color": style.RED},
    col.FAILED: {"marker": "+", "linestyle": ":", "color": style.GREY},
}


def curve_figure(run: Run, along: str) -> ReportFigure | None:
    """Validation loss against the column `along` (one of AXES), a line per trial; None if no trial has reported."""
    trials = run.trials.set_index(col.TRIAL)
    status_of, per_token = trials[col.STATUS], trials[col.FLOPS_PER_TOKEN].astype("float64")
    rows = run.rows[np.isfinite(run.rows[col.VAL_LOSS])]
    if rows.empty:
        return None
    rows = rows.assign(**{col.TRAIN_FLOPS: rows[col.TOKENS].astype("float64") * rows[col.TRIAL].map(per_token)})
    shown = rows[rows[col.TRIAL].isin(status_of.index) & rows[along].notna()]
    if shown.empty:
        return None
    palette = style.colours(run.trials[col.SIZE])
    name, label = AXES[along]
    with style.report_style():
        figure, axes = style.new_figure()
        for trial, own in shown.groupby(col.TRIAL, sort=False):
            look, status = LOOKS[status_of[trial]], status_of[trial]
            colour = style.RED if status == col.DIVERGED else palette[own[col.SIZE].iloc[0]]
            x, y = own[along].astype("float64").to_numpy(), own[col.VAL_LOSS].to_numpy()
            width, alpha, order = (1.3, 0.95, 3) if status == col.COMPLETE else (0.8, 0.55, 2)
            axes.plot(x, y, look["linestyle"], color=colour, linewidth=width, alpha=alpha, zorder=order)
            axes.plot(x[-1], y[-1], look["marker"], color=colour, markersize=4, zorder=4)
        axes.set(xlabel=label, ylabel=style.LOSS, ylim=_limits(shown, status_of))
        if along in LOG_AXES:
            axes.set_xscale("log")
            style.round_numbers(axes.xaxis, LOG_AXES[along])
        statuses = status_of[shown[col.TRIAL].unique()]
        style.legend(axes, [*style.colour_handles(palette, linewidth=2), *style.status_handles(statuses, LOOKS)])
    caption = (
        f"Validation loss against {label}, one line for each of n = {len(statuses)} trials that reported "
        f"({tally(statuses)}). A mark ends each line; trials that were pruned or diverged end early."
    )
    return ReportFigure(f"loss_{name}", f"Loss against {label}", figure, caption)


def _limits(rows: pd.DataFrame, status_of: pd.Series) -> tuple[float, float]:
    """The range of losses without diverged trials, which leave the picture instead of flattening the others."""
    regular = rows[rows[col.TRIAL].map(status_of) != col.DIVERGED]
    losses = (regular if len(regular) else rows)[col.VAL_LOSS]
    low, high = losses.min(), losses.max()
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
