"""Draws a `Chart` with matplotlib, for papers, and as SVG for the page."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import style
from analysis.figures.chart import Axis, Chart, ColourBar, Dash, Layer, Look, Panel
from analysis.figures.colours import GREY, INK, ORDERED, text_on

LINE_STYLES: dict[Dash, Any] = {
    "solid": "-",
    "dashed": (0, (5, 2)),
    "dotted": (0, (1.2, 1.6)),
    "dashdot": (0, (5, 2, 1.2, 2)),
}
MOST_ENTRIES = 20
LARGEST_ENTRY = 8.0  # points; of markers in the legend


def draw(chart: Chart) -> Figure:
    """The figure, with a legend below it.

    >>> draw(chart).savefig("loss_lr.pdf")
    """
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    with style.report_style():
        figure = Figure(figsize=(style.WIDTH_IN, 0.5 + chart.panel_height_in * rows))
        axes = figure.subplots(rows, columns, squeeze=False, sharey=chart.share_y).ravel()
        for panel, own in zip(chart.panels, axes, strict=False):
            _draw_panel(own, panel, chart.colour_bar)
            if chart.share_y and own.get_subplotspec() is not None and not own.get_subplotspec().is_first_col():
                own.set_ylabel("")
        for own in axes[len(chart.panels) :]:
            own.set_visible(False)
        if chart.colour_bar is not None:
            _draw_colour_bar(figure, list(axes[: len(chart.panels)]), chart.colour_bar)
        _draw_legend(figure, chart)
    return figure


def _draw_panel(axes: Axes, panel: Panel, bar: ColourBar | None) -> None:
    for which, axis in (("x", panel.x), ("y", panel.y)):
        axes.set(**{f"{which}label": axis.label, f"{which}scale": "log" if axis.log else "linear"})
    for order, layer in enumerate(panel.layers):
        _draw_layer(axes, layer, order + 2, bar)
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)
    if panel.title:
        axes.set_title(panel.title, fontsize=9.5)
    if panel.y.ticks or any(layer.kind == "cells" for layer in panel.layers):
        axes.grid(visible=False, axis="y")
    if any(layer.kind == "cells" for layer in panel.layers):
        axes.grid(visible=False)


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    own = axes.xaxis if which == "x" else axes.yaxis
    if axis.limits is not None:
        axes.set(**{f"{which}lim": axis.limits})
    if axis.ticks:
        own.set_ticks(list(axis.ticks), list(axis.ticks.values()))
        own.set_ticks([], minor=True)
    elif axis.log:
        style.round_numbers(own, axis.suffixes)
    else:
        style.plain_numbers(own, axis.suffixes)


def _draw_layer(axes: Axes, layer: Layer, order: int, bar: ColourBar | None) -> None:
    frame, look = layer.frame, layer.look
    line: dict[str, Any] = {"color": look.colour, "linestyle": LINE_STYLES[look.dash], "linewidth": look.width}
    line |= {"alpha": look.opacity, "zorder": order}
    match layer.kind:
        case "points":
            _draw_points(axes, frame, look, order)
        case "line" | "steps":
            drawstyle = "steps-post" if layer.kind == "steps" else "default"
            x, y = with_gaps(frame)
            axes.plot(x, y, drawstyle=drawstyle, **line)
        case "band":
            x, low, high = (frame[name].to_numpy(float) for name in ("x", "low", "high"))
            axes.fill_between(x, low, high, color=look.colour, alpha=look.opacity, linewidth=0, zorder=order)
        case "bars":
            axes.barh(frame["y"], frame["value"], height=0.62, color=look.colour, alpha=look.opacity, zorder=order)
            if "low" in frame:
                errors = style.error_bars(frame["value"], frame["low"], frame["high"])
                bars: dict[str, Any] = {
                    "fmt": "none",
                    "ecolor": INK,
                    "elinewidth": 1.2,
                    "capsize": 3,
                    "zorder": order + 1,
                }
                axes.errorbar(frame["value"], frame["y"], xerr=np.nan_to_num(errors), **bars)
        case "cells":
            assert bar is not None, "cells need a colour bar"
            _draw_cells(axes, frame, bar)
        case "span":
            for low, high in zip(frame["x_low"], frame["x_high"], strict=True):
                axes.axvspan(low, high, color=look.colour, alpha=look.opacity, linewidth=0, zorder=0)
        case "rule":
            for x in frame.get("x", ()):
                axes.axvline(x, **line)
            for y in frame.get("y", ()):
                axes.axhline(y, **line)
        case "text":
            place: dict[str, Any] = {"xytext": (4, 0 if look.beside else 3), "textcoords": "offset points"}
            place |= {"va": "center" if look.beside else "baseline", "color": look.colour, "zorder": order + 2}
            place["bbox"] = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
            for row in frame.itertuples():
                axes.annotate(row.text, (row.x, row.y), **place)


def _draw_points(axes: Axes, frame: pd.DataFrame, look: Look, order: int) -> None:
    x, y = frame["x"].to_numpy(float), frame["y"].to_numpy(float)
    errors: dict[str, Any] = {}
    if "low" in frame:
        errors["yerr"] = np.nan_to_num(style.error_bars(y, frame["low"], frame["high"]))
    if "x_low" in frame:
        errors["xerr"] = np.nan_to_num(style.error_bars(x, frame["x_low"], frame["x_high"]))
    if errors:
        bars: dict[str, Any] = {
            "ecolor": look.colour,
            "elinewidth": look.width,
            "capsize": 3,
            "alpha": look.opacity,
            "zorder": order,
        }
        axes.errorbar(x, y, fmt="none", **errors, **bars)
    face = "white" if look.hollow else look.colour
    mark: dict[str, Any] = {"marker": look.marker, "markersize": look.size, "markerfacecolor": face}
    mark |= {"color": look.colour, "alpha": look.opacity, "markeredgewidth": 1.2, "zorder": order + 0.5}
    axes.plot(x, y, linestyle="", clip_on=False, **mark)


def _draw_cells(axes: Axes, frame: pd.DataFrame, bar: ColourBar) -> None:
    """A heat map whose cells are as wide as the distances of their places."""
    table = frame.pivot(index="y", columns="x", values="value")
    shown = colour_map(bar), _norm(bar)
    x, y = edges(table.columns, axes.get_xscale() == "log"), edges(table.index, axes.get_yscale() == "log")
    axes.pcolormesh(x, y, np.ma.masked_invalid(table.to_numpy(float)), cmap=shown[0], norm=shown[1], zorder=1)
    for row in frame.itertuples():
        if getattr(row, "text", ""):
            colour = text_on(bar_colour(bar, row.value))
            axes.text(row.x, row.y, row.text, color=colour, ha="center", va="center", fontsize=8.5, zorder=3)


def edges(places: Any, log: bool) -> np.ndarray:
    """The borders [n + 1] of cells around n ascending places, in the middle between them.

    >>> edges([1, 2, 4], log=False).tolist()
    [0.5, 1.5, 3.0, 5.0]
    """
    at = np.log(np.asarray(places, float)) if log else np.asarray(places, float)
    middle = (at[1:] + at[:-1]) / 2
    half = (middle[0] - at[0], at[-1] - middle[-1]) if len(at) > 1 else (0.5, 0.5)
    all_edges = np.concatenate([[at[0] - half[0]], middle, [at[-1] + half[1]]])
    return np.exp(all_edges) if log else all_edges


def colour_map(bar: ColourBar) -> colors.Colormap:
    """The colours of a colour bar."""
    return colors.LinearSegmentedColormap.from_list("ordered", ORDERED[::-1] if bar.reverse else ORDERED)


def bar_colour(bar: ColourBar, value: float) -> str:
    """The colour of a value, as `#rrggbb`; of one that is not finite, that of the page."""
    return colors.to_hex(colour_map(bar)(_norm(bar)(value))) if np.isfinite(value) else "#ffffff"


def _norm(bar: ColourBar) -> colors.Normalize:
    high = bar.high if bar.high > bar.low else bar.low + 1e-9
    return colors.LogNorm(bar.low, high) if bar.log else colors.Normalize(bar.low, high)


def _draw_colour_bar(figure: Figure, axes: list[Axes], bar: ColourBar) -> None:
    shown = figure.colorbar(ScalarMappable(_norm(bar), colour_map(bar)), ax=axes, label=bar.label, pad=0.02, aspect=30)
    shown.outline.set_visible(False)
    (style.round_numbers if bar.log else style.plain_numbers)(shown.ax.yaxis)


def with_gaps(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """x and y of lines, with a NaN between one line and the next.

    >>> with_gaps(pd.DataFrame({"x": [1, 2, 1], "y": [5, 4, 6], "line": ["a", "a", "b"]}))[0].tolist()
    [1.0, 2.0, nan, 1.0]
    """
    x, y = frame["x"].to_numpy(float), frame["y"].to_numpy(float)
    if "line" not in frame or len(frame) < 2:
        return x, y
    starts = np.flatnonzero(frame["line"].to_numpy()[1:] != frame["line"].to_numpy()[:-1]) + 1
    return np.insert(x, starts, np.nan), np.insert(y, starts, np.nan)


def _draw_legend(figure: Figure, chart: Chart) -> None:
    """Below the figure, where it hides nothing. A single entry needs none: the caption says what it is."""
    labels = legend_labels(chart)
    if not 1 < len(labels) <= MOST_ENTRIES:
        return
    columns = max(1, min(4, len(labels), style.LEGEND_CHARACTERS // (max(map(len, labels)) + style.KEY_CHARACTERS)))
    handles = [_handle(chart.layers(label=label), label) for label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def legend_labels(chart: Chart) -> list[str]:
    """The labels of all layers. Hollow marks, areas and what is grey comment on the others, so they come last."""
    layers = sorted(
        chart.layers(), key=lambda one: one.look.hollow or one.look.colour == GREY or one.kind in ("span", "band")
    )
    return list(dict.fromkeys(layer.label for layer in layers if layer.label))


def _handle(layers: list[Layer], label: str) -> Artist:
    """The legend entry of layers that share a label: a patch, or a line and a marker together."""
    kinds = {layer.kind: layer.look for layer in reversed(layers)}
    areas = [kinds[kind] for kind in ("bars", "span", "band") if kind in kinds]
    lines = [kinds[kind] for kind in ("line", "steps", "rule") if kind in kinds]
    points = kinds.get("points")
    if points is None and not lines:
        return Patch(color=areas[0].colour, alpha=max(areas[0].opacity, 0.15), linewidth=0, label=label)
    look = lines[0] if lines else points
    assert look is not None
    handle = Line2D([], [], color=look.colour, linewidth=look.width, label=label)
    handle.set_linestyle(LINE_STYLES[look.dash] if lines else "")
    if points is not None:
        handle.set(marker=points.marker, markersize=min(points.size, LARGEST_ENTRY), markeredgecolor=points.colour)
        handle.set_markerfacecolor("white" if points.hollow else points.colour)
    return handle
