"""Scaling plots: loss against size with residuals, isoFLOP curves, and optimal settings against size and data.

Points are always shown, a curve only if its law is estimable. A curve is dashed where no model was trained.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import INK, RED, ordered
from analysis.figures.encoding import MARKERS
from analysis.figures.report_figure import ReportFigure
from analysis.runs.trial_csv import LOSS, D, N
from analysis.scaling.fit import Scaling
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import FLOP_SUFFIXES, count

MAX_LEVELS = 8
MIN_SIZES, MIN_RANGE = 4, 1.5
EXTRAPOLATED = 4.0
"""How far beyond the largest model a law is drawn, as a factor of N."""
UNITS = {"lr": "learning rate", "batch": "batch (tokens per update)"}
AXES = {N: "parameters N", D: "tokens D"}
BAND, MOST_BANDS = 0.15, 3
MARGIN = 1.1


@dataclass(frozen=True)
class Law:
    """A loss law as a function of N alone, for models of one group."""

    predict: Callable[[Array], Array]
    band: Callable[[Array], Array]
    """From N [n] to the ends [2, n] of the 95 % interval of the law."""


def size_figure(scaling: Scaling) -> ReportFigure | None:
    """Loss against N, by D, with curves of L(N, D), or else of L(N) for the most common D.

    None with fewer than four sizes, or if they are all but the same: then loss against parameters says as much.

    A second panel has the residuals, if there is a law.

    >>> size_figure(fit_scaling(points)).chart.panels[1].layers[1].frame  # residuals in percent
    """
    points = scaling.points
    if points[N].nunique() < MIN_SIZES or points[N].max() < MIN_RANGE * points[N].min():
        return None
    groups, looks = levels(points[D])
    laws: dict[str, Law] = {}
    text = "No law is drawn: the data do not support one."
    residual_points = points
    if scaling.loss_nd.curve is not None:
        tokens = np.exp(np.log(points[D]).groupby(groups).mean())
        laws = {label: _law_at(scaling, float(tokens[label])) for label in looks}
        text = "Lines: L(N, D) = E + A/N^alpha + B/D^beta, with the 95 % band of the law itself"
        text += " for the smallest and the largest D" if len(laws) > MOST_BANDS else ""
        text += "; D is in bins, with a line at the mean of each" if points[D].nunique() > MAX_LEVELS else ""
    elif (curve := scaling.loss_n.curve) is not None:
        laws = {"": Law(curve.predict, curve.band)}
        residual_points = scaling.n_points
        n = len(scaling.n_points)
        text = f"Line: L(N) = E + A/N^alpha through the n = {n} of one token count, with its 95 % band"
    ends = {next(iter(laws), None), next(reversed(laws), None)}
    layers: list[Layer] = []
    for label, law in laws.items():
        layers += _curve(points[N], law, looks.get(label, Look(INK)), label, label in ends or len(laws) <= MOST_BANDS)
    for label, look in looks.items():
        own = points[groups == label]
        layers.append(Layer("points", _xy(own[N], own[LOSS], own[N], own[D]), look, f"{label} tokens"))
    limits = points[N].min() / MARGIN, points[N].max() * MARGIN * (EXTRAPOLATED if laws else 1)
    x, loss = Axis(AXES[N], log=True, limits=limits), Axis(style.LOSS, log=True)
    panels = [Panel(x, loss, layers)]
    caption = f"Lowest validation loss at each N and D, n = {len(points)} models. {text}"
    if laws:
        panels.append(Panel(x, Axis("residual (% of the loss)"), _residuals(scaling, residual_points, groups, looks)))
        caption += (
            f"; dashed up to {EXTRAPOLATED:g} times the largest N. Below: the loss over that of the law, minus 1."
        )
    return ReportFigure(Chart("loss_size", "Loss against size", caption, panels, panel_height_in=2.9))


def _law_at(scaling: Scaling, tokens: float) -> Law:
    curve = scaling.loss_nd.curve
    assert curve is not None
    return Law(lambda sizes: curve.predict(sizes, tokens), lambda sizes: curve.band(sizes, tokens))


def _curve(trained: pd.Series, law: Law, look: Look, label: str, with_band: bool) -> list[Layer]:
    """The law over the sizes that were trained, and dashed beyond; the band over both."""
    inside = np.geomspace(trained.min(), trained.max(), 80)
    beyond = np.geomspace(trained.max(), EXTRAPOLATED * trained.max(), 20)
    every = np.concatenate([inside, beyond[1:]])
    line, name = replace(look, width=1.3), f"{label} tokens" if label else "L(N)"
    bands = []
    if with_band:
        low, high = law.band(every)
        bands = [Layer("band", pd.DataFrame({"x": every, "low": low, "high": high}), replace(look, opacity=BAND))]
    return [
        *bands,
        Layer("line", pd.DataFrame({"x": inside, "y": law.predict(inside)}), line, name),
        Layer("line", pd.DataFrame({"x": beyond, "y": law.predict(beyond)}), replace(line, dash="dashed")),
    ]


def _residuals(scaling: Scaling, points: pd.DataFrame, groups: pd.Series, looks: dict[str, Look]) -> list[Layer]:
    """Loss over the law's, minus 1, in percent; of the points that the law was fitted to."""
    if scaling.loss_nd.curve is not None:
        law = scaling.loss_nd.curve.predict(points[N], points[D])
    else:
        assert scaling.loss_n.curve is not None
        law = scaling.loss_n.curve.predict(points[N])
        groups, _ = levels(points[D])
    percent = 100 * (points[LOSS] / law - 1)
    layers = [Layer("rule", pd.DataFrame({"y": [0.0]}), Look(INK, width=0.8))]
    for label, look in looks.items():
        own = points[groups == label]
        if len(own):
            layers.append(
                Layer("points", _xy(own[N], percent[own.index], own[N], own[D], " %"), look, f"{label} tokens")
            )
    return layers


def _xy(x: pd.Series, y: pd.Series, sizes: pd.Series, tokens: pd.Series, unit: str = " nats") -> pd.DataFrame:
    hover = [f"N = {count(n)}, D = {count(d)}: {value:.4g}{unit}" for n, d, value in zip(sizes, tokens, y, strict=True)]
    return pd.DataFrame({"x": x, "y": y, "hover": hover})


def isoflop_figure(scaling: Scaling) -> ReportFigure | None:
    """Loss against N at each compute budget, with the minima; None with fewer than two curves."""
    budgets = [budget for budget in scaling.isoflop.budgets if budget.form is not None]
    if len(budgets) < 2:
        return None
    layers: list[Layer] = []
    minima: list[dict[str, float]] = []
    for place, budget in enumerate(budgets):
        name = f"{count(budget.compute, FLOP_SUFFIXES)} FLOPs"
        look = Look(ordered(place / (len(budgets) - 1)), MARKERS[place % len(MARKERS)], 4.5)
        own = scaling.points.iloc[budget.members]
        sizes = np.geomspace(own[N].min(), own[N].max(), 80)
        layers += [
            Layer("line", pd.DataFrame({"x": sizes, "y": budget.predict(sizes)}), look, name),
            Layer("points", _xy(own[N], own[LOSS], own[N], own[D]), look, name),
        ]
        best = budget.N_optimal
        if isinstance(best, Estimate):
            loss = float(budget.predict([best.value])[0])
            minima.append({"x": best.value, "y": loss, "x_low": best.low, "x_high": best.high})
    if minima:
        layers.append(Layer("points", pd.DataFrame(minima), Look(RED, "D", 5.5), "minimum"))
    shown = sum(len(budget.members) for budget in budgets)
    rest = len(budgets) - len(minima)
    without = f"; {rest} have none inside what was trained" if rest else ""
    caption = (
        f"Validation loss against N at {len(budgets)} compute budgets C = 6 N D, n = {shown} models. Red: the minima "
        f"of {len(minima)} budgets with 95 % intervals{without}."
    )
    panel = Panel(Axis(AXES[N], log=True), Axis(style.LOSS, log=True), layers)
    return ReportFigure(Chart("isoflop", "Loss at equal compute", caption, [panel], panel_height_in=3.6))


def optimum_figure(scaling: Scaling, setting: str, along: str) -> ReportFigure | None:
    """The optimum of a setting against N or D (`along`); None without optima at two values of it."""
    if scaling.optima.empty:
        return None
    cells = scaling.optima[scaling.optima["setting"] == setting]
    known = cells[cells["value"].notna()]
    if known[along].nunique() < 2:
        return None
    other, noun = (D, "tokens") if along == N else (N, "parameters")
    groups, looks = levels(known[other])
    law = scaling.laws[setting]
    layers: list[Layer] = []
    x = np.geomspace(known[along].min(), known[along].max(), 60)
    for label, look in looks.items():
        own = known[groups == label]
        if law is not None:
            rest = np.full_like(x, np.exp(np.log(own[other]).mean()))
            y = law.predict(x, rest) if along == N else law.predict(rest, x)
            layers.append(Layer("line", pd.DataFrame({"x": x, "y": y}), look, f"{label} {noun}"))
        points = own.rename(columns={along: "x", "value": "y"})[["x", "y", "low", "high"]]
        hover = [
            f"N = {count(one.N)}, D = {count(one.D)}: {one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
            for one in own.itertuples()
        ]
        layers.append(Layer("points", points.assign(hover=hover), look, f"{label} {noun}"))
    without = len(cells) - len(known)
    more = f"; {without} more cells have no optimum inside what was tried" if without else ""
    drawn = "Lines: the power law through all of them." if law else "No law is drawn: the data do not support one."
    start = f"The optimal {UNITS[setting]} of each N and D, n = {len(known)} cells, with 95 % intervals"
    title = f"Optimal {UNITS[setting]} against {AXES[along]}"
    panel = Panel(Axis(AXES[along], log=True), Axis(f"optimal {UNITS[setting]}", log=True), layers)
    chart = Chart(f"optimum_{setting}_{along}", title, f"{start}{more}. {drawn}", [panel], panel_height_in=3.6)
    return ReportFigure(chart)


def levels(values: pd.Series) -> tuple[pd.Series, dict[str, Look]]:
    """A label for each value, and a look for each label in rising order; more than MAX_LEVELS values are binned."""
    distinct = np.sort(values.unique())
    if len(distinct) <= MAX_LEVELS:
        groups = values.map(count)
        names = list(dict.fromkeys(count(level) for level in distinct))
    else:
        edges = np.quantile(distinct, np.linspace(0, 1, MAX_LEVELS + 1))
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, MAX_LEVELS - 1)
        every = [f"{count(low)} to {count(high)}" for low, high in itertools.pairwise(edges)]
        groups = pd.Series([every[k] for k in bins], index=values.index)
        names = [name for name in every if name in set(groups)]
    looks = {
        name: Look(ordered(place / max(1, len(names) - 1)), MARKERS[place % len(MARKERS)], 5.0, width=1.1)
        for place, name in enumerate(names)
    }
    return groups, looks
