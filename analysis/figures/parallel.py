"""Parallel coordinates: every trial as a line through the values of all that was searched."""

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, ColourBar, Layer, Look, Panel
from analysis.figures.colours import GREY, INK, LEVELS, RED
from analysis.figures.encoding import colour_on
from analysis.figures.hyperparameters import searched_paths
from analysis.figures.marks import MANY
from analysis.figures.report_figure import ReportFigure
from analysis.figures.scales import scale_of
from analysis.runs.load import Run
from analysis.runs.space import space_of
from analysis.tables.formatting import tally
from analysis.tables.rung import at_rung, common_rung
from analysis.tables.trials import LR_PATH, TIED_PATH, short_names
from lmcore import columns as col

RANK = ColourBar("rank of loss in its size, from best (0) to worst (1)", 0.0, 1.0)
ABOVE = 1.08  # height at which the lines of diverged trials end


def parallel_figure(run: Run) -> ReportFigure | None:
    """None unless three hyperparameters or more were searched: two are seen better in panels of their own."""
    trials = run.trials[run.trials[LR_PATH].notna() & (run.trials[col.PHASE] == col.SEARCH)]
    rung = common_rung(trials, run.rows)
    shown = at_rung(trials, rung)
    paths = searched_paths(trials)
    if len(paths) < 3 or shown.empty or trials[col.EXPERIMENT].notna().any():
        return None
    losses = shown[col.LOSS].where(np.isfinite(shown[col.LOSS]))
    by_size = losses.groupby(shown[col.SIZE])
    rank = ((by_size.rank() - 1) / (by_size.transform("count") - 1).clip(lower=1)).to_numpy()
    space = space_of(run.manifest)
    scales = [scale_of(path, shown[path], space.get(path)) for path in paths]
    heights = np.stack([*(scale.unit for scale in scales), np.where(np.isnan(rank), ABOVE, rank)], axis=1)
    layers = _lines(heights, rank, shown[col.TRIAL].tolist())
    axes = pd.DataFrame({"x": np.arange(len(paths) + 1, dtype=float)})
    words = [(x, at, text) for x, scale in enumerate(scales) for at, text in scale.ends.items()]
    words += [(len(paths), 0.0, "best"), (len(paths), 1.0, "worst")]
    layers.append(Layer("text", pd.DataFrame(words, columns=["x", "y", "text"]), Look(INK)))
    short = short_names(paths) | {LR_PATH: "peak lr", TIED_PATH: "embeddings"}
    names = [scale.axis.label if scale.is_one_minus else short[path] for path, scale in zip(paths, scales, strict=True)]
    ticks = {float(place): name for place, name in enumerate([*names, "rank of loss"])}
    x = Axis("", ticks=ticks, limits=(-0.15, len(paths) + 0.4))
    top = ABOVE if np.isnan(rank).any() else 1.0
    y = Axis("value", ticks={0.0: "lowest", 1.0: "highest"}, limits=(-0.05, top + 0.06))
    panel = Panel(x, y, [Layer("rule", axes, Look(GREY, width=0.8)), *layers])
    caption = (
        f"Every trial as a line through the values of all searched hyperparameters, n = {len(shown)} "
        f"({tally(shown[col.STATUS])}). {rung.sentence} The darker, the better within its size."
    )
    if np.isnan(rank).any():
        caption += " Diverged trials are red and end above the worst."
    title = "All trials in all searched dimensions"
    return ReportFigure(Chart("overview", title, caption, [panel], panel_height_in=3.4, colour_bar=RANK))


def _lines(heights: np.ndarray, rank: np.ndarray, trials: list[str]) -> list[Layer]:
    """A layer per colour, the worst first, so that the best are on top."""
    order = np.argsort(np.where(np.isnan(rank), 2, rank), kind="stable")[::-1]
    looks: dict[str, list[int]] = {}
    for k in order:
        looks.setdefault(RED if np.isnan(rank[k]) else colour_on(RANK, rank[k]), []).append(int(k))
    # The best quarter of a few trials, and the first colour of many.
    best_rank, pale = (0.25, 0.45) if len(trials) <= MANY else (1 / LEVELS, 0.15)
    layers = []
    for colour, members in looks.items():
        frames = [
            pd.DataFrame(
                {"x": np.arange(heights.shape[1], dtype=float), "y": heights[k], "line": k, "trial": trials[k]}
            )
            for k in members
        ]
        best = colour != RED and rank[members[0]] <= best_rank
        look = Look(colour, width=1.6 if best else 0.7, opacity=0.9 if best else pale)
        layers.append(Layer("line", pd.concat(frames, ignore_index=True), look))
    return layers
