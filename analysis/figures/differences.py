"""Ablation bars: the difference of each arm or experiment from the baseline, with its interval, sorted."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import GREEN, GREY, INK, RED
from analysis.figures.report_figure import ReportFigure
from analysis.stats.comparison import BETTER, SAME, TIE, WORSE
from analysis.stats.verdicts import Verdicts
from analysis.tables.differences import ARM, DIFFERENCE, MATCHING, evidence, shown_differences
from analysis.tables.differences import WINDOWS as FROM_WINDOWS
from analysis.tables.formatting import signed
from lmcore import columns as col

VERDICTS = {BETTER: GREEN, WORSE: RED, TIE: GREY, SAME: GREY}
LEGEND = {BETTER: "better", WORSE: "worse", TIE: "tie", SAME: "the same bit for bit"}
ROW_IN, FRAME_IN = 0.3, 0.75
TEXT_SHARE = 0.75  # width of the words beside the bars, as a part of the bars'
NAME_CHARACTERS = 30
TICKS = 5


def difference_figure(answer: Verdicts) -> ReportFigure | None:
    """A panel per size, with a bar for each difference that is estimable; None if none is.

    >>> difference_figure(verdicts(analysis.load("runs/ablation").trials)).chart.layers("bars")[0].frame
    """
    shown = shown_differences(answer.table())
    if shown.empty:
        return None
    sizes = list(dict.fromkeys(shown[col.SIZE]))
    axis, text_at = _axis(shown)
    common = shown["n"].iloc[0] if shown[["n", "noise_from"]].nunique().max() == 1 else None
    matchings = not answer.of_experiments or shown.duplicated([col.SIZE, ARM]).any()
    alone = shown[ARM].iloc[0] if shown[ARM].nunique() == 1 and matchings else None
    names = _names(shown, matchings, alone is not None)
    panels = []
    for size in sizes:
        own = shown[col.SIZE] == size
        x_axis = axis if size == sizes[-1] else replace(axis, label="")
        panels.append(_panel(size if len(sizes) > 1 else "", shown[own], names[own], x_axis, text_at, common))
    noun = "experiment" if answer.of_experiments else "arm"
    baseline = answer.baseline or f"the first {noun}"
    rows = max(len(panel.y.ticks) for panel in panels)
    height = FRAME_IN + ROW_IN * rows * (1 + names.str.count("\n").max() / 2)
    title = f"{alone} against {baseline}" if alone else f"Difference from {_baseline(baseline)}"
    chart = Chart("differences", title, _caption(shown, baseline, noun), panels, panel_height_in=height)
    return ReportFigure(chart)


def _baseline(name: str) -> str:
    return "the baseline" if name == "baseline" else name


def _names(rows: pd.DataFrame, matchings: bool, alone: bool) -> pd.Series:
    """What stands beside each bar, in short lines: the name of the arm, and the matching if there are several."""
    names = rows[ARM].map(lambda name: name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…")
    if not matchings:
        return names
    matching = rows[MATCHING].map(lambda at: textwrap.fill(at, NAME_CHARACTERS))
    return matching if alone else names + "\n" + matching


def _panel(title: str, rows: pd.DataFrame, names: pd.Series, axis: Axis, text_at: float, common: int | None) -> Panel:
    rows = rows.assign(y=np.arange(len(rows), dtype=float))
    layers = [
        Layer("bars", _bars(own), Look(VERDICTS[verdict]), LEGEND[verdict])
        for verdict in VERDICTS
        if len(own := rows[rows["verdict"] == verdict])
    ]
    words = [_words(row, common) for row in rows.itertuples()]
    layers += [
        Layer("rule", pd.DataFrame({"x": [0.0]}), Look(INK, width=1.0)),
        Layer("text", pd.DataFrame({"x": text_at, "y": rows["y"], "text": words}), Look(INK, beside=True)),
    ]
    ticks = dict(zip(rows["y"], names, strict=True))
    return Panel(axis, Axis(ticks=ticks, limits=(len(rows) - 0.5, -0.5)), layers, title)


def _bars(rows: pd.DataFrame) -> pd.DataFrame:
    hover = [
        f"{row.arm}: {signed(row.difference)} ({signed(row.low)} to {signed(row.high)}), "
        f"{evidence(row.n, row.noise_from)}, {row.verdict}"
        for row in rows.itertuples()
    ]
    return rows[["y", "low", "high"]].assign(value=rows[DIFFERENCE], hover=hover)


def _words(row: object, common: int | None) -> str:
    """`-0.431 ± 0.236`, and what it rests on where that is not the same for all; a single pair is always marked."""
    low, high, value, n, source = (getattr(row, name) for name in ("low", "high", DIFFERENCE, "n", "noise_from"))
    text = f"{signed(value)} ± {(high - low) / 2:.3f}".replace("-", "\N{MINUS SIGN}")
    if source == FROM_WINDOWS or n == 1:
        return f"{text} (one seed)"
    return text if n == common else f"{text} ({n} seeds)"


def _axis(rows: pd.DataFrame) -> tuple[Axis, float]:
    """The axis of the differences, with room for words to the right of the bars, and where these begin."""
    low, high = min(0.0, rows["low"].min()), max(0.0, rows["high"].max())
    span = (high - low) or 1.0
    at = [tick for tick in MaxNLocator(TICKS).tick_values(low, high) if low - 1e-9 <= tick <= high + 1e-9]
    ticks = {float(tick): f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if abs(tick) > 1e-9 else "0" for tick in at}
    limits = (low - 0.03 * span, high + TEXT_SHARE * span)
    return Axis("difference in validation loss (nats per token)", ticks=ticks, limits=limits), high + 0.02 * span


def _caption(rows: pd.DataFrame, baseline: str, noun: str) -> str:
    arms = rows[[col.SIZE, ARM]].drop_duplicates()
    nouns = f"{noun}{'' if len(arms) == 1 else 's'}"
    start = f"Difference in validation loss from {baseline}, the largest gain first, n = {len(arms)} {nouns}"
    text = f"{start}. Left of 0: better."
    windows = rows["noise_from"] == FROM_WINDOWS
    seeds = _range(rows.loc[~windows, "n"])
    if seeds:
        text += f" Intervals: 95 % over {seeds}, with the noise of all settings of a size."
    if windows.any():
        text += " One seed: the interval is over validation windows, and another seed would change more than it says."
    elif (rows["n"] == 1).any():
        text += " One seed: a single pair, with the noise between seeds of the others."
    return text


def _range(numbers: Sequence[int] | pd.Series) -> str:
    """`4 seeds`, or `2 to 4 seeds`; nothing without any."""
    if not len(numbers):
        return ""
    low, high = min(numbers), max(numbers)
    text = str(low) if low == high else f"{low} to {high}"
    return f"{text} seed{'' if high == 1 else 's'}"
