"""Loss against parameters: a line per arm through its sizes, with 95 % intervals from seeds."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.chart import Axis, Chart, Layer, Panel
from analysis.figures.encoding import looks_of
from analysis.figures.report_figure import ReportFigure
from analysis.tables.formatting import count
from analysis.tables.settings import HALF
from analysis.tables.trials import SEEDS, TIED, TYING
from lmcore import columns as col


def parameters_figure(parameters: pd.DataFrame) -> ReportFigure | None:
    """The rows of `analysis.tables.trials.parameter_table`; None for a single size, for sizes of one number of
    parameters, or if no row is complete.

    Without arms, tied and untied models are the lines; experiments are a line each. Rows that are not complete are
    hollow and without interval.

    >>> parameters_figure(parameter_table(trials)).chart.layers("line", "tied")[0].frame
    """
    shown = parameters[np.isfinite(parameters[col.LOSS])]
    final = shown[col.STATUS] == col.COMPLETE
    if not final.any() or min(shown[col.SIZE].nunique(), shown[col.PARAMS_EXACT].nunique()) < 2:
        return None
    names = _names(shown)
    layers: list[Layer] = []
    for name, look in looks_of(names).items():
        own = shown[names == name].sort_values(col.PARAMS_EXACT)
        hollow = replace(look, hollow=True)
        ended = own[col.STATUS] == col.COMPLETE
        layers += [
            Layer("line", _points(own[ended])[["x", "y"]], look, name),
            Layer("points", _points(own[ended]), look, name),
            Layer("points", _points(own[~ended])[["x", "y", "trial", "hover"]], hollow, name),
        ]
    layers = [layer for layer in layers if len(layer.frame)]
    n = int(shown[SEEDS].sum())
    bars = "Bars: 95 % intervals from seeds." if shown[HALF].notna().any() else "One seed each, so no intervals."
    start = "Validation loss of the leading setting against the number of parameters"
    caption = f"{start}, n = {n} complete runs. {bars}{'' if final.all() else ' Hollow: not trained to the end.'}"
    panel = Panel(Axis("parameters (all)", log=True), Axis(style.LOSS), layers)
    return ReportFigure(Chart("loss_parameters", "Loss against parameters", caption, [panel], panel_height_in=3.6))


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    loss, half = rows[col.LOSS].astype(float), rows[HALF].astype(float)
    hover = [
        f"{size}: {count(parameters)} parameters, {mean:.3f}{f' ± {error:.3f}' if error == error else ''} nats, {trial}"
        for size, parameters, mean, error, trial in zip(
            rows[col.SIZE], rows[col.PARAMS_EXACT], loss, half, rows[col.TRIAL], strict=True
        )
    ]
    ends = {"low": loss - half.fillna(0), "high": loss + half.fillna(0)}
    places = {"x": rows[col.PARAMS_EXACT].astype(float), "y": loss}
    return pd.DataFrame({**places, **ends, "trial": rows[col.TRIAL], "hover": hover})


def _names(parameters: pd.DataFrame) -> pd.Series:
    """The line of each row."""
    present = [name for name in (col.EXPERIMENT, col.ARM) if name in parameters]
    if not present:
        return parameters[TIED].map(TYING)
    return parameters[present].fillna("").agg(" ".join, axis=1).str.strip()
