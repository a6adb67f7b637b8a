"""A `Chart` as the data and layout of a plotly figure, for a page that has plotly.js.

Only plain values: the page adds what the mouse shows of a trial, from its own table of trials, by `customdata`. Colours
are those of a white page; `analysis.figures.colours.DARK` has those of a dark one.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, ColourBar, Layer, Panel
from analysis.figures.colours import GREY, INK, ORDERED, RULE, text_on
from analysis.figures.draw import bar_colour, with_gaps

SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x"},
    **{"x": "x-thin-open", "+": "cross-thin-open", "*": "star", "|": "line-ns-open", "_": "line-ew-open"},
    **{">": "triangle-right", "<": "triangle-left"},
}
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
DIGITS = 6
"""Significant digits of coordinates: more than a screen can show."""
PX_PER_IN, MARGIN_PX = 100, 110
POINT_PX = 96 / 72
IN_CELL = "cell"
"""Name of the annotations in cells: a narrow page has no room for them, and shows the values by touch."""
GAP = 0.14
"""Between panels, as a part of the width or height of the figure."""


def interactive(chart: Chart) -> dict[str, Any]:
    """`{"data": [...], "layout": {...}}` for `Plotly.newPlot`; JSON without NaN.

    >>> interactive(chart)["data"][0]["customdata"]
    ['xs-0003', 'xs-0004']
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"shapes": [], "annotations": []}
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    named: set[str] = set()
    for number, panel in enumerate(chart.panels):
        names = ("x", "y") if number == 0 else (f"x{number + 1}", f"y{number + 1}")
        row, column = divmod(number, columns)
        layout |= _axes(panel, names, _domain(column, columns), _domain(rows - 1 - row, rows))
        for layer in panel.layers:
            data += _traces(layer, names, panel, chart.colour_bar, named)
            layout["shapes"] += _shapes(layer, names)
            layout["annotations"] += _texts(layer, names, panel, chart.colour_bar)
        if panel.title:
            place = {
                "xref": f"{names[0]} domain",
                "yref": f"{names[1]} domain",
                "x": 0.5,
                "y": 1.0,
                "yanchor": "bottom",
            }
            layout["annotations"].append({"text": _escaped(panel.title), "showarrow": False, **place})
    if chart.colour_bar is not None and not chart.layers("cells"):
        data.append(_scale(chart.colour_bar))
    layout |= {
        "height": round(PX_PER_IN * chart.panel_height_in) * rows + MARGIN_PX,
        "margin": {"l": 64, "r": 16, "t": 24, "b": 48},
        "hovermode": "closest",
        "showlegend": len(named) > 1,
        "legend": {"orientation": "h", "y": -0.18 / rows, "yanchor": "top"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 13},
    }
    return {"data": data, "layout": layout}


def _domain(place: int, of: int) -> list[float]:
    width = (1 - GAP * (of - 1)) / of
    start = place * (width + GAP)
    return [round(start, 4), round(start + width, 4)]


def _axes(panel: Panel, names: tuple[str, str], x_domain: list[float], y_domain: list[float]) -> dict[str, Any]:
    x_name, y_name = (f"{name[0]}axis{name[1:]}" for name in names)
    return {
        x_name: {**_axis(panel.x, _highest(panel, "x")), "domain": x_domain, "anchor": names[1]},
        y_name: {**_axis(panel.y, _highest(panel, "y")), "domain": y_domain, "anchor": names[0]},
    }


def _highest(panel: Panel, which: str) -> float:
    """The highest value that a panel shows along an axis."""
    axis: Axis = getattr(panel, which)
    if axis.limits is not None:
        return max(axis.limits)
    return max((float(layer.frame[which].max()) for layer in panel.layers if which in layer.frame), default=1.0)


def _axis(axis: Axis, highest: float) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": {"text": _escaped(axis.label)}, "type": "log" if axis.log else "linear"}
    shown |= {"gridcolor": RULE, "linecolor": GREY, "zeroline": False, "automargin": True, "exponentformat": "SI"}
    if axis.limits is not None:
        shown["range"] = [math.log10(limit) if axis.log else limit for limit in axis.limits]
    if axis.ticks:
        shown |= {"tickmode": "array", "tickvals": list(axis.ticks), "ticktext": [*map(_escaped, axis.ticks.values())]}
    elif axis.log:
        # SI would write 0.002 as 2m.
        shown |= {"dtick": "D2", "tickformat": ".3~s" if highest >= 1 else "~e"}
    return shown


def _traces(
    layer: Layer, names: tuple[str, str], panel: Panel, bar: ColourBar | None, named: set[str]
) -> list[dict[str, Any]]:
    frame, look = layer.frame, layer.look
    trace: dict[str, Any] = {"xaxis": names[0], "yaxis": names[1], "opacity": look.opacity, "showlegend": False}
    if layer.label:
        trace |= {"name": _escaped(layer.label), "legendgroup": layer.label, "showlegend": layer.label not in named}
        named.add(layer.label)
    line = {"color": look.colour, "width": look.width * POINT_PX, "dash": DASHES[look.dash]}
    match layer.kind:
        case "points":
            marker: dict[str, Any] = {"symbol": SYMBOLS.get(look.marker, "circle"), "size": look.size * POINT_PX}
            marker |= {
                "color": look.colour,
                "line": {"color": look.colour, "width": 1.6 if look.marker in "x+|_" else 0},
            }
            if look.hollow:
                marker["symbol"] += "-open"
                marker["line"]["width"] = 1.6
            trace |= {"type": "scatter", "mode": "markers", "marker": marker, **_points(frame, frame["x"], frame["y"])}
            for which, low, high in (("error_y", "low", "high"), ("error_x", "x_low", "x_high")):
                if low in frame:
                    value = frame["y" if low == "low" else "x"]
                    bars = {"array": _numbers(frame[high] - value), "arrayminus": _numbers(value - frame[low])}
                    trace[which] = {"symmetric": False, "thickness": 1.4, "width": 4, "color": look.colour, **bars}
        case "line" | "steps":
            x, y = with_gaps(frame)
            shape = "hv" if layer.kind == "steps" else "linear"
            trace |= {"type": "scatter", "mode": "lines", "line": {**line, "shape": shape}, **_points(frame, x, y)}
        case "band":
            x = pd.concat([frame["x"], frame["x"][::-1]])
            trace |= {
                "type": "scatter",
                "x": _numbers(x),
                "y": _numbers(pd.concat([frame["low"], frame["high"][::-1]])),
            }
            trace |= {"mode": "lines", "fill": "toself", "fillcolor": look.colour, "line": {"width": 0}}
            trace |= {"hoverinfo": "skip"}
        case "bars":
            trace |= {"type": "bar", "orientation": "h", "marker": {"color": look.colour}, "width": 0.62}
            trace |= _points(frame, frame["value"], frame["y"])
            if "low" in frame:
                plus, minus = _numbers(frame["high"] - frame["value"]), _numbers(frame["value"] - frame["low"])
                trace["error_x"] = {"symmetric": False, "array": plus, "arrayminus": minus, "color": INK}
        case "cells":
            assert bar is not None, "cells need a colour bar"
            trace |= _heat_map(frame, bar)
        case _:
            return []
    return [trace]


def _points(frame: pd.DataFrame, x: Any, y: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"x": _numbers(x), "y": _numbers(y)}
    if "trial" in frame:
        shown["customdata"] = _with_gaps(frame, frame["trial"].tolist())
    if "hover" in frame:
        texts = ["" if text is None else _escaped(text) for text in _with_gaps(frame, frame["hover"].tolist())]
        shown |= {"text": texts, "hovertemplate": "%{text}<extra></extra>"}
    return shown


def _with_gaps(frame: pd.DataFrame, values: list[Any]) -> list[Any]:
    """One value per point, None between the lines."""
    if "line" not in frame:
        return values
    filled: list[Any] = []
    lines = frame["line"].tolist()
    for place, value in enumerate(values):
        if place and lines[place] != lines[place - 1]:
            filled.append(None)
        filled.append(value)
    return filled


def _heat_map(frame: pd.DataFrame, bar: ColourBar) -> dict[str, Any]:
    table = frame.pivot(index="y", columns="x", values="value")
    z = np.log10(table.to_numpy(float)) if bar.log else table.to_numpy(float)
    limits = [math.log10(value) if bar.log else value for value in (bar.low, bar.high)]
    shown: dict[str, Any] = {"type": "heatmap", "x": _numbers(table.columns), "y": _numbers(table.index)}
    shown |= {"z": [_numbers(row) for row in z], "zmin": limits[0], "zmax": limits[1], "colorscale": _colorscale(bar)}
    shown |= {"colorbar": {"title": {"text": _escaped(bar.label), "side": "right"}, "thickness": 14}}
    for column, key in (("trial", "customdata"), ("hover", "text")):
        if column in frame:
            words = frame.pivot(index="y", columns="x", values=column).fillna("")
            shown[key] = [[_escaped(word) for word in row] for row in words.to_numpy().tolist()]
    if "hover" in frame:
        shown["hovertemplate"] = "%{text}<extra></extra>"
    return shown


def _scale(bar: ColourBar) -> dict[str, Any]:
    """An invisible point that has the colour bar of lines."""
    limits = [math.log10(value) if bar.log else value for value in (bar.low, bar.high)]
    marker: dict[str, Any] = {"color": limits, "cmin": limits[0], "cmax": limits[1], "colorscale": _colorscale(bar)}
    marker |= {
        "showscale": True,
        "colorbar": {"title": {"text": _escaped(bar.label), "side": "right"}, "thickness": 14},
    }
    if bar.log:
        places = [limits[0] + (limits[1] - limits[0]) * k / 4 for k in range(5)]
        marker["colorbar"] |= {"tickvals": places, "ticktext": [f"{10**place:.2g}" for place in places]}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [None, None],
        "y": [None, None],
        "marker": marker,
        "showlegend": False,
    }


def _colorscale(bar: ColourBar) -> list[list[Any]]:
    names = ORDERED[::-1] if bar.reverse else ORDERED
    return [[place / (len(names) - 1), name] for place, name in enumerate(names)]


def _shapes(layer: Layer, names: tuple[str, str]) -> list[dict[str, Any]]:
    x, y = names
    look, frame = layer.look, layer.frame
    line = {"color": look.colour, "width": look.width * POINT_PX, "dash": DASHES[look.dash]}
    shapes: list[dict[str, Any]] = []
    if layer.kind == "span":
        for low, high in zip(frame["x_low"], frame["x_high"], strict=True):
            area = {"type": "rect", "xref": x, "yref": f"{y} domain", "x0": low, "x1": high, "y0": 0, "y1": 1}
            shapes.append(
                {**area, "fillcolor": look.colour, "opacity": look.opacity, "line": {"width": 0}, "layer": "below"}
            )
    if layer.kind == "rule":
        for at in frame.get("x", ()):
            shapes.append(
                {"type": "line", "xref": x, "yref": f"{y} domain", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
            )
        for at in frame.get("y", ()):
            shapes.append(
                {"type": "line", "xref": f"{x} domain", "yref": y, "x0": 0, "x1": 1, "y0": at, "y1": at, "line": line}
            )
    return shapes


def _texts(layer: Layer, names: tuple[str, str], panel: Panel, bar: ColourBar | None) -> list[dict[str, Any]]:
    """Annotations; on a logarithmic axis their places are exponents."""
    if layer.kind not in ("text", "cells") or "text" not in layer.frame:
        return []
    centred = layer.kind == "cells"
    found = []
    for row in layer.frame.itertuples():
        place = {
            "x": math.log10(row.x) if panel.x.log else row.x,
            "y": math.log10(row.y) if panel.y.log else row.y,
        }
        colour = text_on(bar_colour(bar, row.value)) if centred and bar is not None else layer.look.colour
        look = {"showarrow": False, "font": {"color": colour}}
        high: dict[str, Any] = {"yanchor": "middle"} if layer.look.beside else {"yanchor": "bottom", "yshift": 2}
        where = {"name": IN_CELL} if centred else {"xanchor": "left", "xshift": 4, **high}
        found.append({"xref": names[0], "yref": names[1], "text": _escaped(row.text), **place, **look, **where})
    return found


def _numbers(values: Any) -> list[float | None]:
    """Rounded, and None for what is not finite."""
    rounded = (float(f"{value:.{DIGITS}g}") for value in np.asarray(values, float))
    return [value if math.isfinite(value) else None for value in rounded]


def _escaped(text: Any) -> str:
    """Plotly reads a little HTML in texts."""
    words = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return words.replace("\n", "<br>")
