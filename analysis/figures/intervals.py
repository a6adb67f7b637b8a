"""Figures of intervals: how much each hyperparameter mattered, and by how much kinds of models differ."""

from collections.abc import Sequence

import pandas as pd

from analysis.figures.style import GREY, INK, RED, ReportFigure, colours, legend, looks, new_figure, size_handles
from analysis.stats.comparison import BETTER, REFUSED, WORSE, Comparison
from analysis.stats.estimate import Estimate
from lmcore import columns as col

GREEN = "#2e7d5b"
ROW_IN, FRAME_IN = 0.26, 1.1


def importance_forest(table: pd.DataFrame) -> ReportFigure | None:
    """`analysis.stats.importance.importance` as points with intervals; None where every size is refused."""
    known = table[table["refused"].isna()].reset_index(drop=True)
    if known.empty:
        return None
    palette = colours(known[col.SIZE])
    with looks():
        figure, axes = new_figure(height_in=FRAME_IN + ROW_IN * len(known))
        for place, one in enumerate(known.itertuples()):
            reach = [[one.importance - one.low], [one.high - one.importance]]
            look = {"color": palette[one.size], "alpha": 1.0 if one.separable else 0.45}
            axes.errorbar([one.importance], [place], xerr=reach, fmt="o", markersize=5, capsize=3, **look)
        axes.set_yticks(range(len(known)), [path.partition(".")[2] for path in known["parameter"]])
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("importance (share of 1)")
        axes.set_ylabel("hyperparameter")
        legend(axes, size_handles(palette))
    rest = ", ".join(f"n = {group['n'].iloc[0]} in {size}" for size, group in known.groupby(col.SIZE, sort=False))
    caption = (
        "Share of each searched hyperparameter in what tells the best quarter of the trials from the rest "
        f"(PED-ANOVA), with 95 % intervals; {rest} trials. Pale: does not stand out from shuffled losses."
    )
    return ReportFigure("importance", "Importance of the hyperparameters", figure, caption)


def comparison_forest(comparisons: Sequence[Comparison]) -> ReportFigure | None:
    """Differences of paired trials with their intervals, by matching; None where all are refused."""
    rows = [(f"{one.b} against {one.a}", matched) for one in comparisons for matched in one.matchings.values()]
    rows = [(name, matched) for name, matched in rows if isinstance(matched.difference, Estimate)]
    if not rows:
        return None
    with looks():
        figure, axes = new_figure(height_in=FRAME_IN + 1.3 * ROW_IN * len(rows))
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (_, matched) in enumerate(rows):
            difference = matched.difference
            reach = [[difference.value - difference.low], [difference.high - difference.value]]
            colour = {BETTER: GREEN, WORSE: RED, REFUSED: GREY}.get(matched.verdict, GREY)
            axes.barh(place, 2 * matched.noise, left=-matched.noise, height=0.7, color=GREY, alpha=0.18, zorder=0)
            axes.errorbar([difference.value], [place], xerr=reach, fmt="o", color=colour, markersize=5, capsize=3)
        labels = [f"{name}\n{matched.matching} (n = {matched.difference.n})" for name, matched in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("difference in loss (nats per token)")
        axes.set_ylabel("comparison")
    pairs = sum(matched.difference.n for _, matched in rows)
    caption = (
        f"Mean differences of paired trials with 95 % intervals, n = {pairs} pairs in all. Left of 0 the first named "
        "is better. Grey bands: the noise, inside which a difference is called a tie."
    )
    return ReportFigure("comparisons", "Paired comparisons", figure, caption)
