"""Loss against parameters: a line per arm through its sizes, with 95 % intervals from seeds."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.style import ReportFigure
from analysis.tables.settings import HALF
from analysis.tables.trials import SEEDS, TIED, TYING
from lmcore import columns as col

MARKERS = "osD^vPX*"


def parameters_figure(parameters: pd.DataFrame) -> ReportFigure | None:
    """The rows of `analysis.tables.trials.parameter_table`; None if no row is complete.

    Without arms, tied and untied models are the lines; experiments are a line each. Rows that are not complete are
    hollow and without interval.
    """
    shown = parameters[np.isfinite(parameters[col.LOSS])]
    if not (shown[col.STATUS] == col.COMPLETE).any():
        return None
    names = _names(shown)
    palette = style.colours(names)
    with style.report_style():
        figure, axes = style.new_figure()
        for place, (name, own) in enumerate(shown.groupby(names, sort=False)):
            own = own.sort_values(col.PARAMS_EXACT)
            x, y = own[col.PARAMS_EXACT].astype(float), own[col.LOSS]
            final = own[col.STATUS] == col.COMPLETE
            look: dict[str, Any] = {"color": palette[name], "marker": MARKERS[place % len(MARKERS)], "markersize": 5}
            axes.plot(x[final], y[final], "-", color=palette[name], linewidth=1.1)
            axes.errorbar(x[final], y[final], yerr=own.loc[final, HALF].fillna(0), linestyle="", capsize=3, **look)
            axes.plot(x[~final], y[~final], linestyle="", markerfacecolor="none", **look)
        axes.set(xscale="log", xlabel="parameters (all)", ylabel=style.LOSS)
        style.round_numbers(axes.xaxis)
        handles = style.colour_handles(palette, linewidth=1.1)
        for place, handle in enumerate(handles):
            handle.set_marker(MARKERS[place % len(MARKERS)])
        style.legend(axes, handles)
    n = int(shown[SEEDS].sum())
    hollow = " Hollow: not trained to the end." if (shown[col.STATUS] != col.COMPLETE).any() else ""
    bars = "Bars: 95 % intervals from seeds." if shown[HALF].notna().any() else "One seed each, so no intervals."
    start = "Validation loss of the leading setting against the number of parameters"
    caption = f"{start}, n = {n} complete runs. {bars}{hollow}"
    return ReportFigure("loss_parameters", "Loss against parameters", figure, caption)


def _names(parameters: pd.DataFrame) -> pd.Series:
    """The line of each row."""
    for name in (col.EXPERIMENT, col.ARM):
        if name in parameters:
            return parameters[name].fillna("")
    return parameters[TIED].map(TYING)
