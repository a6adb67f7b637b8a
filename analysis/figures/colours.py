"""The colours of figures, on white and on a dark page, and how they are given out.

All have a contrast of at least 3:1 with their background, and those of `PALETTE` and of `DARK_PALETTE` were chosen so
that they stay apart for people who do not see red, green or blue (Machado, Oliveira and Fernandes 2009): by a distance
of at least 0.17 in OKLab. Whatever has a colour also has a marker or a dash of its own.
"""

import itertools
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb

INK, GREY, RED, GREEN, RULE = "#22262b", "#6c737d", "#c0392b", "#1f7a4f", "#e4e6ea"
PALETTE = ("#4a38c8", "#e56f17", "#1c0d5d", "#967ff5", "#935267", "#5b2700")
DARK_PALETTE = ("#91a5e1", "#e88e59", "#63fdf4", "#6057e7", "#9c5a6f", "#fce343")
LEVELS = 16
"""Colours that stand for a number. A reader does not tell more of them apart, and lines of one colour are one layer."""


BLACK = "#010101"
"""Not #000000, which matplotlib leaves out of an SVG, so that text would have the colour of the page's text."""


def _sampled(low: float, high: float) -> tuple[str, ...]:
    return tuple(to_hex(mpl.colormaps["viridis"](low + (high - low) * level / (LEVELS - 1))) for level in range(LEVELS))


ORDERED = _sampled(0.0, 0.59)
DARK_ORDERED = _sampled(0.38, 1.0)
DARK = {
    INK: "#e6e8eb",
    GREY: "#9aa1ab",
    RED: "#ff7b6b",
    GREEN: "#5cc795",
    RULE: "#33383f",
    **dict(zip(PALETTE, DARK_PALETTE, strict=True)),
    **dict(zip(ORDERED, DARK_ORDERED, strict=True)),
}
"""The colour on a dark page of each colour on white."""


def ordered(fraction: float) -> str:
    """The colour of a number, from dark (0) to light (1).

    >>> ordered(0.0) == ORDERED[0], ordered(1.0) == ORDERED[-1]
    (True, True)
    """
    return ORDERED[min(max(round(fraction * (LEVELS - 1)), 0), LEVELS - 1)]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in the order of their first appearance; after six they repeat.

    >>> colours(["tied", "untied", "tied"])
    {'tied': '#4a38c8', 'untied': '#e56f17'}
    """
    return dict(zip(dict.fromkeys(names), itertools.cycle(PALETTE), strict=False))


def text_on(colour: str) -> str:
    """Black or white, whichever can be read on a colour: by a contrast of at least 4.5:1.

    >>> text_on("#440154"), text_on("#fde725")
    ('#ffffff', '#010101')
    """
    return "#ffffff" if luminance(colour) < 0.179 else BLACK


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2, from 0 (black) to 1 (white)."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
