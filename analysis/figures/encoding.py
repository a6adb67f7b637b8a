"""Which colour, marker and dash stand for what a sweep varied: one rule for all figures.

Of experiment, size, arm, batch size, tying and the other choices that vary, the first one has the colour, and the
combination of the others the marker and the dash. A field that follows from the ones before it is left out: an arm
says whether embeddings are tied. If one field varies, its marker changes along with its colour. Numbers from a range,
such as learning rates, are no fields; `colour_on` gives them the colours of a colour bar.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.figures.chart import ColourBar, Dash, Look
from analysis.figures.colours import PALETTE, colours, ordered
from analysis.figures.style import LEARNING_RATE
from analysis.tables.formatting import number
from analysis.tables.searched import BATCH_PATH, choices_and_ranges
from analysis.tables.trials import LR_PATH, TIED_PATH, TYING, short_names
from lmcore import columns as col

MARKERS = "osD^vPX*"
DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted", "dashdot")
NAMED = (col.EXPERIMENT, col.SIZE, col.ARM)
FIRST = (*NAMED, BATCH_PATH, TIED_PATH)
MOST_GROUPS = 16
"""A reader does not tell more looks apart; the last fields are left out if there are more."""


@dataclass(frozen=True)
class Encoding:
    """The result of `encode`."""

    fields: tuple[str, ...]
    """Columns of the trials table, the one with the colour first."""
    labels: pd.Series
    """The group of each trial, by its id; "" if nothing varies."""
    looks: dict[str, Look]
    """By label, in the order in which the groups appear."""

    def groups(self, frame: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
        """The rows of each group, for a table that has the column `trial`.

        >>> for label, look, own in encoding.groups(run.rows):
        ...     Layer("line", ..., look, label)
        """
        labels = frame[col.TRIAL].map(self.labels)
        by_label = dict(list(frame.groupby(labels, sort=False)))
        for label, look in self.looks.items():
            if label in by_label:
                yield label, look, by_label[label]


def encode(trials: pd.DataFrame, without: Sequence[str] = ()) -> Encoding:
    """Looks for the groups of `trials`; `without` names fields that the figure shows in another way.

    >>> encode(run.trials).looks["xs, tied"]
    Look(colour='#4a38c8', marker='s', size=5.0, hollow=False, dash='dashed', width=1.2, opacity=1.0)
    """
    known = trials[trials[LR_PATH].notna()] if LR_PATH in trials else trials
    fields = _fields(known, set(without))
    words = {field: known[field].map(_wording(field)) for field in fields}
    while len(fields) > 1 and _combined(words, fields, known).nunique() > MOST_GROUPS:
        fields = fields[:-1]
    labels = _combined(words, fields, known)
    labels.index = pd.Index(known[col.TRIAL])
    return Encoding(tuple(fields), labels, _looks(words, fields, labels))


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in the order of their first appearance; colours repeat after six, with another dash.

    >>> looks_of(["tied", "untied"])["untied"].marker
    's'
    """
    return {
        name: Look(colour, MARKERS[place % len(MARKERS)], dash=DASHES[place // len(PALETTE) % len(DASHES)])
        for place, (name, colour) in enumerate(colours(names).items())
    }


def colour_on(bar: ColourBar, value: float) -> str:
    """The colour of a value on a colour bar.

    >>> colour_on(ColourBar("learning rate (peak)", 1e-4, 1e-2, log=True), 1e-2) == ORDERED[-1]
    True
    """
    low, high, at = (math.log(x) if bar.log else x for x in (bar.low, bar.high, value))
    fraction = (at - low) / (high - low) if high > low else 0.0
    return ordered(1 - fraction if bar.reverse else fraction)


def lr_bar(trials: pd.DataFrame) -> ColourBar | None:
    """The colour bar of learning rates, if they and nothing else but choices were varied; otherwise None."""
    _, ranges = choices_and_ranges(trials)
    rates = trials[LR_PATH].dropna()
    if ranges != [LR_PATH] or rates.nunique() < 3 or trials[col.EXPERIMENT].notna().any():
        return None
    return ColourBar(LEARNING_RATE, float(rates.min()), float(rates.max()), log=True)


def _fields(trials: pd.DataFrame, without: set[str]) -> list[str]:
    choices, ranges = choices_and_ranges(trials)
    # Next to a range the choices are coordinates like it: each has a panel of its own in the figure of all of them.
    others = [] if set(ranges) - {LR_PATH} else [path for path in choices if path not in FIRST]
    chosen: list[str] = []
    for field in (*FIRST, *others):
        if field in without or field not in trials or field in ranges:
            continue
        by = trials.groupby(chosen, dropna=False)[field] if chosen else trials.groupby(lambda _: 0)[field]
        if by.nunique(dropna=False).gt(1).any():
            chosen.append(field)
    return chosen


def _wording(field: str) -> Callable[[Any], str]:
    if field in NAMED:
        return lambda value: "" if pd.isna(value) else str(value)
    if field == TIED_PATH:
        return lambda value: TYING[bool(value)]
    name = "batch" if field == BATCH_PATH else short_names([field])[field]
    return lambda value: f"{name} {number(value)}"


def _combined(words: dict[str, pd.Series], fields: Sequence[str], trials: pd.DataFrame) -> pd.Series:
    if not fields:
        return pd.Series("", index=trials.index, dtype=object)
    return pd.Series(
        [", ".join(filter(None, row)) for row in zip(*(words[field] for field in fields), strict=True)],
        index=trials.index,
        dtype=object,
    )


def _looks(words: dict[str, pd.Series], fields: Sequence[str], labels: pd.Series) -> dict[str, Look]:
    if not fields:
        return {"": Look(PALETTE[0])}
    first = list(words[fields[0]])
    if len(fields) == 1:
        return looks_of(first)
    rest = [row[1:] for row in zip(*(words[field] for field in fields), strict=True)]
    by_name = colours(first)
    shapes = {name: place for place, name in enumerate(dict.fromkeys(rest))}
    looks: dict[str, Look] = {}
    for label, name, other in zip(labels, first, rest, strict=True):
        shape = shapes[other]
        look = Look(by_name[name], MARKERS[shape % len(MARKERS)], dash=DASHES[shape % len(DASHES)])
        looks.setdefault(label, look)
    return looks
