"""What all figures share: their style, colours by size, legends, and the files they are saved as.

Figures are made without pyplot, so there is no global state and no window opens. `analysis.figures.registry` lists all
figures of a report.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.typing import ColorType, RcKeyType
from numpy.typing import ArrayLike

from analysis.stats.bootstrap import Array
from analysis.tables.formatting import COUNT_SUFFIXES, count
from lmcore.notebook import html_card, html_image, html_lines

WIDTH_IN, HEIGHT_IN = 5.2, 3.6
DPI = 200
LEGEND_CHARACTERS, KEY_CHARACTERS = 66, 7  # per line of a legend, and of these the key in front of each label
LOSS = "validation loss (nats per token)"
LEARNING_RATE = "learning rate (peak)"
RED, GREY, INK = "#c0392b", "#8a8f98", "#22262b"
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "lmsweep",  # reproducible ids: the same figure gives the same bytes
}


@dataclass(frozen=True, repr=False)
class ReportFigure:
    """A figure with its caption.

    >>> figure = learning_rate_figure(trials, {})
    >>> figure.save(Path("report"))  # report/loss_lr.svg and report/loss_lr.png
    """

    name: str  # file name without extension
    title: str
    figure: Figure
    caption: str  # what is shown, and of how many trials

    def __repr__(self) -> str:
        return f"<ReportFigure {self.name}: {self.title}>"

    def _repr_html_(self) -> str:
        return html_card(self.title, "<br>", html_image(self.svg, self.title), html_lines([self.caption]))

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG; the same figure gives the same bytes."""
        buffer = BytesIO()
        with report_style():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg and NAME.png into the folder, and return their paths."""
        paths = [folder / f"{self.name}.{extension}" for extension in ("svg", "png")]
        paths[0].write_bytes(self.svg)
        with report_style():
            self.figure.savefig(paths[1], dpi=DPI)
        return paths


def report_style() -> AbstractContextManager[None]:
    """A context in which matplotlib uses STYLE."""
    return mpl.rc_context(STYLE)


def new_figure(height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    """An empty figure and its axes; call it inside `report_style`."""
    figure = Figure(figsize=(WIDTH_IN, height_in))
    return figure, figure.subplots()


def shade(fraction: float) -> ColorType:
    """A colour from dark (0) to light (1)."""
    return mpl.colormaps["viridis"](0.05 + 0.8 * fraction)


def colours(names: Iterable[str]) -> dict[str, ColorType]:
    """A colour per name, from dark to light in the order of the names, because sizes are ordered."""
    names = list(dict.fromkeys(names))
    return {name: shade(index / max(len(names) - 1, 1)) for index, name in enumerate(names)}


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


def log_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Two logarithmic axes with round tick labels."""
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    round_numbers(axes.xaxis)
    round_numbers(axes.yaxis)


def colour_handles(palette: Mapping[str, ColorType], unit: str = "", **look: Any) -> list[Line2D]:
    """Legend entries for `colours`."""
    return [Line2D([], [], color=colour, label=f"{name}{unit}", **look) for name, colour in palette.items()]


def status_handles(statuses: Iterable[str], looks: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    """Legend entries for the statuses that occur, in the order of `looks`, each drawn with its look."""
    present = set(statuses)
    return [Line2D([], [], label=name, markersize=5, **look) for name, look in looks.items() if name in present]


def legend(axes: Axes, handles: list[Line2D], most: int = 14) -> None:
    """A legend below the axes, where it hides nothing; none if it has more than `most` entries, or just one."""
    if 1 < len(handles) <= most:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(4, len(handles), LEGEND_CHARACTERS // (longest + KEY_CHARACTERS)))
        figure = axes.get_figure(root=True)
        assert figure is not None, "axes belong to a figure"
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
