"""The law of optima: the optimal value of each setting against model size, with what was tried."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import GREY
from analysis.figures.encoding import DASHES, looks_of
from analysis.figures.report_figure import ReportFigure
from analysis.scaling.held_out import RECORDED
from analysis.scaling.ladder import LadderSize, Line
from analysis.scaling.ladder_fits import LadderFits
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import count

BAND, FAINT = 0.15, 0.3
MOST_LINES = 4
STEP = 0.018
"""Between marks at one N, so that their intervals can be told apart, as a share of the range of log N."""
POINTS = 12
LABELS = {"lr": style.LEARNING_RATE}
TRIED, AHEAD, WITHOUT, BEFORE = "trials", "next size", "predicted without it", "predicted by the sweep"


def optima_law_figure(ladders: Sequence[LadderFits]) -> ReportFigure | None:
    """A panel per setting: the optimum of each size with its interval, the law with its band, the values of all trials
    faintly, and the predictions; None without a law.

    >>> optima_law_figure(fit_ladders(run)).chart.panels[0].layers[-1].frame
    """
    fits = [one for one in ladders if one.law.law is not None]
    every = list(dict.fromkeys(name for one in fits for name in one.ladder.names))
    names = [name for name in every if any(_is_known(name, one) for one in fits)]
    if not names:
        return None
    looks = looks_of([one.ladder.arm or "" for one in fits])
    panels = [_panel(name, [one for one in fits if name in one.ladder.names], looks) for name in names]
    sizes = sum(len(one.ladder.sizes) for one in fits)
    trials = sum(len(size.losses) for one in fits for size in one.ladder.sizes)
    predicted = any(one.checks for one in fits)
    hollow = " Hollow: the largest size, predicted from the others or by the sweep." if predicted else ""
    caption = (
        f"Points: the optimum of each size with its 95 % interval, n = {sizes} sizes of {trials} trials, "
        f"whose values are faint dots (with the final loss that is expected, if they were stopped early). Line and "
        f"band: the law with its 95 % interval, dashed up to the next size, "
        f"whose own optimum is the diamond.{hollow}"
    )
    caption += " Marks of several arms at one size are beside each other." if len(fits) > 1 else ""
    if unknown := [name.replace("_", " ") for name in every if name not in names]:
        caption += f" Not estimable, and not drawn: {', '.join(unknown)}."
    columns = 1 if len(panels) == 1 else 2
    height = 3.6 if columns == 1 else 2.9
    title = "Optimal settings against model size"
    return ReportFigure(Chart("optima_law", title, caption, panels, columns, panel_height_in=height))


def _panel(name: str, fits: Sequence[LadderFits], looks: dict[str, Look]) -> Panel:
    layers: list[Layer] = []
    known = [one for one in fits if _is_known(name, one)]
    for one in fits:
        layers += _tried(name, one)
    for one in known:
        layers += _law(name, one, looks[one.ladder.arm or ""])
    sizes = [size.N for one in known for size in one.ladder.sizes]
    step = max(max(sizes), *(one.forecast.target.N for one in known)) / min(sizes)
    step **= STEP
    for place, one in enumerate(known):
        look, shift = looks[one.ladder.arm or ""], step ** (3 * (place - (len(known) - 1) / 2))
        layers += [*_optima(name, one, look, shift), *_predicted(name, one, look, shift, step)]
    is_log = all(one.ladder.axes[one.ladder.names.index(name)].scale == "log" for one in fits)
    label = f"optimal {LABELS.get(name, name.replace('_', ' '))}"
    return Panel(Axis("parameters N", log=True), Axis(label, log=is_log), layers)


def _is_known(name: str, fits: LadderFits) -> bool:
    """Whether the optimum of a setting can be told at any size."""
    found = fits.law.optima
    return bool((found["refused"].isna() & (found["setting"] == name)).any())


def _tried(name: str, fits: LadderFits) -> Iterator[Layer]:
    k = fits.ladder.names.index(name)
    rows = [
        (one.N, value, trial, f"{trial}: {value:.3g}, final loss {loss:.3f}")
        for one in fits.ladder.sizes
        for value, trial, loss in zip(one.values[:, k], one.trials, one.losses, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["x", "y", "trial", "hover"])
    yield Layer("points", frame, Look(GREY, "o", 3, opacity=FAINT), TRIED)


def _law(name: str, fits: LadderFits, look: Look) -> Iterator[Layer]:
    """Along each line of N and D that has two sizes, and dashed to the size ahead."""
    target = fits.forecast.target
    for place, (line, own) in enumerate(_lines(fits)):
        dash, largest = DASHES[2 * place % len(DASHES)], max(one.N for one in own)
        trained = np.geomspace(min(one.N for one in own), largest, POINTS)
        middle, (low, high) = fits.law.curve(name, trained, np.array([line.tokens(n) for n in trained]))
        label = _label(fits, line)
        yield Layer("band", pd.DataFrame({"x": trained, "low": low, "high": high}), replace(look, opacity=BAND))
        yield Layer("line", pd.DataFrame({"x": trained, "y": middle}), replace(look, dash=dash, width=1.4), label)
        if largest < target.N and line.has(target.N, target.D):
            ahead = np.geomspace(largest, target.N, POINTS)
            middle, (low, high) = fits.law.curve(name, ahead, np.array([line.tokens(n) for n in ahead]))
            yield Layer("band", pd.DataFrame({"x": ahead, "low": low, "high": high}), replace(look, opacity=BAND))
            yield Layer("line", pd.DataFrame({"x": ahead, "y": middle}), replace(look, dash="dashed", width=1.4))


def _lines(fits: LadderFits) -> list[tuple[Line, list[LadderSize]]]:
    """The line of N and D that all sizes are on; or else those of equal tokens per parameter."""
    ladder = fits.ladder
    if (line := ladder.line) is not None:
        return [(line, list(ladder.sizes))]
    found: list[tuple[Line, list[LadderSize]]] = []
    for size in ladder.sizes:
        if not any(line.has(size.N, size.D) for line, _ in found):
            line = Line(1.0, size.N, size.D)
            found.append((line, [one for one in ladder.sizes if line.has(one.N, one.D)]))
    return [(line, own) for line, own in found if len({one.N for one in own}) > 1][:MOST_LINES]


def _label(fits: LadderFits, line: Line) -> str:
    alone = fits.ladder.line is not None
    ratio = "" if alone else f"{count(round(line.D / line.N, 1))} tokens per parameter"
    return ", ".join(filter(None, (fits.ladder.arm, ratio))) or "law"


def _optima(name: str, fits: LadderFits, look: Look, shift: float) -> Iterator[Layer]:
    rows = fits.law.optima
    rows = rows[(rows["setting"] == name) & rows["refused"].isna()]
    if len(rows):
        hover = [f"{one.size}: {one.value:.3g} ({one.low:.3g} to {one.high:.3g})" for one in rows.itertuples()]
        frame = pd.DataFrame({"x": shift * rows["N"], "y": rows["value"], "low": rows["low"], "high": rows["high"]})
        yield Layer("points", frame.assign(hover=hover), replace(look, size=6.5), fits.ladder.arm or "optimum")
    ahead = fits.ahead[name]
    if isinstance(ahead, Estimate):
        yield Layer(
            "points", _point(shift * fits.forecast.target.N, ahead, "next size"), replace(look, marker="D"), AHEAD
        )


def _predicted(name: str, fits: LadderFits, look: Look, shift: float, step: float) -> Iterator[Layer]:
    """The largest size as it was predicted, a little beside what was found, so that both intervals can be seen."""
    for check in fits.checks:
        (one,) = [one for one in check.predictions if one.setting == name]
        if isinstance(one.predicted, Estimate):
            recorded = check.source == RECORDED
            beside, marker = (1 / step, "^") if recorded else (step, "s")
            x = shift * beside * fits.ladder.sizes[-1].N
            frame = _point(x, one.predicted, f"{check.size}, {check.source}")
            yield Layer(
                "points", frame, replace(look, marker=marker, hollow=True, width=0.9), BEFORE if recorded else WITHOUT
            )


def _point(x: float, one: Estimate, what: str) -> pd.DataFrame:
    hover = f"{what}: {one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
    return pd.DataFrame({"x": [x], "y": [one.value], "low": [one.low], "high": [one.high], "hover": [hover]})
