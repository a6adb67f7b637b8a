"""Learning curves: validation loss against updates, tokens, FLOPs and seconds.

Lines have the colour of their learning rate, in a panel per group, if that and choices are all that was varied;
otherwise the look of their group (`analysis.figures.encoding`).
"""

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, ColourBar, Panel
from analysis.figures.encoding import Encoding, encode, lr_bar
from analysis.figures.line_layers import Lines
from analysis.figures.marks import MARGIN
from analysis.figures.report_figure import ReportFigure
from analysis.figures.style import LOSS
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
SUFFIXES = {col.TRAIN_FLOPS: FLOP_SUFFIXES}
MOST_PANELS = 6
SAME_UNIT = {col.TOKENS: 1.001, col.TRAIN_FLOPS: 1.1}
"""Ratios of the largest to the smallest unit, up to which two axes show the same picture."""


def curve_figure(run: Run, along: str) -> ReportFigure | None:
    """Validation loss against the column `along` (one of AXES), a line per trial.

    None if no trial has reported, and for tokens and FLOPs if they are in proportion to updates and tokens in all
    trials, so that the picture would be the same.
    """
    rows = with_flops(run)
    rows = rows[np.isfinite(rows[col.VAL_LOSS]) & rows[along].notna()]
    if rows.empty or not _says_more(rows, along):
        return None
    trials = run.trials[run.trials[col.TRIAL].isin(rows[col.TRIAL])]
    encoding, bar, limits = encode(run.trials), lr_bar(run.trials), _limits(rows, trials)
    panels = curve_panels(trials, rows, along, col.VAL_LOSS, Axis(LOSS, limits=limits), encoding, bar)
    name, label = AXES[along]
    lines = Lines(trials, encoding, bar)
    parts = [f"Validation loss against {label}, one line for each of n = {len(trials)} trials that reported "]
    parts[0] += f"({tally(trials[col.STATUS])})."
    if (trials[col.STATUS] == col.DIVERGED).any():
        parts.append("Lines of diverged trials leave the picture.")
    parts.append(lines.sentence)
    shown = None if lines.is_crowded and bar is None else bar
    height = 3.4 if len(panels) == 1 else 2.6
    caption = " ".join(filter(None, parts))
    chart = Chart(f"loss_{name}", f"Loss against {label}", caption, panels, 2, True, height, shown)
    return ReportFigure(chart)


def curve_panels(
    trials: pd.DataFrame,
    rows: pd.DataFrame,
    along: str,
    value: str,
    y: Axis,
    encoding: Encoding,
    bar: ColourBar | None,
) -> list[Panel]:
    """A panel per group if colours stand for learning rates, otherwise a single one."""
    x = Axis(AXES[along][1], suffixes=SUFFIXES.get(along, COUNT_SUFFIXES))
    if bar is None or not 1 < len(encoding.looks) <= MOST_PANELS:
        return [Panel(x, y, Lines(trials, encoding, bar).layers(rows, along, value))]
    return [
        Panel(x, y, Lines(own, encoding, bar).layers(rows, along, value), label)
        for label, _, own in encoding.groups(trials)
    ]


def with_flops(run: Run) -> pd.DataFrame:
    """The rows of the run's trials with the column `train_flops`."""
    per_token = run.trials.set_index(col.TRIAL)[col.FLOPS_PER_TOKEN].astype("float64")
    rows = run.rows[run.rows[col.TRIAL].isin(per_token.index)]
    own = rows[col.TRIAL].map(per_token).astype("float64")
    return rows.assign(**{col.TRAIN_FLOPS: rows[col.TOKENS].astype("float64") * own})


def _says_more(rows: pd.DataFrame, along: str) -> bool:
    """Whether a picture against `along` differs from that against the axis before it by more than its unit."""
    before = {col.TOKENS: col.STEP, col.TRAIN_FLOPS: col.TOKENS}.get(along)
    if before is None:
        return True
    ratio = rows[along].astype("float64") / rows[before].astype("float64")
    return bool(ratio.max() > ratio.min() * SAME_UNIT[along])


def _limits(rows: pd.DataFrame, trials: pd.DataFrame) -> tuple[float, float]:
    """The range of losses without diverged trials, which leave the picture instead of flattening the others."""
    status_of = trials.set_index(col.TRIAL)[col.STATUS]
    regular = rows[rows[col.TRIAL].map(status_of) != col.DIVERGED]
    losses = (regular if len(regular) else rows)[col.VAL_LOSS]
    low, high = float(losses.min()), float(losses.max())
    margin = MARGIN * (high - low) or 0.05
    return low - margin, high + margin
