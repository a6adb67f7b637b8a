"""Forest plots: the importance of each hyperparameter, and the differences of paired comparisons, with intervals."""

import textwrap
from collections.abc import Sequence

import pandas as pd

from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import GREEN, GREY, INK, RED, colours
from analysis.figures.encoding import MARKERS
from analysis.figures.report_figure import ReportFigure
from analysis.stats.comparison import BETTER, SAME, TIE, WORSE, Comparison, Matched
from analysis.stats.estimate import Estimate, Fitted
from lmcore import columns as col

VERDICTS = {BETTER: (GREEN, "o"), WORSE: (RED, "s"), TIE: (INK, "D"), SAME: (INK, "D")}
ROW_IN, LINE_IN, FRAME_IN = 0.28, 0.16, 0.75
LINE_CHARACTERS = 32


def importance_forest(table: pd.DataFrame) -> ReportFigure | None:
    """The table of `analysis.stats.importance.importance`; None if no size is estimable."""
    known = table[table["refused"].isna()].reset_index(drop=True)
    if known.empty:
        return None
    known = known.assign(x=known["importance"], y=known.index.astype(float), x_low=known["low"], x_high=known["high"])
    palette = colours(known[col.SIZE])
    layers = []
    for place, (size, own) in enumerate(known.groupby(col.SIZE, sort=False)):
        for stands_out, rows in own.groupby(own["separable"].astype(bool), sort=True):
            look = Look(palette[size], MARKERS[place % len(MARKERS)], 6.0, hollow=not stands_out)
            hover = [
                f"{one.parameter} in {size}: {one.x:.2f} ({one.low:.2f} to {one.high:.2f})" for one in rows.itertuples()
            ]
            layers.append(Layer("points", rows[["x", "y", "x_low", "x_high"]].assign(hover=hover), look, str(size)))
    names = [path.partition(".")[2] for path in known["parameter"]]
    y_axis = Axis("hyperparameter", ticks=dict(zip(known["y"], names, strict=True)), limits=(len(known) - 0.5, -0.5))
    panel = Panel(Axis("importance (share of 1)", limits=(0, 1)), y_axis, layers)
    rest = ", ".join(f"n = {group['n'].iloc[0]} in {size}" for size, group in known.groupby(col.SIZE, sort=False))
    caption = (
        "Share of each searched hyperparameter in what tells the best quarter of the trials from the rest "
        f"(PED-ANOVA), with 95 % intervals; {rest} trials. Hollow: does not stand out from shuffled losses."
    )
    title = "Importance of the hyperparameters"
    return ReportFigure(Chart("importance", title, caption, [panel], panel_height_in=FRAME_IN + ROW_IN * len(known)))


def comparison_forest(comparisons: Sequence[Comparison]) -> ReportFigure | None:
    """The mean difference of each comparison and matching; None if none is estimable."""
    found = []
    for one in comparisons:
        shared: dict[tuple[Fitted, str], list[Matched]] = {}
        for matched in one.matchings.values():
            shared.setdefault((matched.difference, matched.verdict), []).append(matched)
        for (difference, _), own in shared.items():  # matchings of the same pairs are one row
            if isinstance(difference, Estimate):
                at = ", ".join(matched.matching.removeprefix("same " * (k > 0)) for k, matched in enumerate(own))
                found.append((f"{one.b} against {one.a}", at, own[0], difference))
    if not found:
        return None
    places = dict(enumerate(found))
    noise = pd.DataFrame({"y": float(y), "value": matched.noise} for y, (_, _, matched, _) in places.items()).dropna()
    grey = Look(GREY, opacity=0.2)
    layers = [
        Layer("bars", noise, grey, "noise"),
        Layer("bars", noise.assign(value=-noise["value"]), grey, "noise"),
        Layer("rule", pd.DataFrame({"x": [0.0]}), Look(INK, width=0.8)),
    ]
    for verdict, (colour, marker) in VERDICTS.items():
        rows = [_row(y, *one) for y, one in places.items() if one[2].verdict == verdict]
        if rows:
            label = {TIE: "tie", SAME: "the same bit for bit"}.get(verdict, verdict)
            layers.append(Layer("points", pd.DataFrame(rows), Look(colour, marker, 6.0), label))
    ticks = {
        float(y): f"{name}\n{textwrap.fill(f'{at} (n = {d.n})', LINE_CHARACTERS)}"
        for y, (name, at, _, d) in places.items()
    }
    y_axis = Axis(ticks=ticks, limits=(len(found) - 0.5, -0.5))
    panel = Panel(Axis("difference in loss (nats per token)"), y_axis, layers)
    pairs = sum(one.pairs for one in comparisons)
    caption = (
        f"Mean differences of paired trials with 95 % intervals, n = {pairs} pairs, which the matchings share. Left of "
        "0 the first named is better. Grey bands: the noise, inside which a difference is called a tie."
    )
    lines = max(tick.count("\n") + 1 for tick in ticks.values())
    height = FRAME_IN + LINE_IN * (1 + lines) * len(found)
    return ReportFigure(Chart("comparisons", "Paired comparisons", caption, [panel], panel_height_in=height))


def _row(y: int, name: str, at: str, matched: Matched, d: Estimate) -> dict[str, object]:
    hover = f"{name}, {at}: {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), {d.n} pairs, {matched.verdict}"
    return {"x": d.value, "y": float(y), "x_low": d.low, "x_high": d.high, "hover": hover}
