"""Scaling plots: loss against size, isoFLOP curves, and optimal settings against size and data.

Points are always shown, a curve only if its law is estimable.
"""

import itertools

import numpy as np
import pandas as pd
from matplotlib.typing import ColorType

from analysis.figures import style
from analysis.figures.style import ReportFigure
from analysis.runs.trial_csv import LOSS, D, N
from analysis.scaling.fit import Scaling
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import FLOP_SUFFIXES, count

MAX_LEVELS = 8
UNITS = {"lr": "learning rate", "batch": "batch (tokens per update)"}
AXES = {N: "parameters N", D: "tokens D"}


def size_figure(scaling: Scaling) -> ReportFigure | None:
    """Loss against N, by D, with curves of L(N, D), or else of L(N) for the most common D; None for a single size."""
    points = scaling.points
    if points[N].nunique() < 2:
        return None
    groups, palette = _levels(points[D])
    curve, size_curve = scaling.loss_nd.curve, scaling.loss_n.curve
    sizes = np.geomspace(points[N].min(), points[N].max(), 120)
    with style.report_style():
        figure, axes = style.new_figure()
        for label, own in points.groupby(groups, sort=False):
            axes.scatter(own[N], own[LOSS], s=20, color=palette[label], zorder=3)
            if curve is not None:
                tokens = float(np.exp(np.log(own[D]).mean()))
                axes.plot(sizes, curve.predict(sizes, tokens), color=palette[label], linewidth=1.1)
                axes.fill_between(sizes, *curve.band(sizes, tokens), color=palette[label], alpha=0.12, linewidth=0)
        text = "No law is drawn: the data do not support one (the table says why)."
        if curve is not None:
            text = "Lines: L(N, D) = E + A/N^alpha + B/D^beta, with the 95 % band of the law itself."
        elif size_curve is not None:
            axes.plot(sizes, size_curve.predict(sizes), color=style.INK, linewidth=1.1)
            axes.fill_between(sizes, *size_curve.band(sizes), color=style.INK, alpha=0.12, linewidth=0)
            n = len(scaling.n_points)
            text = f"Line: L(N) = E + A/N^alpha through the n = {n} of one token count, with its 95 % band."
        style.log_axes(axes, AXES[N], style.LOSS)
        style.legend(axes, style.colour_handles(palette, " tokens", marker="o", linestyle=""))
    caption = f"Lowest validation loss at each N and D, n = {len(points)} models. {text}"
    return ReportFigure("loss_size", "Loss against size", figure, caption)


def isoflop_figure(scaling: Scaling) -> ReportFigure | None:
    """Loss against N at each compute budget, with the minima; None with fewer than two curves."""
    budgets = [budget for budget in scaling.isoflop.budgets if budget.form is not None]
    if len(budgets) < 2:
        return None
    names = [count(budget.compute, FLOP_SUFFIXES) for budget in budgets]
    palette = style.colours(names)
    with style.report_style():
        figure, axes = style.new_figure()
        for name, budget in zip(names, budgets, strict=True):
            own = scaling.points.iloc[budget.members]
            axes.scatter(own[N], own[LOSS], s=16, color=palette[name], zorder=3)
            sizes = np.geomspace(own[N].min(), own[N].max(), 80)
            axes.plot(sizes, budget.predict(sizes), color=palette[name], linewidth=1.1)
            best = budget.N_optimal
            if isinstance(best, Estimate):
                loss, bars = budget.predict([best.value]), style.error_bars(best.value, best.low, best.high)
                axes.errorbar([best.value], loss, xerr=bars, fmt="D", color=style.RED, ms=4, capsize=2, zorder=4)
        style.log_axes(axes, AXES[N], style.LOSS)
        style.legend(axes, style.colour_handles(palette, " FLOPs"))
    shown = sum(len(budget.members) for budget in budgets)
    minima = sum(isinstance(budget.N_optimal, Estimate) for budget in budgets)
    caption = (
        f"Validation loss against N at {len(budgets)} compute budgets C = 6 N D, n = {shown} models. Red: the minima "
        f"of {minima} budgets with 95 % intervals; the other budgets have none inside what was trained."
    )
    return ReportFigure("isoflop", "Loss at equal compute", figure, caption)


def optimum_figure(scaling: Scaling, setting: str, along: str) -> ReportFigure | None:
    """The optimum of a setting against N or D (`along`); None without optima at two values of it."""
    if scaling.optima.empty:
        return None
    cells = scaling.optima[scaling.optima["setting"] == setting]
    known = cells[cells["value"].notna()]
    if known[along].nunique() < 2:
        return None
    other, noun = (D, " tokens") if along == N else (N, " parameters")
    groups, palette = _levels(known[other])
    law = scaling.laws[setting]
    with style.report_style():
        figure, axes = style.new_figure()
        for label, own in known.groupby(groups, sort=False):
            bars = style.error_bars(own["value"], own["low"], own["high"])
            axes.errorbar(own[along], own["value"], yerr=bars, fmt="o", color=palette[label], markersize=4, capsize=2)
            if law is not None:
                x = np.geomspace(known[along].min(), known[along].max(), 60)
                rest = np.full_like(x, np.exp(np.log(own[other]).mean()))
                y = law.predict(x, rest) if along == N else law.predict(rest, x)
                axes.plot(x, y, color=palette[label], linewidth=1.0, alpha=0.8)
        style.log_axes(axes, AXES[along], f"optimal {UNITS[setting]}")
        style.legend(axes, style.colour_handles(palette, noun, marker="o"))
    without = len(cells) - len(known)
    more = f"; {without} more cells have no optimum inside what was tried" if without else ""
    drawn = "Lines: the power law through all of them." if law else "No law is drawn: the data do not support one."
    start = f"The optimal {UNITS[setting]} of each N and D, n = {len(known)} cells, with 95 % intervals"
    caption = f"{start}{more}. {drawn}"
    title = f"Optimal {UNITS[setting]} against {AXES[along]}"
    return ReportFigure(f"optimum_{setting}_{along}", title, figure, caption)


def _levels(values: pd.Series) -> tuple[pd.Series, dict[str, ColorType]]:
    """A label for each value and a colour for each label; more than MAX_LEVELS values are binned by quantiles."""
    levels = np.sort(values.unique())
    if len(levels) <= MAX_LEVELS:
        return values.map(count), style.colours(count(level) for level in levels)
    edges = np.quantile(levels, np.linspace(0, 1, MAX_LEVELS + 1))
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, MAX_LEVELS - 1)
    names = [f"{count(low)} to {count(high)}" for low, high in itertools.pairwise(edges)]
    groups = pd.Series([names[k] for k in bins], index=values.index)
    return groups, style.colours(name for name in names if name in set(groups))
