"""Loss while trials train: against updates, tokens, FLOPs and seconds; pruned and diverged trials are shown as such."""

import numpy as np
import pandas as pd

from analysis.figures.style import (
    LOSS,
    MARKS,
    RED,
    ReportFigure,
    colours,
    legend,
    looks,
    new_figure,
    round_numbers,
    size_handles,
    status_handles,
)
from analysis.runs.load import Run
from analysis.tables.formatting import COUNT_SUFFIXES, FLOP_SUFFIXES
from lmcore import columns as col

AXES = {
    col.STEP: ("steps", "updates"),
    col.TOKENS: ("tokens", "tokens trained on"),
    col.TRAIN_FLOPS: ("flops", "training FLOPs"),
    col.ELAPSED_S: ("seconds", "seconds since the trial began"),
}
"""What a curve may run along: file name and label with its unit."""


def curve_figures(run: Run) -> list[ReportFigure]:
    """One figure for each of AXES; none where no trial has reported."""
    rows = run.rows[np.isfinite(run.rows[col.VAL_LOSS])]
    if rows.empty:
        return []
    per_token = run.trials.set_index(col.TRIAL)[col.FLOPS_PER_TOKEN].astype("float64")
    rows = rows.assign(**{col.TRAIN_FLOPS: rows[col.TOKENS].astype("float64") * rows[col.TRIAL].map(per_token)})
    return [_figure(run.trials, rows, along) for along in AXES if rows[along].notna().any()]


def _figure(trials: pd.DataFrame, rows: pd.DataFrame, along: str) -> ReportFigure:
    palette = colours(trials[col.SIZE])
    ended = trials.set_index(col.TRIAL)[col.STATUS]
    shown = rows[rows[col.TRIAL].isin(ended.index) & rows[along].notna()]
    name, label = AXES[along]
    with looks():
        figure, axes = new_figure()
        for trial, own in shown.groupby(col.TRIAL, sort=False):
            status = ended[trial]
            colour = RED if status == col.DIVERGED else palette[own[col.SIZE].iloc[0]]
            x, y = own[along].astype("float64").to_numpy(), own[col.VAL_LOSS].to_numpy()
            complete = status == col.COMPLETE
            line, width, alpha = MARKS[status]["linestyle"], 1.3 if complete else 0.8, 0.95 if complete else 0.55
            axes.plot(x, y, line, color=colour, linewidth=width, alpha=alpha, zorder=3 if complete else 2)
            axes.plot(x[-1], y[-1], MARKS[status]["marker"], color=colour, markersize=4, zorder=4)
        axes.set_ylim(*_limits(shown, ended))
        axes.set_xlabel(label)
        axes.set_ylabel(LOSS)
        if along in (col.TOKENS, col.TRAIN_FLOPS):
            axes.set_xscale("log")
            round_numbers(axes.xaxis, COUNT_SUFFIXES if along == col.TOKENS else FLOP_SUFFIXES)
        statuses = ended[shown[col.TRIAL].unique()]
        legend(axes, [*size_handles(palette), *status_handles(statuses)])
    counts = ", ".join(f"{number} {status}" for status, number in statuses.value_counts().items())
    caption = (
        f"Validation loss against {label}, one line for each of n = {len(statuses)} trials that reported ({counts}). "
        "A mark ends each line; trials that were pruned or diverged end early."
    )
    return ReportFigure(f"loss_{name}", f"Loss against {label}", figure, caption)


def _limits(rows: pd.DataFrame, ended: pd.Series) -> tuple[float, float]:
    """From the best loss to where trials began: what explodes leaves the picture instead of flattening the rest."""
    regular = rows[rows[col.TRIAL].map(ended) != col.DIVERGED]
    losses = (regular if len(regular) else rows)[col.VAL_LOSS]
    low, high = losses.min(), losses.max()
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room
