"""The figures of a dashboard: those of a report that can be drawn while the sweep runs, and the training loss."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart
from analysis.figures.curves import curve_figure, curve_panels
from analysis.figures.encoding import encode, lr_bar
from analysis.figures.learning_rate import learning_rate_figure
from analysis.figures.line_layers import Lines
from analysis.figures.lr_batch import lr_batch_figure
from analysis.figures.marks import loss_limits
from analysis.figures.report_figure import ReportFigure
from analysis.figures.search_progress import progress_figure
from analysis.runs.load import Run
from lmcore import columns as col

DRAWN: tuple[Callable[[Run], ReportFigure | None], ...] = (
    lambda run: curve_figure(run, col.STEP),
    learning_rate_figure,
    progress_figure,
    lambda run: train_loss_figure(run),
    lr_batch_figure,
)
"""In the order of the page."""
FEWEST_POINTS = 2


def live_figures(run: Run) -> list[ReportFigure]:
    """The figures that there is something to draw for; none before the first report.

    >>> [figure.name for figure in live_figures(run)]
    ['loss_steps', 'loss_lr', 'search_progress', 'train_loss']
    """
    if run.rows.empty:
        return []
    return [figure for draw in DRAWN if (figure := draw(run)) is not None]


def train_loss_figure(run: Run) -> ReportFigure | None:
    """Training loss against updates, from the finer training curves; None for a run without them."""
    points = run.curves
    points = points[np.isfinite(points[col.TRAIN_LOSS])]
    sizes = points.groupby(col.TRIAL).size()
    points = points[points[col.TRIAL].isin(sizes.index[sizes >= FEWEST_POINTS])]
    trials = run.trials[run.trials[col.TRIAL].isin(points[col.TRIAL])]
    if trials.empty:
        return None
    encoding, bar = encode(run.trials), lr_bar(run.trials)
    y = Axis("training loss (nats per token)", limits=_limits(points, trials))
    panels = curve_panels(trials, points, col.STEP, col.TRAIN_LOSS, y, encoding, bar)
    lines = Lines(trials, encoding, bar)
    caption = f"Loss of single batches before they change the weights, a line for each of n = {len(trials)} trials."
    caption = " ".join(filter(None, (caption, lines.sentence)))
    shown = None if lines.is_crowded and bar is None else bar
    chart = Chart("train_loss", "Training loss against updates", caption, panels, 2, True, colour_bar=shown)
    return ReportFigure(chart)


def _limits(points: pd.DataFrame, trials: pd.DataFrame) -> tuple[float, float]:
    """The range of the losses without those of diverged trials, whose lines leave the picture."""
    diverged = trials.loc[trials[col.STATUS] == col.DIVERGED, col.TRIAL]
    regular = points[~points[col.TRIAL].isin(diverged)]
    return loss_limits((regular if len(regular) else points)[col.TRAIN_LOSS])
