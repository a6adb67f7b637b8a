"""Forest plots: the importance of each hyperparameter, and the differences of paired comparisons, with intervals."""

from collections.abc import Sequence

import pandas as pd

from analysis.figures import style
from analysis.figures.style import ReportFigure
from analysis.stats.comparison import BETTER, WORSE, Comparison
from analysis.stats.estimate import Estimate
from lmcore import columns as col

VERDICT_COLOURS = {BETTER: "#2e7d5b", WORSE: style.RED}
ROW_IN, FRAME_IN = 0.26, 1.1


def importance_forest(table: pd.DataFrame) -> ReportFigure | None:
    """The table of `analysis.stats.importance.importance`; None if no size is estimable."""
    known = table[table["refused"].isna()].reset_index(drop=True)
    if known.empty:
        return None
    palette = style.colours(known[col.SIZE])
    with style.report_style():
        figure, axes = style.new_figure(FRAME_IN + ROW_IN * len(known))
        for y, row in enumerate(known.itertuples()):
            bars = style.error_bars(row.importance, row.low, row.high)
            colour, alpha = palette[row.size], 1.0 if row.separable else 0.45
            axes.errorbar([row.importance], [y], xerr=bars, fmt="o", markersize=5, capsize=3, color=colour, alpha=alpha)
        axes.set_yticks(range(len(known)), [path.partition(".")[2] for path in known["parameter"]])
        axes.set(xlabel="importance (share of 1)", ylabel="hyperparameter", xlim=(0, 1), ylim=(len(known) - 0.5, -0.5))
        style.legend(axes, style.colour_handles(palette, linewidth=2))
    rest = ", ".join(f"n = {group['n'].iloc[0]} in {size}" for size, group in known.groupby(col.SIZE, sort=False))
    caption = (
        "Share of each searched hyperparameter in what tells the best quarter of the trials from the rest "
        f"(PED-ANOVA), with 95 % intervals; {rest} trials. Pale: does not stand out from shuffled losses."
    )
    return ReportFigure("importance", "Importance of the hyperparameters", figure, caption)


def comparison_forest(comparisons: Sequence[Comparison]) -> ReportFigure | None:
    """The mean difference of each comparison and matching; None if none is estimable."""
    rows = [
        (f"{one.b} against {one.a}", matched, matched.difference)
        for one in comparisons
        for matched in one.matchings.values()
        if isinstance(matched.difference, Estimate)
    ]
    if not rows:
        return None
    with style.report_style():
        figure, axes = style.new_figure(FRAME_IN + 1.3 * ROW_IN * len(rows))
        axes.axvline(0, color=style.INK, linewidth=0.8)
        for y, (_, matched, d) in enumerate(rows):
            colour = VERDICT_COLOURS.get(matched.verdict, style.GREY)
            axes.barh(y, 2 * matched.noise, left=-matched.noise, height=0.7, color=style.GREY, alpha=0.18, zorder=0)
            bars = style.error_bars(d.value, d.low, d.high)
            axes.errorbar([d.value], [y], xerr=bars, fmt="o", color=colour, markersize=5, capsize=3)
        labels = [f"{name}\n{matched.matching} (n = {d.n})" for name, matched, d in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set(xlabel="difference in loss (nats per token)", ylabel="comparison", ylim=(len(rows) - 0.5, -0.5))
    pairs = sum(d.n for _, _, d in rows)
    caption = (
        f"Mean differences of paired trials with 95 % intervals, n = {pairs} pairs in all. Left of 0 the first named "
        "is better. Grey bands: the noise, inside which a difference is called a tie."
    )
    return ReportFigure("comparisons", "Paired comparisons", figure, caption)
