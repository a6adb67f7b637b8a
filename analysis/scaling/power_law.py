"""How an optimum moves with size: y = c N^a D^b through one value per cell, by least squares of the logarithms.

For the optimal learning rate or batch (`analysis.scaling.optimum`), with N parameters and D tokens; either may be
absent. Each cell counts once, and the intervals come from how the cells scatter about the law, which contains the error
of each optimum and also what the law does not explain. A loss has a floor and is not such a law: see
`analysis.scaling.loss_law`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats import bootstrap
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, there_are

Array = NDArray[np.float64]

COEFFICIENT = "coefficient"
MIN_VALUES = 3
"""Of N or D: through two any power law passes."""
SAME = 0.01  # values of N or D within 1 % are one: token counts are rounded to whole steps
COLLINEAR = 0.05
"""Log units (5 %) of D that N does not explain, as a standard deviation over the cells: less tells nothing apart."""


@dataclass(frozen=True)
class PowerLaw:
    """The law as a curve, for figures and for choosing settings."""

    coefficients: Array
    """[P]: log y at the centre, then the exponents."""
    draws: Array
    """[R, P]"""
    center: Array
    """[P - 1]: mean log of each regressor."""

    def predict(self, *regressors: ArrayLike) -> Array:
        """y at these N and D, those that were given to the fit, in that order; they may be arrays that broadcast."""
        return np.exp(self._design(regressors) @ self.coefficients)

    def band(self, *regressors: ArrayLike) -> Array:
        """Low and high end, [2, ...], of the 95 % interval of the law itself there (a cell scatters more)."""
        return np.exp(bootstrap.interval(np.moveaxis(self._design(regressors) @ self.draws.T, -1, 0)))

    def _design(self, regressors: tuple[ArrayLike, ...]) -> Array:
        logs = np.broadcast_arrays(*(np.log(np.asarray(x, float)) for x in regressors))
        return np.stack([np.ones(logs[0].shape), *(x - c for x, c in zip(logs, self.center, strict=True))], axis=-1)


@dataclass(frozen=True)
class PowerLawFit:
    """What came of a fit."""

    fitted: dict[str, Fitted]
    """coefficient (y where N and D are 1) and N_exponent, D_exponent where given; `n` counts cells."""
    law: PowerLaw | None
    """None where a regressor's exponent is refused."""


def fit_power_law(
    y: ArrayLike, N: ArrayLike | None = None, D: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> PowerLawFit:
    """y [n] = c N^a D^b with N, D [n] or None; all positive, one value for each cell.

    An exponent is refused where its regressor has fewer than three values or cannot be told from the other; the
    others stay. The coefficient belongs to all exponents and is refused with any of them.
    """
    if N is None and D is None:
        raise ValueError("a power law needs N or D, got neither")
    with np.errstate(divide="ignore", invalid="ignore"):
        given = {name: np.log(np.asarray(x, float)) for name, x in (("N", N), ("D", D)) if x is not None}
        log_y = np.log(np.asarray(y, float))
    if not all(np.isfinite(x).all() for x in (log_y, *given.values())):
        raise ValueError("y, N and D must be positive and finite; leave other cells out")
    n = len(log_y)
    levels = {name: count_levels(x) for name, x in given.items()}
    refused = {
        name: NotEstimable(f"{there_are(count, f'value of {name}')} too few for an exponent (at least {MIN_VALUES})")
        for name, count in levels.items()
        if count < MIN_VALUES
    }
    regressors = [x - x.mean() for name, x in given.items() if levels[name] > 1]
    design = np.stack([np.ones(n), *regressors], axis=1)
    if len(regressors) == 2 and indistinguishable(*regressors):
        refused = dict.fromkeys(given, NotEstimable("N and D rise together, so their exponents cannot be told apart"))
    if n <= design.shape[1]:
        cells = f"{there_are(n, 'cell')} too few for {design.shape[1]} coefficients (at least one more)"
        refused = dict.fromkeys(given, NotEstimable(cells))
    keys = [f"{name}_exponent" for name in given]
    if refused.keys() == given.keys():
        reasons = {key: refused[name] for key, name in zip(keys, given, strict=True)}
        return PowerLawFit({COEFFICIENT: next(iter(reasons.values())), **reasons}, None)

    coefficients, draws = bootstrap.linear_draws(design, log_y, resamples, seed)
    ends = bootstrap.interval(draws)
    fitted: dict[str, Fitted] = {}
    column = 1
    for key, name in zip(keys, given, strict=True):
        fitted[key] = refused.get(name) or Estimate(float(coefficients[column]), *map(float, ends[:, column]), n)
        column += levels[name] > 1
    if refused:
        return PowerLawFit({COEFFICIENT: next(iter(refused.values())), **fitted}, None)
    center = np.array([x.mean() for x in given.values()])
    all_draws = np.concatenate([coefficients[None], draws])
    at_one = np.exp(all_draws[:, 0] - all_draws[:, 1:] @ center)
    coefficient = Estimate(float(at_one[0]), *map(float, bootstrap.interval(at_one[1:])), n)
    return PowerLawFit({COEFFICIENT: coefficient, **fitted}, PowerLaw(coefficients, draws, center))


def count_levels(logs: Array) -> int:
    """How many different values there are among the exponentials of `logs`, those within 1 % of one being that one."""
    count, level = 0, -np.inf
    for value in np.unique(logs):
        if value > level + SAME:
            count, level = count + 1, value
    return count


def indistinguishable(first: Array, second: Array) -> bool:
    """Whether centred logs [n] go so much together that no data could say which of the two acts."""
    slope = first @ second / (first @ first)
    return bool(np.std(second - slope * first) < COLLINEAR)
