"""The best value of a positive setting (learning rate, batch) at one size, and the largest one that trains at all.

A smooth surface in the logarithms of the settings (`analysis.scaling.response_surface`) is fitted to the trials around
the best one, all settings together, and its lowest point is the optimum: the best trial itself is the luckiest of many,
and a grid is coarse. How optima move with size is `analysis.scaling.power_law`'s.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.scaling.response_surface import ResponseSurface
from analysis.stats import bootstrap
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, there_are

Array = NDArray[np.float64]

WINDOWS = (0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
"""How far above the lowest loss a trial may lie, as a share of it: the first one that holds enough trials is taken.
Beyond them the loss bends upwards into divergence: on Step Law's grid, with windows of 1, 2 and 5 % for all cells, a
law from the minima of parabolas loses 0.08, 0.16 and 0.22 % of loss."""
ENOUGH = 2  # trials per coefficient; a window with fewer is only taken where no wider one has more
NOISE_WINDOWS = 4.0  # a window narrower than this many standard deviations of the noise would choose trials by luck
MIN_VALUES = 3  # of a setting, inside the window: a parabola has a minimum


def find_optima(
    settings: Mapping[str, ArrayLike], loss: ArrayLike, resamples: int = 1000, seed: int = 0
) -> dict[str, Fitted]:
    """The value of each setting at the lowest loss, all trials being of one size and one number of tokens.

    `settings`: by name, the positive values [n] that each trial had; `loss` [n] in nats per token, not finite for a
    trial that diverged. Settings of which fewer than three values were tried are held at the best trial's. `n` of an
    estimate counts the trials that the surface was fitted to. Where trials are too few for all settings together,
    each is fitted on its own to the lowest loss at each of its values.
    """
    values = {name: np.asarray(column, float) for name, column in settings.items()}
    losses = np.asarray(loss, float)
    for name, column in values.items():
        if not (column > 0).all():
            raise ValueError(f"settings must be positive, but {name} has {column.min()}; leave those trials out")
    kept = np.isfinite(losses)
    if not (losses[kept] > 0).all():
        raise ValueError(f"losses must be positive nats per token, got {losses[kept].min()}")
    values, losses = {name: column[kept] for name, column in values.items()}, losses[kept]
    if not len(losses):
        return dict.fromkeys(settings, NotEstimable("no trial has a finite loss"))
    few = {name: len(np.unique(column)) for name, column in values.items() if len(np.unique(column)) < MIN_VALUES}
    fitted: dict[str, Fitted] = {
        name: NotEstimable(f"{there_are(number, f'value of {name}')} too few (at least {MIN_VALUES})")
        for name, number in few.items()
    }
    best = int(losses.argmin())
    held = np.all([values[name] == values[name][best] for name in few], axis=0) if few else np.full(len(losses), True)
    free = {name: column[held] for name, column in values.items() if name not in few}
    fitted |= _fit(free, losses[held], resamples, seed)
    return {name: fitted[name] for name in settings}


def optimum_table(
    trials: pd.DataFrame,
    cell: Sequence[str],
    settings: Sequence[str],
    loss: str,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """`find_optima` in each cell: one row per cell and setting, in the order of the cells.

    `cell`, `settings` and `loss` name columns of `trials`. Columns: those of `cell`, setting, value, low, high (NaN
    where refused), n (trials fitted), refused (the reason, None where there is a value).
    """
    records = []
    for key, group in trials.groupby(list(cell)):
        optima = find_optima({name: group[name] for name in settings}, group[loss], resamples, seed)
        for name, optimum in optima.items():
            if isinstance(optimum, NotEstimable):
                records.append((*key, name, math.nan, math.nan, math.nan, 0, optimum.reason))
            else:
                records.append((*key, name, optimum.value, optimum.low, optimum.high, optimum.n, None))
    return pd.DataFrame(records, columns=[*cell, "setting", "value", "low", "high", "n", "refused"])


def largest_stable(values: ArrayLike, diverged: ArrayLike) -> Fitted:
    """The largest of `values` [n] that a trial survived; `diverged` [n] says which did not.

    The interval is what the trials leave open: from the largest value below which none diverged to the smallest
    above the estimate that did. NotEstimable where that end is open.
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
    safe = tried[~failed & (tried < tried[failed].min())]
    low = safe.max() if len(safe) else 0.0
    return Estimate(float(value), float(low), float(above.min()), len(tried))


def _fit(values: dict[str, Array], losses: Array, resamples: int, seed: int) -> dict[str, Fitted]:
    if not values:
        return {}
    logs = np.stack([np.log(column) for column in values.values()], axis=1)
    local = _window(logs, losses)
    if local is None and len(values) > 1:
        apart = {name: _lower_envelope(column, losses) for name, column in values.items()}
        return {name: _fit({name: column}, lowest, resamples, seed)[name] for name, (column, lowest) in apart.items()}
    if local is None:
        (name,) = values
        return {name: NotEstimable(f"{len(losses)} trials are too few near the optimum of {name}")}

    near, surface = local
    center = logs[near].mean(axis=0)
    height = losses[near] / losses.min() - 1
    coefficients, draws = bootstrap.linear_draws(surface.design(logs[near] - center), height, resamples, seed)
    lowest = surface.lowest(coefficients[None])[0] + center
    ends = bootstrap.interval(surface.lowest(draws) + center)
    fitted: dict[str, Fitted] = {}
    for k, (name, column) in enumerate(values.items()):
        value, low, high = (float(np.exp(x)) for x in (lowest[k], *ends[:, k]))
        refused = _refusal(name, column, float(column[losses.argmin()]), value, low, high)
        fitted[name] = refused or Estimate(value, low, high, int(near.sum()))
    return fitted


def _refusal(name: str, tried: Array, best: float, value: float, low: float, high: float) -> NotEstimable | None:
    smallest, largest = tried.min(), tried.max()
    if best in (smallest, largest):
        end = "smallest" if best == smallest else "largest"
        return NotEstimable(f"the best trial has the {end} {name} that finished, {best:.3g}: try beyond it")
    if not (low > 0 and math.isfinite(high) and 0 < value < math.inf):
        return NotEstimable(f"the loss has no clear minimum in {name}: within the noise it may have none")
    if not smallest < value < largest:
        return NotEstimable(f"the fitted optimum of {name} lies outside what was tried, {value:.3g}")
    return None


def _window(logs: Array, losses: Array) -> tuple[NDArray[np.bool_], ResponseSurface] | None:
    """Which trials [n] the surface is fitted to and its form, None if no window holds enough trials for any."""
    # Cubic where there are trials for it. With bowls as lopsided as the worst of Step Law's and noise of 0.1-0.3 %,
    # intervals from parabolas held the optimum in 17-92 % of 150 simulated cells, depending on the grid; these in
    # 91-99 %.
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


def _lower_envelope(column: Array, losses: Array) -> tuple[Array, Array]:
    """The distinct values and the lowest loss at each."""
    distinct, labels = np.unique(column, return_inverse=True)
    lowest = np.full(len(distinct), np.inf)
    np.minimum.at(lowest, labels, losses)
    return distinct, lowest
