"""The coordinate check: the change of each kind of activation against the width, a line for each update."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.figures.chart import Axis, Chart, ColourBar, Layer, Look, Panel
from analysis.figures.colours import GREY
from analysis.figures.encoding import colour_on
from analysis.figures.report_figure import ReportFigure


def coordinates_figure(document: Mapping[str, Any]) -> ReportFigure:
    """A panel for each kind, of the content of coordinates.json. Flat lines are those of muP.

    >>> coordinates_figure(json.loads(Path("coordcheck/coordinates.json").read_text())).save(Path("coordcheck"))
    """
    rows = pd.DataFrame(document["rows"])
    means = rows.groupby(["kind", "step", "width"], sort=False)["change"].mean().reset_index()
    widths = sorted(rows["width"].unique())
    last = int(rows["step"].max())
    bar = ColourBar("update", 1, last, reverse=True)
    panels = []
    for one in document["slopes"]:
        layers = []
        for step, own in means[(means["kind"] == one["kind"]) & (means["step"] > 0)].groupby("step"):
            frame = own.rename(columns={"width": "x", "change": "y"})[["x", "y"]].astype("float64")
            look = Look(colour_on(bar, int(step)) if last > 1 else GREY, size=4)
            layers += [Layer("line", frame, look), Layer("points", frame, look)]
        x = Axis("width", log=True, ticks={float(width): str(width) for width in widths})
        slope = "" if one["change"] is None else f" ({one['change']:+.2f})"
        panels.append(Panel(x, Axis("mean absolute change", log=True), layers, f"{one['kind']}{slope}"))
    model, seeds = document["run"]["model"], rows["seed"].nunique()
    caption = (
        f"Mean absolute change of activations since initialization, parametrization {model['parametrization']}, means "
        f"over {seeds} seeds. In parentheses: the slope at the last update, which counts as flat up to "
        f"{document['flat_slope']}."
    )
    colour_bar = bar if last > 1 else None
    return ReportFigure(Chart("coordinates", "Coordinate check", caption, panels, 3, True, 2.3, colour_bar))
