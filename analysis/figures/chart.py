"""`Chart`: what a figure shows, as data. `analysis.figures.draw` draws it for papers, `interactive` for a page.

A chart has panels, a panel has layers, and a layer is a table of what it draws. So a test can look at the numbers
behind a figure, and a picture and a page that answers to the mouse cannot disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from analysis.tables.formatting import COUNT_SUFFIXES

Kind = Literal["points", "line", "steps", "band", "bars", "cells", "span", "rule", "text"]
Dash = Literal["solid", "dashed", "dotted", "dashdot"]

COLUMNS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "points": (("x", "y"), ("low", "high", "x_low", "x_high", "trial", "hover")),
    "line": (("x", "y"), ("line", "trial", "hover")),
    "steps": (("x", "y"), ("line", "trial", "hover")),
    "band": (("x", "low", "high"), ()),
    "bars": (("y", "value"), ("low", "high", "hover")),
    "cells": (("x", "y", "value"), ("trial", "hover", "text")),
    "span": (("x_low", "x_high"), ()),
    "rule": ((), ("x", "y")),
    "text": (("x", "y", "text"), ()),
}
"""The columns that a layer of each kind must have, and those that it may have.

points  x, y; low to high is an interval of y, x_low to x_high one of x; `trial` is what a click leads to
line    consecutive points, joined; a new value of `line` begins a new line
steps   the same, constant from each point to the next
band    from low to high along x
bars    horizontal, from 0 to `value`, at the height y; low to high is the interval
cells   a heat map; x and y are coordinates on axes with ticks
span    vertical stripes over the whole height
rule    a line across the panel at each x, or at each y
text    words at a place
`hover` is a text for the mouse in place of the coordinates.
"""


@dataclass(frozen=True)
class Look:
    """How a layer is drawn. Colours are hexadecimal."""

    colour: str = "#22262b"
    marker: str = "o"
    """A matplotlib marker."""
    size: float = 5.0
    """Diameter of markers, in points."""
    hollow: bool = False
    dash: Dash = "solid"
    width: float = 1.2
    """Line width, in points."""
    opacity: float = 1.0
    beside: bool = False
    """Whether words stand to the right of their place, and not above it."""


@dataclass(frozen=True)
class Layer:
    """A table, and how it is drawn. Raises ValueError if the columns do not fit the kind.

    >>> Layer("line", pd.DataFrame({"x": [1, 2], "y": [4.0, 3.5]}), Look("#31688e"), label="tied")
    """

    kind: Kind
    frame: pd.DataFrame
    look: Look = Look()
    label: str = ""
    """Entry in the legend; layers with the same label share one."""

    def __post_init__(self) -> None:
        needed, possible = COLUMNS[self.kind]
        missing = set(needed) - set(self.frame.columns)
        unknown = set(self.frame.columns) - set(needed) - set(possible)
        if missing or unknown:
            raise ValueError(f"{self.kind}: lacks {sorted(missing)}, does not know {sorted(unknown)}")


@dataclass(frozen=True)
class Axis:
    """An axis. With `ticks` it has exactly these, a text at each place."""

    label: str = ""
    log: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)
    limits: tuple[float, float] | None = None
    """From left to right, or from bottom to top."""
    suffixes: tuple[str, ...] = COUNT_SUFFIXES
    """For numbers of 1000 and more."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes and its layers, the lowest first."""

    x: Axis
    y: Axis
    layers: Sequence[Layer]
    title: str = ""


@dataclass(frozen=True)
class ColourBar:
    """What the colours of lines or cells stand for: values from `low` to `high`, in the colours of `style.ordered`."""

    label: str
    low: float
    high: float
    log: bool = False
    reverse: bool = False
    """Whether the lowest value has the lightest colour."""


@dataclass(frozen=True)
class Chart:
    """A figure of the report, as data.

    >>> chart = Chart("loss_lr", "Loss against the learning rate", "n = 14 trials.", [Panel(x, y, layers)])
    >>> chart.panels[0].layers[0].frame
    """

    name: str
    """File name without extension."""
    title: str
    caption: str
    """What is shown, and of how many trials."""
    panels: Sequence[Panel]
    columns: int = 1
    """Panels side by side."""
    share_y: bool = False
    panel_height_in: float = 3.2
    colour_bar: ColourBar | None = None

    def layers(self, kind: Kind | None = None, label: str | None = None) -> list[Layer]:
        """All layers of this kind and label, of any by default."""
        layers = [layer for panel in self.panels for layer in panel.layers]
        return [one for one in layers if kind in (None, one.kind) and label in (None, one.label)]
