"""Power laws y = c N^a D^b through one value per cell, by least squares of the logarithms.

They describe how the optimal learning rate or batch (`analysis.scaling.optimum`) changes with N parameters and D
tokens. Each cell counts once, and intervals come from the scatter of the cells about the law, which includes the error
of each optimum and whatever the law does not explain. A loss has a floor and does not follow such a law: see
`analysis.scaling.loss_law`.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from analysis.scaling.regressors import count_levels, indistinguishable, log_of
from analysis.stats import bootstrap
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Fitted, NotEstimable, ShowsFitted, too_few

COEFFICIENT = "coefficient"
MIN_VALUES = 3  # distinct values of N or D: through two, any power law passes


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law as a curve, for figures and for choosing settings.

    >>> law = fit_power_law(optima["value"], optima["N"], optima["D"]).law
    >>> law.predict(1e9, 2e10)
    """

    coefficients: Array  # [P]: log y at the centre, then the exponents
    draws: Array = field(repr=False)  # [R, P]
    center: Array  # [P - 1]: mean log of each regressor

    def predict(self, *regressors: ArrayLike) -> Array:
        """y at these N and D (those that were fitted, in that order), which are broadcast against each other."""
        return np.exp(self._design(regressors) @ self.coefficients)

    def band(self, *regressors: ArrayLike) -> Array:
        """Ends [2, ...] of the 95 % interval of the law itself at these N and D; a single cell scatters more."""
        return np.exp(bootstrap.interval(np.moveaxis(self._design(regressors) @ self.draws.T, -1, 0)))

    def _design(self, regressors: tuple[ArrayLike, ...]) -> Array:
        logs = np.broadcast_arrays(*(np.log(np.asarray(x, float)) for x in regressors))
        return np.stack([np.ones(logs[0].shape), *(x - c for x, c in zip(logs, self.center, strict=True))], axis=-1)


@dataclass(frozen=True, repr=False)
class PowerLawFit(ShowsFitted):
    """The result of `fit_power_law`."""

    fitted: dict[str, Fitted]  # coefficient (y at N = D = 1), and N_exponent and D_exponent if given; `n` counts cells
    law: PowerLaw | None  # None if an exponent is not estimable


def fit_power_law(
    y: ArrayLike, N: ArrayLike | None = None, D: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> PowerLawFit:
    """y [n] = c N^a D^b with one value per cell; N and D [n] are positive, and either may be left out.

    >>> fit_power_law(optima["value"], optima["N"], optima["D"]).fitted["N_exponent"]

    Intervals come from a residual bootstrap (`analysis.stats.bootstrap.linear_draws`). An exponent is not estimable
    with fewer than three values of its regressor; the other one still is. Neither is estimable if N and D rise
    together, or with as few cells as coefficients. The coefficient depends on all exponents and needs each of them.
    Raises ValueError if neither N nor D is given, or a value is not positive and finite.
    """
    if N is None and D is None:
        raise ValueError("a power law needs N or D, got neither")
    logs = {name: log_of(name, x) for name, x in (("N", N), ("D", D)) if x is not None}
    log_y = log_of("y", y)
    n = len(log_y)
    levels = {name: count_levels(x) for name, x in logs.items()}
    unknown = {
        name: too_few(count, f"value of {name}", MIN_VALUES, " for an exponent")
        for name, count in levels.items()
        if count < MIN_VALUES
    }
    regressors = {name: x - x.mean() for name, x in logs.items() if levels[name] > 1}
    width = 1 + len(regressors)
    if n <= width:
        unknown = dict.fromkeys(logs, too_few(n, "cell", width + 1, f" for {width} coefficients"))
    elif len(regressors) == 2 and indistinguishable(*regressors.values()):
        unknown = dict.fromkeys(logs, NotEstimable("N and D rise together, so their exponents cannot be told apart"))

    fitted: dict[str, Fitted] = {f"{name}_exponent": reason for name, reason in unknown.items()}
    if unknown:
        fitted[COEFFICIENT] = next(iter(unknown.values()))
    law = None
    if len(unknown) < len(logs):
        design = np.stack([np.ones(n), *regressors.values()], axis=1)
        coefficients, draws = bootstrap.linear_draws(design, log_y, resamples, seed)
        for column, name in enumerate(regressors, start=1):
            if name not in unknown:
                fitted[f"{name}_exponent"] = bootstrap.estimate(coefficients[column], draws[:, column], n)
        if not unknown:
            center = np.array([x.mean() for x in logs.values()])
            law = PowerLaw(coefficients, draws, center)
            everything = np.concatenate([coefficients[None], draws])
            at_one = np.exp(everything[:, 0] - everything[:, 1:] @ center)
            fitted[COEFFICIENT] = bootstrap.estimate(at_one[0], at_one[1:], n)
    return PowerLawFit({key: fitted[key] for key in (COEFFICIENT, *(f"{name}_exponent" for name in logs))}, law)
