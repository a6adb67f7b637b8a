"""Figures of the laws: loss against size, compute budgets, and the best settings against size and data.

Points are always shown; a curve only where its law was not refused.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures.style import INK, LOSS, RED, ReportFigure, colours, legend, looks, new_figure, round_numbers
from analysis.runs.trial_csv import LOSS as LOSS_COLUMN
from analysis.runs.trial_csv import D, N
from analysis.scaling.fit import Scaling
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import FLOP_SUFFIXES, count

LEVELS_MOST = 8
UNITS = {"lr": "learning rate", "batch": "batch (tokens per update)"}
AXES = {N: "parameters N", D: "tokens D"}


def scaling_figures(scaling: Scaling) -> list[ReportFigure]:
    """All that there are points for."""
    figures = [size_figure(scaling)] if scaling.points[N].nunique() > 1 else []
    curves = [budget for budget in scaling.isoflop.budgets if budget.form is not None]
    if len(curves) > 1:
        figures.append(isoflop_figure(scaling))
    if not scaling.optima.empty:
        for setting in scaling.optima["setting"].unique():
            figures += optimum_figures(scaling, setting)
    return figures


def size_figure(scaling: Scaling) -> ReportFigure:
    """Loss against N, by D; with the curves of L(N, D), or of L(N) for the data that most models saw."""
    points = scaling.points
    groups, palette = _levels(points[D])
    curve = scaling.loss_nd.curve
    sizes = np.geomspace(points[N].min(), points[N].max(), 120)
    with looks():
        figure, axes = new_figure()
        for label, own in points.groupby(groups, sort=False):
            axes.scatter(own[N], own[LOSS_COLUMN], s=20, color=palette[label], zorder=3)
            if curve is not None:
                d = float(np.exp(np.log(own[D]).mean()))
                axes.plot(sizes, curve.predict(sizes, d), color=palette[label], linewidth=1.1)
                axes.fill_between(sizes, *curve.band(sizes, d), color=palette[label], alpha=0.12, linewidth=0)
        if curve is None and scaling.loss_n.curve is not None:
            axes.plot(sizes, scaling.loss_n.curve.predict(sizes), color=INK, linewidth=1.1)
            axes.fill_between(sizes, *scaling.loss_n.curve.band(sizes), color=INK, alpha=0.12, linewidth=0)
        _log_axes(axes, AXES[N], LOSS)
        legend(
            axes, [Line2D([], [], marker="o", linestyle="", color=c, label=f"{d} tokens") for d, c in palette.items()]
        )
    if curve is not None:
        said = "Lines: L(N, D) = E + A/N^alpha + B/D^beta, with the 95 % band of the law itself."
    elif scaling.loss_n.curve is not None:
        same = len(scaling.n_points)
        said = f"Line: L(N) = E + A/N^alpha through the n = {same} of one token count, with its 95 % band."
    else:
        said = "No law is drawn: the data do not support one (the table says why)."
    caption = f"Lowest validation loss at each N and D, n = {len(points)} models. {said}"
    return ReportFigure("loss_size", "Loss against size", figure, caption)


def isoflop_figure(scaling: Scaling) -> ReportFigure:
    """Loss against N at each compute budget, with the minima."""
    points = scaling.points
    budgets = [budget for budget in scaling.isoflop.budgets if budget.form is not None]
    palette = colours(count(budget.compute, FLOP_SUFFIXES) for budget in budgets)
    shown = 0
    with looks():
        figure, axes = new_figure()
        for budget in budgets:
            own = points.iloc[budget.members]
            shown += len(own)
            colour = palette[count(budget.compute, FLOP_SUFFIXES)]
            axes.scatter(own[N], own[LOSS_COLUMN], s=16, color=colour, zorder=3)
            sizes = np.geomspace(own[N].min(), own[N].max(), 80)
            axes.plot(sizes, budget.predict(sizes), color=colour, linewidth=1.1)
            optimum = budget.N_optimal
            if isinstance(optimum, Estimate):
                height = budget.predict(np.array([optimum.value]))
                reach = [[max(optimum.value - optimum.low, 0)], [max(optimum.high - optimum.value, 0)]]
                axes.errorbar(
                    [optimum.value], height, xerr=reach, fmt="D", color=RED, markersize=4, capsize=2, zorder=4
                )
        _log_axes(axes, AXES[N], LOSS)
        legend(axes, [Line2D([], [], color=c, label=f"{flops} FLOPs") for flops, c in palette.items()])
    minima = sum(isinstance(budget.N_optimal, Estimate) for budget in budgets)
    caption = (
        f"Validation loss against N at {len(budgets)} compute budgets C = 6 N D, n = {shown} models. Red: the minima "
        f"of {minima} budgets with 95 % intervals; the other budgets have none inside what was trained."
    )
    return ReportFigure("isoflop", "Loss at equal compute", figure, caption)


def optimum_figures(scaling: Scaling, setting: str) -> list[ReportFigure]:
    """The optimum of a setting against N and against D, whichever varies."""
    cells = scaling.optima[scaling.optima["setting"] == setting]
    known = cells[cells["value"].notna()]
    if known.empty:
        return []
    return [
        _optimum_figure(scaling, setting, cells, known, along, other)
        for along, other in ((N, D), (D, N))
        if known[along].nunique() > 1
    ]


def _optimum_figure(
    scaling: Scaling, setting: str, cells: pd.DataFrame, known: pd.DataFrame, along: str, other: str
) -> ReportFigure:
    groups, palette = _levels(known[other])
    law = scaling.laws[setting]
    with looks():
        figure, axes = new_figure()
        for label, own in known.groupby(groups, sort=False):
            reach = [own["value"] - own["low"], own["high"] - own["value"]]
            axes.errorbar(own[along], own["value"], yerr=reach, fmt="o", color=palette[label], markersize=4, capsize=2)
            if law is not None:
                x = np.geomspace(known[along].min(), known[along].max(), 60)
                rest = np.full_like(x, np.exp(np.log(own[other]).mean()))
                y = law.predict(x, rest) if along == N else law.predict(rest, x)
                axes.plot(x, y, color=palette[label], linewidth=1.0, alpha=0.8)
        _log_axes(axes, AXES[along], f"optimal {UNITS[setting]}")
        kind = "tokens" if other == D else "parameters"
        legend(axes, [Line2D([], [], marker="o", color=c, label=f"{v} {kind}") for v, c in palette.items()])
    refused = len(cells) - len(known)
    caption = (
        f"The optimal {UNITS[setting]} of each N and D, n = {len(known)} cells, with 95 % intervals"
        f"{f'; {refused} more cells have no optimum inside what was tried' if refused else ''}. "
        + ("Lines: the power law through all of them." if law is not None else "No law is drawn: it was refused.")
    )
    return ReportFigure(
        f"optimum_{setting}_{along}", f"Optimal {UNITS[setting]} against {AXES[along]}", figure, caption
    )


def _levels(values: pd.Series) -> tuple[pd.Series, dict[str, object]]:
    """Each value's label, and a colour by label; of very many values, those of quantiles."""
    levels = np.sort(values.unique())
    if len(levels) > LEVELS_MOST:
        edges = np.quantile(levels, np.linspace(0, 1, LEVELS_MOST + 1))
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, LEVELS_MOST - 1)
        named = [f"{count(edges[k])} to {count(edges[k + 1])}" for k in range(LEVELS_MOST)]
        groups = pd.Series([named[k] for k in place], index=values.index)
        return groups, colours(name for name in named if name in set(groups))
    groups = values.map(count)
    return groups, colours(count(level) for level in levels)


def _log_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    round_numbers(axes.xaxis)
    round_numbers(axes.yaxis)
