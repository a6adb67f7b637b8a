"""Loss against the peak learning rate: a curve per group of trials, the optimum, and where trials diverge.

Losses are compared at a common rung (`analysis.tables.rung`); what is drawn through the points is decided in
`analysis.scaling.u_curve`.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import INK, RED
from analysis.figures.encoding import Encoding, encode
from analysis.figures.marks import MANY, diverged_layers, hovers, loss_limits, sized
from analysis.figures.report_figure import ReportFigure
from analysis.figures.style import LEARNING_RATE, LOSS
from analysis.runs.load import Run
from analysis.scaling.u_curve import UCurve, u_curve
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import scientific, tally
from analysis.tables.rung import Rung, at_rung, common_rung, end_of_training
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

MOST_SENTENCES = 6
MOST_TICKS = 9  # learning rates of a grid, each with a tick
FEWEST_AT_THE_END = 3  # complete trials of a group for a panel of their own, beside that of the common rung
JOIN_WIDTH, FIT_WIDTH = 1.2, 2.2


def learning_rate_figure(run: Run) -> ReportFigure | None:
    """U curves of the trials of the search; None if no group has trials with two learning rates.

    Under early stopping there is a second panel, with the losses of the trials that were trained to their end.
    """
    trials = run.trials[run.trials[LR_PATH].notna() & (run.trials[col.PHASE] == col.SEARCH)]
    encoding = encode(run.trials)
    rung = common_rung(trials, run.rows)
    shown = at_rung(trials, rung)
    labels = shown[col.TRIAL].map(encoding.labels)
    if not shown.groupby(labels)[LR_PATH].nunique().gt(1).any():
        return None
    rungs = [rung]
    complete = trials.loc[trials[col.STATUS] == col.COMPLETE, col.TRIAL].map(encoding.labels)
    if not rung.is_end and complete.value_counts().max() >= FEWEST_AT_THE_END:
        rungs.append(end_of_training(trials))
    rates = trials[LR_PATH].unique()
    ticks = {float(rate): f"{rate:.2g}" for rate in sorted(rates)} if len(rates) <= MOST_TICKS else {}
    x = Axis(LEARNING_RATE, log=True, ticks=ticks, limits=_lr_limits(trials[LR_PATH]))
    drawn = [_panel(at_rung(trials, one), encoding, one, x, len(rungs) > 1) for one in rungs]
    panels = [panel for panel, _ in drawn]
    caption = _caption(shown, rung, drawn[0][1], len(rungs) > 1)
    chart = Chart("loss_lr", "Loss against the learning rate", caption, panels, columns=2, panel_height_in=3.4)
    return ReportFigure(chart)


def _panel(
    shown: pd.DataFrame, encoding: Encoding, rung: Rung, x: Axis, titled: bool
) -> tuple[Panel, dict[str, UCurve]]:
    y_limits = loss_limits(shown[col.LOSS])
    layers: list[Layer] = []
    diverged = shown[shown[col.STATUS] == col.DIVERGED]
    if len(diverged):
        region = pd.DataFrame({"x_low": [diverged[LR_PATH].min()], "x_high": x.limits[1:] if x.limits else []})
        layers.append(Layer("span", region, Look(RED, opacity=0.07), "diverging rates"))
    curves = {label: u_curve(own) for label, _, own in encoding.groups(shown)}
    optima: list[Layer] = []
    points: list[Layer] = []
    for label, look, own in encoding.groups(shown):
        curve = curves[label]
        optima += _optimum_layers(curve, look)
        if curve.joined is not None:
            frame = pd.DataFrame(dict(zip(("x", "y"), curve.joined, strict=True)))
            points.append(Layer("line", frame, replace(look, width=JOIN_WIDTH), label))
        if curve.envelope is not None and curve.fit is None:
            frame = pd.DataFrame(dict(zip(("x", "y"), curve.envelope, strict=True)))
            points.append(Layer("line", frame, replace(look, width=0.9, opacity=0.6)))
        points += _point_layers(own[np.isfinite(own[col.LOSS])], curve, sized(look, len(shown)), label)
    # A cloud of many points would hide the curve through it.
    drawn = [*points, *optima] if len(shown) > MANY else [*optima, *points]
    layers += [*drawn, *diverged_layers(diverged, LR_PATH, y_limits[1])]
    title = f"{rung.name[0].upper()}{rung.name[1:]}" if titled else ""
    panel = Panel(x, Axis(LOSS, limits=y_limits), layers, title)
    return panel, curves


def _optimum_layers(curve: UCurve, look: Look) -> list[Layer]:
    """The fitted curve, its minimum and the 95 % interval of that; of a grid without a fit, the bracket's parabola."""
    if isinstance(curve.optimum, Estimate) and curve.fit is not None:
        best = curve.optimum
        fit = pd.DataFrame(dict(zip(("x", "y"), curve.fit, strict=True)))
        return [
            Layer("span", pd.DataFrame({"x_low": [best.low], "x_high": [best.high]}), replace(look, opacity=0.12)),
            Layer("rule", pd.DataFrame({"x": [best.value]}), replace(look, dash="dashed", width=1.0)),
            Layer("line", fit, replace(look, dash="solid", width=FIT_WIDTH, opacity=0.55)),
        ]
    if curve.bracket is not None:
        parabola = pd.DataFrame(dict(zip(("x", "y"), curve.bracket.parabola(), strict=True)))
        return [Layer("line", parabola, replace(look, dash="dotted", width=1.4, opacity=0.8))]
    return []


def _point_layers(own: pd.DataFrame, curve: UCurve, look: Look, label: str) -> list[Layer]:
    """All points; the lowest with a large ring, its neighbours on a grid with small ones."""
    if own.empty:
        return []
    frame = pd.DataFrame({"x": own[LR_PATH].to_numpy(float), "y": own[col.LOSS].to_numpy(float)})
    layers: list[Layer] = []
    if curve.bracket is not None:
        found = curve.bracket
        ends = pd.DataFrame({"x": [found.below, found.above], "y": [found.losses[0], found.losses[2]]})
        lowest = pd.DataFrame({"x": [found.lowest], "y": [found.losses[1]]})
        layers.append(Layer("points", ends, Look(INK, "o", 9, hollow=True, opacity=0.7), "its neighbours"))
    else:
        lowest = frame.loc[[frame["y"].idxmin()]]
    layers.append(Layer("points", lowest, Look(INK, "o", 12, hollow=True), "lowest"))
    points = frame.assign(trial=own[col.TRIAL].tolist(), hover=hovers(own))
    return [*layers, Layer("points", points, look, label)]


def _lr_limits(rates: pd.Series) -> tuple[float, float]:
    low, high = float(rates.min()), float(rates.max())
    margin = (high / low) ** 0.05
    return low / margin, high * margin


def _caption(shown: pd.DataFrame, rung: Rung, curves: dict[str, UCurve], has_end: bool) -> str:
    parts = [f"Validation loss against the peak learning rate, n = {len(shown)} trials ({tally(shown[col.STATUS])})."]
    parts.append(rung.sentence)
    if has_end:
        parts.append("Right: the trials that were trained to their end, which were chosen by their early losses.")
    said = [f"{label}: {text}" if label else text for label, curve in curves.items() if (text := _reading(curve))]
    if said:
        more = f"; {len(said) - MOST_SENTENCES} more" if len(said) > MOST_SENTENCES else ""
        text = "; ".join(said[:MOST_SENTENCES])
        parts.append(f"{text[0].upper() if not next(iter(curves)) else text[0]}{text[1:]}{more}.")
    if any(curve.fit is not None for curve in curves.values()):
        parts.append("Wide line: the fit near the best; shaded: the 95 % interval of its minimum.")
    if any(curve.fit is None and curve.bracket is not None for curve in curves.values()):
        parts.append("Dotted: the parabola through the lowest and its neighbours, which has no interval.")
    if any(curve.envelope is not None and curve.fit is None for curve in curves.values()):
        parts.append("Thin line: the lowest trial of each range of rates; other settings vary as well.")
    diverged = shown.loc[shown[col.STATUS] == col.DIVERGED, LR_PATH]
    if len(diverged):
        parts.append(f"Red: from {scientific(diverged.min())}, the lowest rate that diverged; crosses are such trials.")
    return " ".join(parts)


def _reading(curve: UCurve) -> str:
    """What a group's curve says about the optimum; nothing if there is none."""
    if isinstance(curve.optimum, Estimate):
        best = curve.optimum
        ends = f"{scientific(best.low)} to {scientific(best.high)}"
        return f"optimum {scientific(best.value)} (95 % interval {ends})"
    return "" if curve.bracket is None else curve.bracket.sentence
