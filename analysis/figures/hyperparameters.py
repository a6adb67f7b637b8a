"""Final loss against what was searched: the learning rate per size, every other hyperparameter, and all at once.

A pruned trial stands at its last loss, hollow; a diverged one has none and stands on the upper edge. No optimum is
fitted here: `analysis.scaling.optimum` does that, and its curve can be laid over the learning rate's.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures.style import (
    GREY,
    LEARNING_RATE,
    LOSS,
    RED,
    ReportFigure,
    colours,
    legend,
    looks,
    new_figure,
    round_numbers,
    size_handles,
)
from analysis.stats.estimate import Estimate
from analysis.tables.searched import searched_dimensions
from analysis.tables.trials import LR_PATH, TIED_PATH, short_names
from lmcore import columns as col

PANELS_MOST = 12
SHOWN = (col.COMPLETE, col.PRUNED, col.DIVERGED)


def learning_rate_figure(trials: pd.DataFrame, optima: Mapping[str, Estimate]) -> ReportFigure:
    """Loss against the learning rate, per size, with the region where trials diverged marked, and the optima known."""
    known = trials[trials[LR_PATH].notna() & trials[col.STATUS].isin(SHOWN)]
    palette = colours(trials[col.SIZE])
    with looks():
        figure, axes = new_figure()
        top = _scatter(axes, known, LR_PATH, palette)
        axes.set_xscale("log")
        round_numbers(axes.xaxis)
        diverged = known[known[col.STATUS] == col.DIVERGED]
        if len(diverged):
            axes.axvspan(diverged[LR_PATH].min(), axes.get_xlim()[1], color=RED, alpha=0.06, zorder=0)
        for size, optimum in optima.items():
            axes.axvspan(optimum.low, optimum.high, color=palette[size], alpha=0.12, zorder=0)
            axes.axvline(optimum.value, color=palette[size], linewidth=1.0, linestyle="--", zorder=1)
        axes.set_ylim(top=top)
        axes.set_xlabel(LEARNING_RATE)
        axes.set_ylabel(LOSS)
        legend(axes, [*size_handles(palette), *_end_handles(known[col.STATUS])])
    region = f" Shaded: from {diverged[LR_PATH].min():.1e} on, the lowest rate that diverged." if len(diverged) else ""
    fitted = " Dashed: the fitted optimum of a size, with its 95 % interval." if optima else ""
    caption = (
        f"Last validation loss against the learning rate, n = {len(known)} trials ({_counted(known)}). "
        f"Diverged trials stand on the upper edge; pruned ones at the loss where they were stopped.{region}{fitted}"
    )
    return ReportFigure("loss_lr", "Loss against the learning rate", figure, caption)


def hyperparameter_figure(trials: pd.DataFrame) -> ReportFigure | None:
    """Loss against each searched hyperparameter, a panel each; None where none was searched."""
    paths = searched_dimensions(trials)[:PANELS_MOST]
    if not paths:
        return None
    known = trials[trials[LR_PATH].notna() & trials[col.STATUS].isin(SHOWN)]
    palette = colours(trials[col.SIZE])
    columns = min(2, len(paths))
    rows = -(-len(paths) // columns)
    with looks():
        figure, grid = new_figure(columns, rows, 0.4 + 2.1 * rows, squeeze=False, sharey=True)
        for axes, path in zip(grid.flat, paths, strict=False):
            values, ticks = _positions(known[path])
            top = _scatter(axes, known.assign(**{path: values}), path, palette)
            _scale(axes, path, values, ticks)
            axes.set_ylim(top=top)
            axes.set_xlabel(_label(path))
        for axes in grid.flat[len(paths) :]:
            axes.set_visible(False)
        figure.supylabel(LOSS, fontsize=9.5)
        legend(grid.flat[0], [*size_handles(palette), *_end_handles(known[col.STATUS])])
    caption = (
        f"Last validation loss against each hyperparameter that was searched, n = {len(known)} trials "
        f"({_counted(known)}). Everything else varies as well within a panel."
    )
    return ReportFigure("loss_hyperparameters", "Loss against each hyperparameter", figure, caption)


def parallel_coordinates(trials: pd.DataFrame) -> ReportFigure | None:
    """All trials in all searched dimensions: a line each, dark where the loss is low for its size; None without any."""
    paths = searched_dimensions(trials)[:PANELS_MOST]
    known = trials[trials[LR_PATH].notna() & trials[col.STATUS].isin(SHOWN)]
    if not paths or known.empty:
        return None
    places = np.arange(len(paths) + 1)
    heights = [_unit(*_positions(known[path]), path) for path in paths]
    losses = known[col.VAL_LOSS].where(known[col.STATUS] != col.DIVERGED)
    ranks = losses.groupby(known[col.SIZE])
    rank = (ranks.rank() - 1) / (ranks.transform("count") - 1).clip(lower=1)  # 0 is the best of its size, 1 the worst
    heights.append((rank.to_numpy(), {0.0: "best", 1.0: "worst"}))
    with looks():
        figure, axes = new_figure(height_in=3.4)
        palette = colours(range(101))
        for line, (status, share) in enumerate(zip(known[col.STATUS], rank, strict=True)):
            y = [height[line] for height, _ in heights]
            diverged = status == col.DIVERGED or np.isnan(share)
            colour = RED if diverged else palette[int(100 * share)]
            if diverged:
                y[-1] = 1.06
            alpha, width = (0.5, 0.8) if diverged else (0.85 - 0.6 * share, 1.6 - share)
            axes.plot(places, y, color=colour, alpha=alpha, linewidth=width, zorder=3 - share if not diverged else 1)
        for place, (_, ticks) in zip(places, heights, strict=True):
            axes.axvline(place, color=GREY, linewidth=0.8, zorder=0)
            for height, text in ticks.items():
                axes.annotate(
                    text,
                    (place, height),
                    xytext=(3, 0),
                    textcoords="offset points",
                    fontsize=7.5,
                    va="center",
                    zorder=6,
                )
        names = [*(short_names(paths)[path] for path in paths), "rank of loss\nin its size"]
        axes.set_xticks(places, names, rotation=20 if len(paths) > 4 else 0, fontsize=8.5)
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(paths) + 0.35)
        axes.set_ylabel("each axis from its lowest to its highest value", fontsize=8.5)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
    caption = (
        f"Every trial as a line through the values of all searched hyperparameters, n = {len(known)} "
        f"({_counted(known)}). The darker, the better within its size; diverged trials are red and end above the worst."
    )
    return ReportFigure("overview", "All trials in all searched dimensions", figure, caption)


def _scatter(axes: Axes, trials: pd.DataFrame, path: str, palette: Mapping[str, object]) -> float:
    """Trials as points; the upper limit of the loss, above which the diverged ones would be."""
    finite = trials[trials[col.STATUS] != col.DIVERGED]
    losses = finite[col.VAL_LOSS]
    top = losses.max() + 0.08 * (losses.max() - losses.min() or 1.0) if len(finite) else 1.0
    for size, own in trials.groupby(col.SIZE, sort=False):
        for status, group in own.groupby(col.STATUS, sort=False):
            x = group[path].astype("float64")
            if status == col.DIVERGED:
                axes.plot(x, [top] * len(x), "x", color=RED, markersize=5, clip_on=False, zorder=4)
                continue
            face = palette[size] if status == col.COMPLETE else "none"
            axes.scatter(x, group[col.VAL_LOSS], s=22, facecolors=face, edgecolors=palette[size], zorder=3)
    return top


def _end_handles(statuses: pd.Series) -> list[Line2D]:
    """Legend entries for the points of `_scatter`."""
    looks_of = {
        col.COMPLETE: {"color": GREY, "marker": "o"},
        col.PRUNED: {"color": GREY, "marker": "o", "markerfacecolor": "none"},
        col.DIVERGED: {"color": RED, "marker": "x"},
    }
    present = set(statuses)
    return [
        Line2D([], [], linestyle="", markersize=5, label=status, **look)
        for status, look in looks_of.items()
        if status in present
    ]


def _positions(values: pd.Series) -> tuple[pd.Series, dict[float, str]]:
    """Numbers as they are, and no ticks; words and yes/no as 0, 1, ... with their names."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.astype("float64"), {}
    plain = values.map(lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
    if plain.all():
        return values.astype("float64"), {}
    names = sorted({_word(value) for value in values})
    return values.map(lambda value: float(names.index(_word(value)))), dict(enumerate(names))


def _word(value: object) -> str:
    return {"True": "yes", "False": "no"}.get(str(value), str(value))


def _is_log(path: str, values: pd.Series) -> bool:
    positive = values.min() > 0
    return positive and (path == LR_PATH or values.max() / values.min() > 20)


def _scale(axes: Axes, path: str, values: pd.Series, ticks: dict[float, str]) -> None:
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    elif _is_log(path, values):
        axes.set_xscale("log")
        round_numbers(axes.xaxis)


def _unit(values: pd.Series, ticks: dict[float, str], path: str) -> tuple[np.ndarray, dict[float, str]]:
    """Values between 0 and 1, and what stands there."""
    scaled = np.log(values) if not ticks and _is_log(path, values) else values
    low, high = scaled.min(), scaled.max()
    span = high - low or 1.0
    if ticks:
        return ((scaled - low) / span).to_numpy(), {(place - low) / span: text for place, text in ticks.items()}
    return ((scaled - low) / span).to_numpy(), {0.0: f"{values.min():.3g}", 1.0: f"{values.max():.3g}"}


def _label(path: str) -> str:
    unit = {LR_PATH: " (peak)", f"{col.PARAMS_PREFIX}optim.warmup_fraction": " (fraction of the run)"}
    word = {TIED_PATH: "tied embeddings", LR_PATH: "learning rate"}
    return word.get(path, path.removeprefix(col.PARAMS_PREFIX).partition(".")[2]) + unit.get(path, "")


def _counted(trials: pd.DataFrame) -> str:
    return ", ".join(f"{number} {status}" for status, number in trials[col.STATUS].value_counts().items())
