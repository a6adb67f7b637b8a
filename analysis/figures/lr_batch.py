"""Loss over learning rate and batch size: a heat map of a grid, or the points of a search."""

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, ColourBar, Layer, Look, Panel
from analysis.figures.colours import PALETTE, RED
from analysis.figures.encoding import colour_on, encode
from analysis.figures.marks import ENDS, hovers
from analysis.figures.report_figure import ReportFigure
from analysis.figures.style import LEARNING_RATE, LOSS
from analysis.runs.load import Run
from analysis.tables.formatting import decimal, tally
from analysis.tables.rung import Rung, at_rung, common_rung
from analysis.tables.searched import BATCH_PATH
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MOST_COLUMNS, MOST_ROWS, MOST_PANELS = 14, 12, 4
FILLED = 0.5  # of the cells of a grid
BATCH = "batch size"


def lr_batch_figure(run: Run) -> ReportFigure | None:
    """A panel per size and arm, the best learning rate of each batch size framed; None unless both vary within one."""
    trials = run.trials[run.trials[LR_PATH].notna() & (run.trials[col.PHASE] == col.SEARCH)]
    rung = common_rung(trials, run.rows)
    shown = at_rung(trials, rung)
    encoding = encode(run.trials, without=(BATCH_PATH,))
    groups = [
        (label, own)
        for label, _, own in encoding.groups(shown)
        if own[BATCH_PATH].nunique() > 1 and own[LR_PATH].nunique() > 1
    ][:MOST_PANELS]
    finite = [own[np.isfinite(own[col.LOSS])] for _, own in groups]
    if not groups or all(own.empty for own in finite):
        return None
    losses = pd.concat([own[col.LOSS] for own in finite])
    bar = ColourBar(LOSS, float(losses.min()), float(losses.max()))
    is_grid = all(_is_grid(own) for _, own in groups)
    panels = [_cells(own, label, bar) if is_grid else _points(own, label, bar) for label, own in groups]
    batches = max(own[BATCH_PATH].nunique() for _, own in groups)
    height = 1.2 + 0.42 * batches if is_grid else 3.2
    caption = _caption(pd.concat([own for _, own in groups]), rung, is_grid)
    title = "Loss against learning rate and batch size"
    columns = 1 if is_grid else 2
    return ReportFigure(Chart("loss_lr_batch", title, caption, panels, columns, False, height, bar))


def _is_grid(own: pd.DataFrame) -> bool:
    rates, batches = own[LR_PATH].nunique(), own[BATCH_PATH].nunique()
    filled = len(own.drop_duplicates([LR_PATH, BATCH_PATH]))
    return bool(rates <= MOST_COLUMNS and batches <= MOST_ROWS and filled >= FILLED * rates * batches)


def _cells(own: pd.DataFrame, label: str, bar: ColourBar) -> Panel:
    """Cells of equal size, each the mean of its trials; a cell without a loss stays empty, one that diverged red."""
    rates, batches = sorted(own[LR_PATH].unique()), sorted(own[BATCH_PATH].unique())
    places = own.assign(x=own[LR_PATH].map(rates.index), y=own[BATCH_PATH].map(batches.index))
    rows = []
    for (x, y), cell in places.groupby(["x", "y"]):
        value = cell[col.LOSS].replace(np.inf, np.nan).mean() if np.isfinite(cell[col.LOSS]).all() else np.nan
        text = "" if np.isnan(value) else decimal(value, 2 if len(rates) > 7 else 3)
        first = cell.iloc[[0]]
        rows.append((float(x), float(y), value, first[col.TRIAL].iloc[0], hovers(first)[0], text))
    cells = pd.DataFrame(rows, columns=["x", "y", "value", "trial", "hover", "text"])
    layers = [Layer("cells", cells)]
    lost = cells[cells["value"].isna()]
    if len(lost):
        layers.append(Layer("points", lost[["x", "y", "trial", "hover"]], ENDS[col.DIVERGED], "diverged"))
    best = cells.loc[cells.dropna(subset="value").groupby("y")["value"].idxmin()]
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]) * 0.94
    frames = [
        pd.DataFrame({"x": row.x + corners[:, 0], "y": row.y + corners[:, 1], "line": f"batch {batches[int(row.y)]}"})
        for row in best.itertuples()
    ]
    if frames:
        layers.append(Layer("line", pd.concat(frames, ignore_index=True), Look(PALETTE[1], width=2.4), "lowest"))
    x = Axis(LEARNING_RATE, ticks={float(k): f"{rate:.1e}" for k, rate in enumerate(rates)}, limits=_half(rates))
    y = Axis(BATCH, ticks={float(k): str(batch) for k, batch in enumerate(batches)}, limits=_half(batches))
    return Panel(x, y, layers, label)


def _half(values: list[float]) -> tuple[float, float]:
    return -0.5, len(values) - 0.5


def _points(own: pd.DataFrame, label: str, bar: ColourBar) -> Panel:
    """Trials of a search, each in the colour of its loss."""
    known = own.assign(hover=hovers(own), colour=RED)
    finite = np.isfinite(known[col.LOSS])
    known.loc[finite, "colour"] = [colour_on(bar, loss) for loss in known.loc[finite, col.LOSS]]
    layers = []
    for colour, group in known[finite].groupby("colour"):
        layers.append(Layer("points", _coordinates(group), Look(str(colour), "o", 6)))
    if not finite.all():
        layers.append(Layer("points", _coordinates(known[~finite]), ENDS[col.DIVERGED], "diverged"))
    batches = sorted(own[BATCH_PATH].unique())
    ticks = {float(batch): str(batch) for batch in batches} if len(batches) <= MOST_ROWS else {}
    return Panel(Axis(LEARNING_RATE, log=True), Axis(BATCH, log=True, ticks=ticks), layers, label)


def _coordinates(group: pd.DataFrame) -> pd.DataFrame:
    frame = group[[LR_PATH, BATCH_PATH, col.TRIAL, "hover"]].astype({BATCH_PATH: "float64"})
    return frame.set_axis(["x", "y", "trial", "hover"], axis=1).reset_index(drop=True)


def _caption(shown: pd.DataFrame, rung: Rung, is_grid: bool) -> str:
    what = "Framed: the lowest of each batch size." if is_grid else "A point per trial; other settings vary as well."
    start = f"Validation loss over learning rate and batch size, n = {len(shown)} trials"
    return f"{start} ({tally(shown[col.STATUS])}). {rung.sentence} {what}"
