"""Loss laws: L(N, D) = E + A/N^alpha + B/D^beta, and L(N) = E + A/N^alpha if all runs saw the same amount of data.

Hoffmann et al. 2022, approach 3, equation (3): Huber's loss (delta 1e-3) of the residuals of log loss is minimised from
many starts by Newton's method (`analysis.scaling.huber_solver`), and from the best ones by SciPy's L-BFGS as well.
Intervals are expanded percentiles of refits with exponential weights (`analysis.stats.bootstrap`), each started from
the best fit. If the data do not determine a parameter, it is not estimable, and the others still are.

N is a parameter count, D a number of tokens, losses are in nats per token. `analysis.scaling.isoflop` finds
compute-optimal sizes without this law.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

import analysis.scaling.huber_solver as huber  # `from` would ask the package, whose old names need this module
from analysis.scaling.regressors import count_levels, indistinguishable, log_of
from analysis.stats import bootstrap
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Fitted, NotEstimable, ShowsFitted, too_few

TERMS = {"N": ("A", "alpha"), "D": ("B", "beta")}
FLOOR = "E"
OPTIMAL = "N_exponent"

MIN_VALUES = 4  # of N or D: a floor, a coefficient and an exponent pass through any three losses
SPARE_POINTS = 3  # beyond the number of parameters

EXPONENTS = (0.03, 3.0)
"""Bounds of the search. At a bound there is no exponent: 0.03 is a logarithm, 3 a step at the smallest size."""
FLOOR_SHARE = 1e-3  # of the lowest loss; an E as small as that counts as zero
TERM_SHARE = 1e-6  # of the lowest loss, at the mean size; a term as small as that counts as absent
START_EXPONENTS = (0.15, 0.4, 1.0)
START_FLOORS = (0.1, 0.5, 0.8, 0.95)  # shares of the lowest loss
START_SHARES = (0.2, 0.5, 0.8)  # of the rest, in the first term
POLISHED = 3  # starts that L-BFGS follows as well


@dataclass(frozen=True)
class Curve:
    """A fitted law as a curve, for figures and predictions.

    >>> curve = fit_loss_law(N, D, loss).curve
    >>> curve.predict(1e9, 2e10), curve.band(1e9, 2e10)
    """

    theta: Array  # [P]: log E, then for each term the log of its part of the loss at the centre, and its exponent
    draws: Array = field(repr=False)  # [R, P]
    center: Array  # [K]: mean log of each regressor
    level: float  # the share of draws beyond each end of a 95 % interval

    def predict(self, *regressors: ArrayLike) -> Array:
        """Loss in nats per token at these N and D (N alone for a size law), which are broadcast against each other."""
        x, shape = self._centered(regressors)
        return np.asarray(np.exp(huber.log_sum(self.theta[None], x)[0]).reshape(shape))

    def band(self, *regressors: ArrayLike) -> Array:
        """Ends [2, ...] of the 95 % interval of the law itself at these N and D; a single run scatters more."""
        x, shape = self._centered(regressors)
        ends = bootstrap.interval(huber.log_sum(self.draws, x), self.level)
        return np.exp(ends).reshape(2, *shape)

    def _centered(self, regressors: tuple[ArrayLike, ...]) -> tuple[Array, tuple[int, ...]]:
        logs = np.broadcast_arrays(*(np.log(np.asarray(x, float)) for x in regressors))
        return np.stack([x.ravel() - c for x, c in zip(logs, self.center, strict=True)]), logs[0].shape


@dataclass(frozen=True, repr=False)
class LossLaw(ShowsFitted):
    """The result of `fit_loss_law` or `fit_size_law`."""

    fitted: dict[str, Fitted]  # by parameter; `n` counts runs
    curve: Curve | None  # None if a term is not estimable


def fit_loss_law(N: ArrayLike, D: ArrayLike, loss: ArrayLike, resamples: int = 1000, seed: int = 0) -> LossLaw:
    """L = E + A/N^alpha + B/D^beta through runs of N [n] parameters on D [n] tokens with final `loss` [n].

    >>> law = fit_loss_law(N, D, loss)
    >>> law.fitted["alpha"], law.curve.predict(1e9, 2e10)

    Estimated are E, A, B, alpha, beta and N_exponent = beta / (alpha + beta), the power of compute with which the
    optimal N grows (Hoffmann et al. 2022, equation 4). Runs without a finite loss are left out.

    Nothing is estimable from fewer than 8 runs, or if N and D rise together. A term is not estimable with fewer than
    four values of its regressor, if it may be zero, or if its exponent is unbounded; E then is not either, because it
    absorbs whatever does not vary. Raises ValueError if N, D or a finite loss is not positive.
    """
    return _fit({"N": N, "D": D}, loss, resamples, seed)


def fit_size_law(N: ArrayLike, loss: ArrayLike, resamples: int = 1000, seed: int = 0) -> LossLaw:
    """As `fit_loss_law`: L = E + A/N^alpha through at least 6 runs of N [n] parameters on equally many tokens."""
    return _fit({"N": N}, loss, resamples, seed)


def _fit(regressors: dict[str, ArrayLike], loss: ArrayLike, resamples: int, seed: int) -> LossLaw:
    losses = np.asarray(loss, float)
    kept = np.isfinite(losses)
    log_y = log_of("loss", losses[kept])
    logs = {name: log_of(name, np.asarray(column)[kept]) for name, column in regressors.items()}

    n, parameters = len(log_y), 1 + 2 * len(logs)
    levels = {name: count_levels(x) for name, x in logs.items()}
    few = {name: too_few(k, f"value of {name}", MIN_VALUES) for name, k in levels.items() if k < MIN_VALUES}
    center = np.array([x.mean() if n else 0.0 for x in logs.values()])
    x = np.stack(list(logs.values())) - center[:, None]
    reason = None
    if n < parameters + SPARE_POINTS:
        reason = too_few(n, "run", parameters + SPARE_POINTS, f" for {parameters} parameters")
    elif len(x) == 2 and min(levels.values()) > 1 and indistinguishable(*x):
        reason = NotEstimable("N and D rise together, so their parts of the loss cannot be told apart")
    elif len(few) == len(logs):
        reason = next(iter(few.values()))
    if reason:
        return LossLaw(dict.fromkeys(_names(list(logs)), reason), None)

    bounds = _bounds(log_y, list(levels.values()))
    theta = _best_fit(x, log_y, bounds)
    draws, converged = huber.fit(theta[None], x, log_y, bootstrap.exponential_weights(n, resamples, seed), bounds)
    level = bootstrap.tail(n, parameters)
    everything = np.concatenate([theta[None], draws])
    unknown = _unknown(list(logs), few, everything, bounds, level, failed=float(1 - converged.mean()))
    values = _values(list(logs), everything, center)
    fitted: dict[str, Fitted] = {}
    for name in _names(list(logs)):
        fitted[name] = unknown.get(name) or bootstrap.estimate(values[name][0], values[name][1:], n, level)
    known = not any(name in unknown for term in logs for name in TERMS[term])
    return LossLaw(fitted, Curve(theta, draws, center, level) if known else None)


def _names(terms: list[str]) -> list[str]:
    """In the order in which they are shown."""
    coefficients, exponents = zip(*(TERMS[term] for term in terms), strict=True)
    return [FLOOR, *coefficients, *exponents, *([OPTIMAL] if len(terms) == 2 else [])]


def _values(terms: list[str], theta: Array, center: Array) -> dict[str, Array]:
    """The estimated numbers [1 + R] from `theta` [1 + R, P]."""
    values = {FLOOR: np.exp(theta[:, 0])}
    for k, term in enumerate(terms):
        coefficient, exponent = TERMS[term]
        values[exponent] = theta[:, 2 + 2 * k]
        with np.errstate(over="ignore"):  # if the term is not estimable
            values[coefficient] = np.exp(theta[:, 1 + 2 * k] + values[exponent] * center[k])
    if len(terms) == 2:
        alpha, beta = theta[:, 2], theta[:, 4]
        values[OPTIMAL] = beta / (alpha + beta)
    return values


def _unknown(
    terms: list[str], few: dict[str, NotEstimable], theta: Array, bounds: optimize.Bounds, level: float, failed: float
) -> dict[str, NotEstimable]:
    """Why numbers are not estimable, by name, from `theta` [1 + R, P]: the best fit and the resamples."""
    margin = 1e-3 * (bounds.ub - bounds.lb)
    # An interval that ends at a bound of the search is none: the data would have allowed more.
    at_bounds = theta <= bounds.lb + margin, theta >= bounds.ub - margin
    low, high = (at[0] | (at[1:].mean(axis=0) > level) for at in at_bounds)
    unknown: dict[str, NotEstimable] = {}
    for k, term in enumerate(terms):
        reason = few.get(term)
        if reason is None and low[1 + 2 * k]:
            reason = NotEstimable(f"the part of the loss that falls with {term} cannot be told from zero")
        elif reason is None and (low[2 + 2 * k] or high[2 + 2 * k]):
            ends = "{:g} or {:g}".format(*EXPONENTS)
            reason = NotEstimable(f"{TERMS[term][1]} is not identified: its interval reaches {ends}")
        if reason:
            unknown |= dict.fromkeys(TERMS[term], reason)
    if unknown:  # E and the optimum depend on all terms; fits need not converge along the unknown one
        return {**unknown, **dict.fromkeys((FLOOR, OPTIMAL), next(iter(unknown.values())))}
    if failed > level:
        reason = NotEstimable(f"the fit does not converge in {100 * failed:.0f} % of the resamples")
        return dict.fromkeys(_names(terms), reason)
    return {FLOOR: NotEstimable("E cannot be told from zero")} if low[0] else {}


def _bounds(log_y: Array, levels: list[int]) -> optimize.Bounds:
    """Where to search [P]. A term with too few values is held fixed, so that the other one can still be fitted."""
    lowest, highest = log_y.min(), log_y.max()
    none = lowest + np.log(TERM_SHARE)
    ends = [(lowest + np.log(FLOOR_SHARE), highest)]
    for count in levels:
        # With one value the term is part of the floor; through two values any exponent passes.
        ends.append((none, highest) if count > 1 else (none, none))
        ends.append(EXPONENTS if count > 2 else (START_EXPONENTS[1],) * 2)
    return optimize.Bounds(*np.array(ends, float).T)


def _best_fit(x: Array, log_y: Array, bounds: optimize.Bounds) -> Array:
    """The best fit [P] over all starts."""
    starts = _starts(log_y, len(x))
    ones = np.ones((len(starts), len(log_y)))
    found, _ = huber.fit(starts, x, log_y, ones, bounds)
    values = huber.objective(found, x, log_y, ones)
    order = values.argsort()
    best, best_value, one = found[order[0]], values[order[0]], ones[:1]
    unit = 1 / max(huber.objective(starts[:1], x, log_y, one)[0], huber.DELTA**2)  # L-BFGS expects values near 1

    def scaled(theta: Array) -> tuple[float, Array]:
        at = theta[None], x, log_y, one
        return float(unit * huber.objective(*at)[0]), unit * huber.gradient(*at)[0]

    for start in np.clip(starts[order[:POLISHED]], bounds.lb, bounds.ub):
        result = optimize.minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds)
        if result.fun / unit < best_value:
            best, best_value = result.x, result.fun / unit
    return np.asarray(huber.fit(best[None], x, log_y, one, bounds)[0][0])


def _starts(log_y: Array, terms: int) -> Array:
    """[R, P]: every combination of exponents, floors and shares of the terms."""
    lowest, middle = np.exp(log_y.min()), np.exp(np.median(log_y))
    shares = [(share, 1 - share) for share in START_SHARES] if terms == 2 else [(1.0,)]
    starts = []
    exponent_choices = itertools.product(START_EXPONENTS, repeat=terms)
    for floor, share, exponents in itertools.product(START_FLOORS, shares, exponent_choices):
        rest = middle - floor * lowest
        pairs = [(np.log(rest * part), exponent) for part, exponent in zip(share, exponents, strict=True)]
        starts.append([np.log(floor * lowest), *itertools.chain(*pairs)])
    return np.array(starts)
