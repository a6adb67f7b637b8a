"""The optimal value of a positive setting (learning rate, batch) at one size, and the largest stable one.

A response surface in the logs of all settings (`analysis.scaling.response_surface`) is fitted to the trials around the
best one, and its minimum is the optimum. The best trial itself would be a biased choice: it is the luckiest of many,
and a grid is coarse. `analysis.scaling.power_law` describes how optima change with size.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.scaling.regressors import log_of
from analysis.scaling.response_surface import ResponseSurface, judge
from analysis.stats import bootstrap
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, as_cells, too_few

WINDOWS = (0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
"""How far above the lowest loss a trial may be, relative to it; the first window that holds enough trials is used.
Farther away the loss bends upwards into divergence: on Step Law's grid, with parabolas in windows of 1, 2 and 5 % for
all cells, the resulting law loses 0.08, 0.16 and 0.22 % of loss."""
ENOUGH = 2  # trials per coefficient; a window with fewer is used only if no wider one has more
NOISE_WINDOWS = 4.0  # a window narrower than this many standard deviations of the noise would select trials by luck
MIN_VALUES = 3  # of a setting, inside the window: a parabola needs three to have a minimum


def find_optima(
    settings: Mapping[str, ArrayLike], loss: ArrayLike, resamples: int = 1000, seed: int = 0
) -> dict[str, Fitted]:
    """The value of each setting at the lowest loss, for trials of one size and one number of tokens.

    >>> find_optima({"lr": trials["lr"], "batch": trials["batch"]}, trials["loss"])["lr"]

    `settings` maps names to the positive values [n] of the trials; `loss` [n] is in nats per token, not finite for a
    trial that diverged. A setting with fewer than three values is held at the best trial's. If trials are too few to
    fit all settings together, each is fitted by itself to the lowest loss at each of its values.

    Intervals come from a residual bootstrap of the surface; `n` counts the trials that it was fitted to. An optimum is
    not estimable if trials are too few, if the best trial or the minimum is at the edge of the values tried, or if
    within the noise the surface may have no minimum. Raises ValueError if a setting or a finite loss is not positive.
    """
    losses = np.asarray(loss, float)
    kept = np.isfinite(losses)
    losses = losses[kept]
    log_of("loss", losses)
    logs = {name: log_of(name, column)[kept] for name, column in settings.items()}
    if not len(losses):
        return dict.fromkeys(settings, NotEstimable("no trial has a finite loss"))
    held = np.full(len(losses), True)
    fitted: dict[str, Fitted] = {}
    for name, column in logs.items():
        distinct = len(np.unique(column))
        if distinct < MIN_VALUES:
            fitted[name] = too_few(distinct, f"value of {name}", MIN_VALUES)
            held &= column == column[losses.argmin()]
    fitted |= _fit({name: logs[name][held] for name in logs if name not in fitted}, losses[held], resamples, seed)
    return {name: fitted[name] for name in settings}


def curve_near_optimum(values: ArrayLike, loss: ArrayLike, points: int = 60) -> tuple[Array, Array] | None:
    """The curve whose minimum `find_optima` returns for a single setting: values [points] and losses [points].

    >>> lr, fitted = curve_near_optimum(trials["lr"], trials["loss"])

    None if there are too few trials near the best. The values are from the lowest to the highest of those trials.
    """
    losses = np.asarray(loss, float)
    kept = np.isfinite(losses)
    losses, column = losses[kept], log_of("setting", values)[kept]
    if not len(losses) or (local := _window(column[:, None], losses)) is None:
        return None
    near, surface = local
    center = column[near].mean()
    height = losses[near] / losses.min() - 1
    coefficients = np.linalg.lstsq(surface.design((column[near] - center)[:, None]), height)[0]
    grid = np.linspace(column[near].min(), column[near].max(), points)
    fitted = losses.min() * (1 + surface.design((grid - center)[:, None]) @ coefficients)
    return np.exp(grid), fitted


def optimum_table(
    trials: pd.DataFrame, cell: Sequence[str], settings: Sequence[str], loss: str, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """`find_optima` in each cell: a row per cell and setting, ordered by cell.

    >>> optimum_table(points, ["N", "D"], ["lr", "batch"], "loss")

    `cell`, `settings` and `loss` name columns of `trials`. Columns of the result: those of `cell`, setting, value, low,
    high (NaN if not estimable), n (trials fitted), refused (why the optimum is not estimable, else None).
    """
    rows = []
    for key, group in trials.groupby(list(cell)):
        optima = find_optima({name: group[name] for name in settings}, group[loss], resamples, seed)
        rows += [(*key, name, *as_cells(optimum)) for name, optimum in optima.items()]
    return pd.DataFrame(rows, columns=[*cell, "setting", "value", "low", "high", "n", "refused"])


def largest_stable(values: ArrayLike, diverged: ArrayLike) -> Fitted:
    """The largest of `values` [n] at which a trial did not diverge; `diverged` [n] are flags; `n` counts trials.

    >>> largest_stable([1e-3, 3e-3, 1e-2, 3e-2], [False, False, True, True])
    Estimate(value=0.003, low=0.003, high=0.01, n=4)

    The interval is the range that the trials leave open: from the largest value below all that diverged to the smallest
    diverged value above the estimate. Not estimable if that upper end is open.
    """
    tried, failed = np.asarray(values, float), np.asarray(diverged, bool)
    if not len(tried):
        return NotEstimable("there are no trials")
    if failed.all():
        return NotEstimable(f"every trial diverged, down to {tried.min():.3g}")
    if not failed.any():
        return NotEstimable(f"no trial diverged, up to {tried.max():.3g}")
    value = tried[~failed].max()
    above = tried[failed & (tried > value)]
    if not len(above):
        return NotEstimable(f"no trial above {value:.3g} was tried, and some at or below it diverged")
    low = tried[~failed & (tried < tried[failed].min())].max(initial=0.0)
    return Estimate(float(value), float(low), float(above.min()), len(tried))


def _fit(logs: dict[str, Array], losses: Array, resamples: int, seed: int) -> dict[str, Fitted]:
    if not logs:
        return {}
    columns = np.stack(list(logs.values()), axis=1)
    local = _window(columns, losses)
    if local is None:
        fitted: dict[str, Fitted] = {}
        for name, column in logs.items():
            if len(logs) == 1:
                return {name: NotEstimable(f"{len(losses)} trials are too few near the optimum of {name}")}
            lowest = pd.Series(losses).groupby(column).min()
            fitted |= _fit({name: lowest.index.to_numpy()}, lowest.to_numpy(), resamples, seed)
        return fitted
    near, surface = local
    center = columns[near].mean(axis=0)
    height = losses[near] / losses.min() - 1
    coefficients, draws = bootstrap.linear_draws(surface.design(columns[near] - center), height, resamples, seed)
    minima = surface.lowest(np.concatenate([coefficients[None], draws])) + center
    best, n = losses.argmin(), int(near.sum())
    return {name: judge(name, minima[:, k], column, column[best], n) for k, (name, column) in enumerate(logs.items())}


def _window(logs: Array, losses: Array) -> tuple[NDArray[np.bool_], ResponseSurface] | None:
    """The trials [n] to fit and the form of the surface; None if no window holds enough trials for any form."""
    # Cubic if there are trials enough. For cells as asymmetric as the worst of Step Law's, with noise of 0.1-0.3 %,
    # intervals from parabolas contained the optimum in 17-92 % of 150 simulated cells, depending on the grid; these do
    # in 91-99 %.
    chosen = None
    for window in WINDOWS:
        near = losses <= losses.min() * (1 + window)
        u = logs[near] - logs[near].mean(axis=0)
        height = losses[near] / losses.min() - 1
        for surface in (ResponseSurface(u.shape[1], cubic=True), ResponseSurface(u.shape[1], cubic=False)):
            design = surface.design(u)
            df = len(design) - design.shape[1]
            values = min(len(np.unique(column)) for column in u.T)
            if df < 1 or values < MIN_VALUES + surface.cubic or np.linalg.matrix_rank(design) < design.shape[1]:
                continue
            noise = math.sqrt(np.sum((height - design @ np.linalg.lstsq(design, height)[0]) ** 2) / df)
            enough = len(design) >= ENOUGH * design.shape[1] and window >= NOISE_WINDOWS * noise
            if chosen is None or enough or (surface.cubic and not chosen[1].cubic):
                chosen = near, surface
            if enough:
                return chosen
            if surface.cubic:
                break
    return chosen
