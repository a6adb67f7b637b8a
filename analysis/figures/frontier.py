"""Loss against training FLOPs: every model that was trained, and the frontier of what compute can buy.

The frontier is the lower left part of the convex hull in log FLOPs and log loss: nothing that was trained has both less
compute and a lower loss. From a run, the points along the curves count as well, all on the windows of the reports.

`loss_compute_figure` is for a ladder of sizes: it shows the losses to quote, and the law that forecasts the next size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import GREY
from analysis.figures.encoding import looks_of
from analysis.figures.report_figure import ReportFigure
from analysis.figures.scaling import levels
from analysis.runs.load import Run
from analysis.runs.trial_csv import FLOPS_PER_PARAMETER_AND_TOKEN, LOSS, D, N
from analysis.scaling.ladder import Ladder, LadderSize
from analysis.scaling.ladder_fits import LadderFits
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate
from analysis.tables.formatting import FLOP_SUFFIXES, count
from analysis.tables.trials import complete_trials
from lmcore import columns as col

MIN_RANGE = 1.1  # of the FLOPs of trained models; with less there is one budget
HIGHEST = 1.5  # loss that is shown, as a multiple of the frontier's at its compute: what failed would hide the rest
ALONG = (
    " Lines: the lowest loss of any trial of a size at each compute, before the learning rate has decayed; a run that "
    "was planned for this compute would reach a lower one. All losses are on the small set of every report."
)
FLOPS, GROUP, TRIAL = "flops", "group", "trial"
FAINT, BAND, POINTS = 0.3, 0.15, 60
LEADING, NEXT_SIZE, FORECAST, FRONTIER = (
    "leading setting",
    "forecast of the next size",
    "forecast without it",
    "frontier",
)


def frontier_of_run(run: Run) -> ReportFigure | None:
    """The trials of a run that were trained to their end, by size; None if their FLOPs are all but equal.

    >>> frontier_of_run(analysis.load("runs/quick")).chart.layers("line", "frontier")[0].frame
    """
    complete = complete_trials(run.trials)
    known = {FLOPS: complete[col.TRAIN_FLOPS], LOSS: complete[col.VAL_LOSS]}
    models = pd.DataFrame({**known, GROUP: complete[col.SIZE], TRIAL: complete[col.TRIAL]})
    trials = run.trials[run.trials[col.STATUS] != col.DIVERGED].set_index(col.TRIAL)
    rows = run.rows[run.rows[col.TRIAL].isin(trials.index) & np.isfinite(run.rows[col.VAL_LOSS])]
    per_token = rows[col.TRIAL].map(trials[col.FLOPS_PER_TOKEN]).astype("float64")  # also where there are no rows
    reached = {FLOPS: per_token * rows[col.TOKENS].astype("float64"), LOSS: rows[col.VAL_LOSS]}
    curves = pd.DataFrame({**reached, GROUP: rows[col.TRIAL].map(trials[col.SIZE])})
    looks = {name: replace(look, size=4.5, hollow=True) for name, look in looks_of(models[GROUP]).items()}
    return _frontier(models, curves[curves[FLOPS] > 0], looks)


def frontier_of_points(points: pd.DataFrame) -> ReportFigure | None:
    """The same of models from a CSV file, by N, with FLOPs = 6 N D."""
    finite = points[np.isfinite(points[LOSS])]
    groups, looks = levels(finite[N])
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * finite[N] * finite[D]
    models = pd.DataFrame({FLOPS: flops, LOSS: finite[LOSS], GROUP: groups + " parameters"})
    hollow = {f"{name} parameters": replace(look, size=4.5, hollow=True) for name, look in looks.items()}
    return _frontier(models, models.iloc[:0], hollow)


def loss_compute_figure(run: Run, ladders: Sequence[LadderFits]) -> ReportFigure | None:
    """The complete trials of a ladder, the leading setting of each size, the frontier, and the law with its forecast of
    the next size; None without a ladder of two sizes.

    >>> loss_compute_figure(run, fit_ladders(run)).chart.layers("points", "forecast of the next size")[0].frame
    """
    sizes = [size for one in ladders for size in one.ladder.sizes]
    if len(sizes) < 2 or max(one.flops for one in sizes) <= MIN_RANGE * min(one.flops for one in sizes):
        return None
    ids = {trial for size in sizes for trial in size.trials}
    complete = run.trials[run.trials[col.TRIAL].isin(ids) & (run.trials[col.STATUS] == col.COMPLETE)]
    known = {FLOPS: complete[col.TRAIN_FLOPS], LOSS: complete[col.LOSS], TRIAL: complete[col.TRIAL]}
    models = pd.DataFrame({**known, GROUP: complete[col.SIZE]}).reset_index(drop=True)
    corners = models.iloc[hull(models[FLOPS].to_numpy(float), models[LOSS].to_numpy(float))]
    shown = _near(models, corners)
    layers = [
        Layer("line", _places(corners), Look(GREY, width=4.5, opacity=0.5), FRONTIER),
        Layer("points", _points(shown), Look(GREY, "o", 3, opacity=FAINT), "trials"),
    ]
    looks = looks_of([one.ladder.arm or "" for one in ladders])
    for draw in (_law_layers, _size_layers):
        for one in ladders:
            layers += draw(one, looks[one.ladder.arm or ""])
    above = len(models) - len(shown)
    text = f" ({above} with a loss above {HIGHEST:g} times the frontier's are not shown)" if above else ""
    laws = list(dict.fromkeys(one.forecast.law for one in ladders if one.forecast.law))
    law = (
        f"Lines: {' or '.join(laws)}, with the 95 % band of the law; diamonds: forecasts with 95 % intervals. "
        if laws
        else ""
    )
    caption = (
        f"Validation loss against training FLOPs, n = {len(models)} complete trials{text}, faintly; the leading "
        f"setting of each size with its interval from seeds, if it was confirmed. {law}Grey: the frontier, the lower "
        "left of the convex hull in logs."
    )
    x, y = Axis("training FLOPs", log=True, suffixes=FLOP_SUFFIXES), Axis(style.LOSS, log=True)
    chart = Chart("loss_compute", "Loss against compute, and the next size", caption, [Panel(x, y, layers)])
    return ReportFigure(replace(chart, panel_height_in=3.8))


def _law_layers(fits: LadderFits, look: Look) -> Iterator[Layer]:
    """The law along the line of the forecast."""
    target, line, name = fits.forecast.target, fits.forecast.line, fits.ladder.arm or "law"
    along = fits.ladder.line_through(target.N, target.D) if fits.ladder.sizes else None
    own = [one for one in fits.ladder.sizes if along is not None and along.has(one.N, one.D)]
    if line is not None and along is not None and len(own) > 1:
        n = np.geomspace(own[0].N, max(target.N, own[-1].N), POINTS)
        d, flops = np.array([along.tokens(one) for one in n]), _flops_along(own, target.N, target.flops, n)
        middle, (low, high) = line.curve(n, d, flops)
        trained = flops <= own[-1].flops
        yield Layer("band", pd.DataFrame({"x": flops, "low": low, "high": high}), replace(look, opacity=BAND))
        yield Layer("line", pd.DataFrame({"x": flops, "y": middle})[trained], replace(look, dash="solid"), name)
        beyond = pd.DataFrame({"x": flops, "y": middle})[np.roll(~trained, -1) | ~trained]
        yield Layer("line", beyond, replace(look, dash="dashed"))


def _size_layers(fits: LadderFits, look: Look) -> Iterator[Layer]:
    """The forecast of the largest size, the leading settings, and the forecast of the next size."""
    largest = fits.forecast.largest
    if isinstance(fits.forecast.held_out, Estimate) and largest is not None:
        frame = _interval(largest.flops, fits.forecast.held_out, f"{largest.name}, from the smaller sizes")
        yield Layer("points", frame, replace(look, marker="D", size=9, hollow=True, width=0.9), FORECAST)
    yield Layer("points", _leading(fits.ladder), replace(look, size=6), fits.ladder.arm or LEADING)
    if isinstance(fits.forecast.loss, Estimate):
        frame = _interval(fits.forecast.target.flops, fits.forecast.loss, fits.forecast.target.name)
        yield Layer("points", frame, replace(look, marker="D", size=6), NEXT_SIZE)


def _flops_along(sizes: Sequence[LadderSize], N_ahead: float, flops_ahead: float, n: Array) -> Array:
    """FLOPs of models between those that are known, by their N."""
    known = sorted({one.N: one.flops for one in sizes}.items())
    known += [(N_ahead, flops_ahead)] if N_ahead > known[-1][0] else []
    x, y = np.log(np.array(known)).T
    return np.asarray(np.exp(np.interp(np.log(n), x, y)))


def _leading(ladder: Ladder) -> pd.DataFrame:
    half = np.nan_to_num(np.array([one.half for one in ladder.sizes]))
    loss = np.array([one.loss for one in ladder.sizes])
    hover = [
        f"{one.name}: {one.loss:.3f}{f' ± {one.half:.3f}' if one.half == one.half else ''} nats" for one in ladder.sizes
    ]
    flops = [one.flops for one in ladder.sizes]
    return pd.DataFrame({"x": flops, "y": loss, "low": loss - half, "high": loss + half, "hover": hover})


def _interval(x: float, one: Estimate, what: str) -> pd.DataFrame:
    hover = f"{what}: {one.value:.3f} ({one.low:.3f} to {one.high:.3f}) nats"
    return pd.DataFrame({"x": [x], "y": [one.value], "low": [one.low], "high": [one.high], "hover": [hover]})


def hull(flops: Array, loss: Array) -> Array:
    """Indices of the lower left part of the convex hull in logs, by rising FLOPs and falling loss.

    >>> hull(np.array([1, 10, 100, 100]), np.array([4.0, 3.9, 3.0, 3.5])).tolist()
    [0, 2]
    """
    x, y = np.log(flops), np.log(loss)
    corners: list[int] = []
    lowest = np.inf
    for index in np.lexsort((y, x)):
        if y[index] >= lowest:  # something cheaper is as good
            continue
        lowest = y[index]
        while len(corners) > 1 and not _turns_left(corners[-2], corners[-1], index, x, y):
            corners.pop()
        corners.append(int(index))
    return np.array(corners, dtype=int)


def _turns_left(a: int, b: int, c: int, x: Array, y: Array) -> bool:
    """Whether b lies below the line from a to c."""
    return bool((x[b] - x[a]) * (y[c] - y[a]) > (y[b] - y[a]) * (x[c] - x[a]))


def lowest_so_far(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of one group that reach a lower loss than all rows with fewer FLOPs, by rising FLOPs."""
    ordered = curves.sort_values([FLOPS, LOSS], kind="stable")
    return ordered[ordered[LOSS] < ordered[LOSS].cummin().shift(fill_value=np.inf)]


def _frontier(models: pd.DataFrame, curves: pd.DataFrame, looks: Mapping[str, Look]) -> ReportFigure | None:
    models = models[models[FLOPS].notna() & np.isfinite(models[LOSS])]
    if models.empty or models[FLOPS].max() <= MIN_RANGE * models[FLOPS].min():
        return None
    every = pd.concat([models, curves[curves[GROUP].isin(list(looks))]], ignore_index=True)
    corners = every.iloc[hull(every[FLOPS].to_numpy(float), every[LOSS].to_numpy(float))]
    layers = [Layer("line", _places(corners), Look(GREY, width=4.5), "frontier")] if len(corners) > 1 else []
    shown, near = _near(models, corners), _near(curves, corners)
    for name, look in looks.items():
        best = lowest_so_far(near[near[GROUP] == name])
        if len(best) > 1:
            layers.append(Layer("line", _places(best), look, name))
        layers.append(Layer("points", _points(shown[shown[GROUP] == name]), look, name))
    above = len(models) - len(shown)
    text = f"; {above} of them, with a loss above {HIGHEST:g} times the frontier's, are not shown" if above else ""
    caption = (
        f"Validation loss against training FLOPs, n = {len(models)} models that were trained to their end{text}. Grey: "
        f"the frontier, the lower left of the convex hull in logs.{ALONG if len(curves) else ''}"
    )
    x, y = Axis("training FLOPs", log=True, suffixes=FLOP_SUFFIXES), Axis(style.LOSS, log=True)
    chart = Chart("frontier", "Loss against compute", caption, [Panel(x, y, layers)], panel_height_in=3.6)
    return ReportFigure(chart)


def _near(rows: pd.DataFrame, corners: pd.DataFrame) -> pd.DataFrame:
    """The rows whose loss is at most HIGHEST times that of the frontier at their compute."""
    at = np.interp(*(np.log(column.to_numpy(float)) for column in (rows[FLOPS], corners[FLOPS], corners[LOSS])))
    return rows[np.log(rows[LOSS].to_numpy(float)) <= at + np.log(HIGHEST)]


def _places(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"x": rows[FLOPS], "y": rows[LOSS]})


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    hover = [
        f"{group}: {count(flops, FLOP_SUFFIXES)} FLOPs, {loss:.3f} nats"
        for group, flops, loss in zip(rows[GROUP], rows[FLOPS], rows[LOSS], strict=True)
    ]
    trial = {TRIAL: rows[TRIAL]} if TRIAL in rows else {}
    return _places(rows).assign(hover=hover, **trial)
