"""Final loss against what was searched: the learning rate per size, every other hyperparameter, and all at once.

A pruned trial is drawn hollow at its last loss. A diverged trial has no loss and is drawn on the upper edge. No optimum
is fitted here: `analysis.scaling.optimum` does that, and its result can be drawn over the learning rate's figure.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from analysis.figures import style
from analysis.figures.style import ReportFigure
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted
from analysis.tables.formatting import tally
from analysis.tables.searched import searched_dimensions
from analysis.tables.trials import LR_PATH, TIED_PATH, short_names
from lmcore import columns as col

MAX_PANELS = 12
LOOKS: dict[str, dict[str, Any]] = {
    col.COMPLETE: {"color": style.GREY, "marker": "o", "linestyle": ""},
    col.PRUNED: {"color": style.GREY, "marker": "o", "linestyle": "", "markerfacecolor": "none"},
    col.DIVERGED: {"color": style.RED, "marker": "x", "linestyle": ""},
}
LABELS = {
    TIED_PATH: "tied embeddings",
    LR_PATH: style.LEARNING_RATE,
    f"{col.PARAMS_PREFIX}optim.warmup_fraction": "warmup_fraction (fraction of the run)",
}


def learning_rate_figure(trials: pd.DataFrame, optima: Mapping[str, Fitted]) -> ReportFigure:
    """Loss against the learning rate, with the region where trials diverged and the fitted optimum of each size."""
    shown = _ended(trials)
    palette = style.colours(trials[col.SIZE])
    with style.report_style():
        figure, axes = style.new_figure()
        top = _scatter(axes, shown, LR_PATH, palette)
        axes.set_xscale("log")
        style.round_numbers(axes.xaxis)
        diverged = shown.loc[shown[col.STATUS] == col.DIVERGED, LR_PATH]
        if len(diverged):
            axes.axvspan(diverged.min(), axes.get_xlim()[1], color=style.RED, alpha=0.06, zorder=0)
        known = {size: optimum for size, optimum in optima.items() if isinstance(optimum, Estimate)}
        for size, optimum in known.items():
            axes.axvspan(optimum.low, optimum.high, color=palette[size], alpha=0.12, zorder=0)
            axes.axvline(optimum.value, color=palette[size], linewidth=1.0, linestyle="--", zorder=1)
        axes.set(xlabel=style.LEARNING_RATE, ylabel=style.LOSS)
        axes.set_ylim(top=top)
        style.legend(axes, _handles(palette, shown))
    region = f" Shaded: from {diverged.min():.1e} upwards, the lowest rate that diverged." if len(diverged) else ""
    fitted = " Dashed: the fitted optimum of a size, with its 95 % interval." if known else ""
    caption = (
        f"Last validation loss against the learning rate, n = {len(shown)} trials ({tally(shown[col.STATUS])}). "
        f"Diverged trials are drawn on the upper edge, pruned ones at the loss at which they were stopped."
        f"{region}{fitted}"
    )
    return ReportFigure("loss_lr", "Loss against the learning rate", figure, caption)


def hyperparameter_figure(trials: pd.DataFrame) -> ReportFigure | None:
    """Loss against each searched hyperparameter, in a panel each; None if none was searched."""
    paths = searched_dimensions(trials)[:MAX_PANELS]
    if not paths:
        return None
    shown = _ended(trials)
    palette = style.colours(trials[col.SIZE])
    columns = min(2, len(paths))
    rows = -(-len(paths) // columns)
    with style.report_style():
        figure = Figure(figsize=(style.WIDTH_IN, 0.4 + 2.1 * rows))
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, path in zip(panels, paths, strict=False):
            values, words = _coordinates(shown[path])
            axes.set_ylim(top=_scatter(axes, shown.assign(**{path: values}), path, palette))
            if words:
                axes.set_xticks(list(words), list(words.values()))
                axes.set_xlim(-0.5, len(words) - 0.5)
            elif _is_log(path, values):
                axes.set_xscale("log")
                style.round_numbers(axes.xaxis)
            axes.set_xlabel(LABELS.get(path, path.removeprefix(col.PARAMS_PREFIX).partition(".")[2]))
        for axes in panels[len(paths) :]:
            axes.set_visible(False)
        figure.supylabel(style.LOSS, fontsize=9.5)
        style.legend(panels[0], _handles(palette, shown))
    caption = (
        f"Last validation loss against each hyperparameter that was searched, n = {len(shown)} trials "
        f"({tally(shown[col.STATUS])}). Everything else varies as well within a panel."
    )
    return ReportFigure("loss_hyperparameters", "Loss against each hyperparameter", figure, caption)


def parallel_coordinates(trials: pd.DataFrame) -> ReportFigure | None:
    """Every trial as a line through all searched dimensions, darker for a lower loss; None if none was searched."""
    paths = searched_dimensions(trials)[:MAX_PANELS]
    shown = _ended(trials)
    if not paths or shown.empty:
        return None
    losses = shown[col.LOSS].where(shown[col.STATUS] != col.DIVERGED)
    by_size = losses.groupby(shown[col.SIZE])
    rank = (by_size.rank() - 1) / (by_size.transform("count") - 1).clip(lower=1)  # from 0, the best, to 1, the worst
    scales = [*(_unit_scale(shown[path], path) for path in paths), (rank.to_numpy(), {0.0: "best", 1.0: "worst"})]
    names = [*(short_names(paths)[path] for path in paths), "rank of loss\nin its size"]
    xs = range(len(names))
    with style.report_style():
        figure, axes = style.new_figure(height_in=3.4)
        heights = np.stack([scaled for scaled, _ in scales], axis=1)
        for share, y in zip(rank, heights, strict=True):
            if np.isnan(share):  # diverged
                axes.plot(xs, [*y[:-1], 1.06], color=style.RED, alpha=0.5, linewidth=0.8, zorder=1)
            else:
                look = {"alpha": 0.85 - 0.6 * share, "linewidth": 1.6 - share, "zorder": 3 - share}
                axes.plot(xs, y, color=style.shade(share), **look)
        for x, (_, ticks) in zip(xs, scales, strict=True):
            axes.axvline(x, color=style.GREY, linewidth=0.8, zorder=0)
            for height, text in ticks.items():
                look = {"textcoords": "offset points", "fontsize": 7.5, "va": "center", "zorder": 6}
                axes.annotate(text, (x, height), xytext=(3, 0), **look)
        axes.set_xticks(xs, names, rotation=20 if len(paths) > 4 else 0, fontsize=8.5)
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(paths) + 0.35)
        axes.set_ylabel("each axis from its lowest to its highest value", fontsize=8.5)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
    caption = (
        f"Every trial as a line through the values of all searched hyperparameters, n = {len(shown)} "
        f"({tally(shown[col.STATUS])}). The darker, the better within its size; diverged trials are red and end above "
        "the worst."
    )
    return ReportFigure("overview", "All trials in all searched dimensions", figure, caption)


def _ended(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials[LR_PATH].notna() & trials[col.STATUS].isin(LOOKS)]


def _handles(palette: Mapping[str, ColorType], trials: pd.DataFrame) -> list[Line2D]:
    return [*style.colour_handles(palette, linewidth=2), *style.status_handles(trials[col.STATUS], LOOKS)]


def _scatter(axes: Axes, trials: pd.DataFrame, path: str, palette: Mapping[str, ColorType]) -> float:
    """Draw trials as points. Returns the upper limit for the loss axis, at which the diverged ones are drawn."""
    losses = trials.loc[trials[col.STATUS] != col.DIVERGED, col.LOSS]
    top = float(losses.max() + 0.08 * (losses.max() - losses.min() or 1.0)) if len(losses) else 1.0
    for (size, status), group in trials.groupby([col.SIZE, col.STATUS], sort=False):
        x = group[path].astype("float64")
        if status == col.DIVERGED:
            axes.plot(x, [top] * len(x), "x", color=style.RED, markersize=5, clip_on=False, zorder=4)
        else:
            face = palette[size] if status == col.COMPLETE else "none"
            axes.scatter(x, group[col.LOSS], s=22, facecolors=face, edgecolors=palette[size], zorder=3)
    return top


def _coordinates(values: pd.Series) -> tuple[pd.Series, dict[float, str]]:
    """Numbers unchanged and no tick labels; or words and booleans as 0, 1, ... with their labels."""
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric or all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return values.astype("float64"), {}
    words = values.map(str).replace({"True": "yes", "False": "no"})
    names = sorted(words.unique())
    return words.map(lambda word: float(names.index(word))), {float(k): name for k, name in enumerate(names)}


def _is_log(path: str, values: pd.Series) -> bool:
    return bool(values.min() > 0 and (path == LR_PATH or values.max() / values.min() > 20))


def _unit_scale(column: pd.Series, path: str) -> tuple[Array, dict[float, str]]:
    """Values scaled to [0, 1], and tick labels."""
    values, words = _coordinates(column)
    scaled = np.log(values) if not words and _is_log(path, values) else values
    low, high = scaled.min(), scaled.max()
    span = high - low or 1.0
    ends = {0.0: f"{values.min():.3g}", 1.0: f"{values.max():.3g}"}
    return ((scaled - low) / span).to_numpy(), {(k - low) / span: word for k, word in words.items()} or ends
