"""What all figures share: their style, tick labels and legends.

Figures are made without pyplot, so there is no global state and no window opens. `analysis.figures.registry` lists all
figures of a report.
"""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import RcKeyType
from numpy.typing import ArrayLike

from analysis.figures.colours import GREY, INK, RULE
from analysis.stats.bootstrap import Array
from analysis.tables.formatting import COUNT_SUFFIXES, count

WIDTH_IN = 6.0
LEGEND_CHARACTERS, KEY_CHARACTERS = 66, 7  # per line of a legend, and of these the key in front of each label
LOSS = "validation loss (nats per token)"
LEARNING_RATE = "learning rate (peak)"
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text that can be searched and selected
    "svg.hashsalt": "lmsweep",  # reproducible ids: the same figure gives the same bytes
}


def own_ids(name: str) -> AbstractContextManager[None]:
    """A context in which the ids in an SVG are those of the figure `name`, so that a page can hold several."""
    return mpl.rc_context({"svg.hashsalt": f"lmsweep {name}", "svg.id": name})


def report_style() -> AbstractContextManager[None]:
    """A context in which matplotlib uses STYLE."""
    return mpl.rc_context(STYLE)


def error_bars(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Lengths [2, n] of the bars below and above, for `xerr` or `yerr`."""
    value, low, high = (np.atleast_1d(np.asarray(x, float)) for x in (value, low, high))
    return np.maximum([value - low, high - value], 0)


def round_numbers(axis: Axis, suffixes: tuple[str, ...] = COUNT_SUFFIXES) -> None:
    """Give a logarithmic axis short round tick labels, and at least a few of them however narrow its range is."""
    low, high = axis.get_view_interval()
    subs: list[float] = [1] if high > 30 * low else [1, 2, 5] if high > 3 * low else list(np.arange(1, 10, 0.5))
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(lambda value, _: count(value, suffixes) if value >= 1000 else f"{value:.3g}")
    axis.set_minor_formatter(NullFormatter())


def plain_numbers(axis: Axis, suffixes: tuple[str, ...] = COUNT_SUFFIXES) -> None:
    """Give a linear axis few tick labels, those of 1000 and more with a suffix."""
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: count(value, suffixes) if abs(value) >= 1000 else f"{value:g}")
