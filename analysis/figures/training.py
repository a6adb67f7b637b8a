"""What happened during training: training against validation loss of the best trials, and gradient norms."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import INK
from analysis.figures.curves import curve_panels
from analysis.figures.encoding import encode, lr_bar
from analysis.figures.line_layers import MOST_POINTS, Lines, thinned
from analysis.figures.marks import listed
from analysis.figures.report_figure import ReportFigure
from analysis.runs.load import Run
from analysis.tables.formatting import number
from lmcore import columns as col

UPDATES = "updates"
CLIP_PATH = f"{col.PARAMS_PREFIX}optim.clip_norm"
MOST_PANELS = 6
FEWEST_POINTS = 3  # of a line that is worth drawing
WIDE_RANGE = (0.005, 0.995)  # quantiles of gradient norms that the axis covers, so that one spike does not flatten all


def train_val_figure(run: Run) -> ReportFigure | None:
    """Training and validation loss of the best trial of each group; None without rows of a complete trial."""
    trials = run.trials[(run.trials[col.STATUS] == col.COMPLETE) & np.isfinite(run.trials[col.LOSS])]
    encoding = encode(run.trials)
    labels = trials[col.TRIAL].map(encoding.labels)
    best = trials.sort_values(col.LOSS, kind="stable").groupby(labels, sort=False).head(1)
    points = _points(run, col.TRAIN_LOSS)
    enough = points.groupby(col.TRIAL).size() >= FEWEST_POINTS
    best = best[best[col.TRIAL].isin(enough.index[enough])].head(MOST_PANELS)
    if best.empty:
        return None
    panels = []
    for label, look, own in encoding.groups(best):
        trial = own[col.TRIAL].iloc[0]
        layers = []
        for name, rows, value, style in (
            ("training", points, col.TRAIN_LOSS, replace(look, dash="dotted", width=1.2)),
            ("validation", run.rows, col.VAL_LOSS, replace(look, dash="solid", width=1.6)),
        ):
            part = rows[(rows[col.TRIAL] == trial) & np.isfinite(rows[value])]
            frame = thinned(part, MOST_POINTS)[[col.STEP, value, col.TRIAL]].set_axis(["x", "y", "trial"], axis=1)
            frame = frame.astype({"x": "float64"}).reset_index(drop=True)
            layers.append(Layer("line", frame, style, name))
        panels.append(Panel(Axis(UPDATES), Axis("loss (nats per token)"), layers, label))
    which = "the best trial of each group" if len(best) > 1 else "the best trial"
    caption = (
        f"Training loss (dotted) and validation loss (solid) of {which}, n = {len(best)}: {listed(best[col.TRIAL])}. "
        "The training loss is that of the batches trained on, as it was before or while they changed the weights."
    )
    height = 3.4 if len(panels) == 1 else 2.2
    return ReportFigure(Chart("train_val", "Training and validation loss", caption, panels, 2, True, height))


def grad_norm_figure(run: Run) -> ReportFigure | None:
    """The norm of the gradient against updates, with the clip threshold if all trials share it."""
    points = _points(run, col.GRAD_NORM)
    points = points[points[col.GRAD_NORM] > 0]
    long = points.groupby(col.TRIAL).size() >= FEWEST_POINTS
    points = points[points[col.TRIAL].isin(long.index[long])]
    trials = run.trials[run.trials[col.TRIAL].isin(points[col.TRIAL])]
    if trials.empty:
        return None
    encoding, bar = encode(run.trials), lr_bar(run.trials)
    low, high = points[col.GRAD_NORM].quantile(WIDE_RANGE)
    clips = trials[CLIP_PATH].dropna().unique() if CLIP_PATH in trials else []
    is_clipped = len(clips) == 1 and clips[0] > 0
    ends = [low, high, clips[0]] if is_clipped else [low, high]
    y = Axis("gradient norm before clipping", log=True, limits=(min(ends) / 1.15, max(ends) * 1.15))
    panels = curve_panels(trials, points, col.STEP, col.GRAD_NORM, y, encoding, bar)
    rule = Layer("rule", pd.DataFrame({"y": clips[:1]}), Look(INK, dash="dashed", width=1.0), "clip threshold")
    if is_clipped:
        panels = [replace(panel, layers=[*panel.layers, rule]) for panel in panels]
    parts = [f"Norm of the gradient before clipping, n = {len(trials)} trials."]
    if is_clipped:
        over = (points[col.GRAD_NORM] > clips[0]).mean()
        parts.append(f"Dashed: the clip threshold {number(float(clips[0]))}, above which {over:.0%} of the norms are.")
    parts.append(Lines(trials, encoding, bar).sentence)
    caption = " ".join(filter(None, parts))
    height = 3.4 if len(panels) == 1 else 2.6
    return ReportFigure(Chart("grad_norm", "Gradient norm", caption, panels, 2, True, height, bar))


def _points(run: Run, value: str) -> pd.DataFrame:
    """The points of the finer training curves if the run has them, otherwise those of its rows."""
    curves: pd.DataFrame | None = getattr(run, "curves", None)
    points = run.rows if curves is None or curves.empty else curves
    return points[np.isfinite(points[value])]
