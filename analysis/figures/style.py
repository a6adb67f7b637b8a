"""What all figures share: their look, the colours of sizes, the marks of how a trial ended, and the files they become.

A `ReportFigure` is a figure with its caption; `analysis.figures.curves`, `analysis.figures.hyperparameters` and
`analysis.figures.scaling` make them. Figures are made without pyplot, so that nothing is global and no window opens.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

from analysis.tables.formatting import COUNT_SUFFIXES, count
from lmcore import columns as col

WIDTH_IN, HEIGHT_IN = 5.2, 3.6
DPI = 200
LEGEND_CHARACTERS, KEY_CHARACTERS = 66, 7  # in a line of the legend, and what the mark before a name takes of it
LOSS = "validation loss (nats per token)"
LEARNING_RATE = "learning rate (peak)"
RED, GREY, INK = "#c0392b", "#8a8f98", "#22262b"
LOOK = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
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
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "lmsweep",  # the same figure, the same bytes
}
MARKS = {
    col.COMPLETE: {"marker": "o", "linestyle": "-"},
    col.PRUNED: {"marker": "|", "linestyle": "-"},
    col.RUNNING: {"marker": ">", "linestyle": "--"},
    col.DIVERGED: {"marker": "x", "linestyle": ":"},
    col.FAILED: {"marker": "+", "linestyle": ":"},
}


@dataclass(frozen=True)
class ReportFigure:
    """A figure that can stand in a publication."""

    name: str
    """Of its files, without an ending."""
    title: str
    figure: Figure
    caption: str
    """What is shown, of how many trials."""

    @cached_property
    def svg(self) -> bytes:
        """The drawing; the same figure is the same bytes."""
        buffer = BytesIO()
        with looks():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg and NAME.png into the folder."""
        paths = [folder / f"{self.name}.{ending}" for ending in ("svg", "png")]
        paths[0].write_bytes(self.svg)
        with looks():
            self.figure.savefig(paths[1], dpi=DPI)
        return paths


@contextmanager
def looks() -> Iterator[None]:
    """A block in which matplotlib draws like this project."""
    with mpl.rc_context(LOOK):
        yield


def new_figure(columns: int = 1, rows: int = 1, height_in: float = HEIGHT_IN, **options: Any) -> tuple[Figure, Any]:
    """An empty figure and its axes; call it inside `looks`."""
    figure = Figure(figsize=(WIDTH_IN, height_in))
    return figure, figure.subplots(rows, columns, **options)


def colours(names: Iterable[str]) -> dict[str, Any]:
    """A colour for each name, in their order from dark to light: sizes are ordered."""
    names = list(dict.fromkeys(names))
    scale = mpl.colormaps["viridis"]
    return {name: scale(0.05 + 0.8 * place / max(len(names) - 1, 1)) for place, name in enumerate(names)}


def round_numbers(axis: Axis, suffixes: tuple[str, ...] = COUNT_SUFFIXES) -> None:
    """Give an axis that is logarithmic already short round numbers, some of them however narrow its range is."""
    low, high = axis.get_view_interval()
    if high > 30 * low:
        axis.set_major_locator(LogLocator(numticks=7))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 3 * low else np.arange(1, 10, 0.5), numticks=7))
    axis.set_major_formatter(lambda value, _: count(value, suffixes) if value >= 1000 else f"{value:.3g}")
    axis.set_minor_formatter(NullFormatter())


def status_handles(statuses: Iterable[str]) -> list[Line2D]:
    """Legend entries for the ways in which the trials shown have ended."""
    present = set(statuses)
    return [
        Line2D([], [], color=RED if status == col.DIVERGED else GREY, label=status, markersize=5, **mark)
        for status, mark in MARKS.items()
        if status in present
    ]


def size_handles(palette: dict[str, Any]) -> list[Line2D]:
    """Legend entries for the sizes."""
    return [Line2D([], [], color=colour, label=name, linewidth=2) for name, colour in palette.items()]


def legend(axes: Axes, handles: list[Line2D], most: int = 14) -> None:
    """A legend below the axes, where it hides nothing; none for so many entries that nobody could read it."""
    if 1 < len(handles) <= most:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(4, len(handles), LEGEND_CHARACTERS // (longest + KEY_CHARACTERS)))
        axes.figure.legend(handles=handles, loc="outside lower center", ncols=columns)
