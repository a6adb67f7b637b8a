"""What the loss will be: L(N, D) = E + A/N^alpha + B/D^beta, and L(N) = E + A/N^alpha where all runs saw the same data.

Hoffmann et al. 2022, approach 3: Huber's loss (delta 1e-3) of the log loss, from many starts, by Newton's method
(`analysis.scaling.huber_solver`) and the best ones by SciPy's L-BFGS as well. Intervals are percentiles of refits with
exponential weights (`analysis.stats.bootstrap`), each from the point. What the data do not determine is refused, the
rest stays.

N is a parameter count, D are tokens, losses are in nats per token. Compute-optimal sizes found without this law are
`analysis.scaling.isoflop`'s.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from analysis.scaling import huber_solver as huber
from analysis.scaling.power_law import count_levels, indistinguishable
from analysis.stats import bootstrap
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, there_are

Array = NDArray[np.float64]

TERMS = {"N": ("A", "alpha"), "D": ("B", "beta")}
FLOOR = "E"
OPTIMAL = "N_exponent"

MIN_VALUES = 4  # of N or D: a floor, a size and an exponent pass through any three losses
SPARE_POINTS = 3  # beyond the number of parameters

EXPONENTS = (0.03, 3.0)
"""The search stops here. A fit that arrives has no exponent: 0.03 is a logarithm, 3 a step at the smallest size."""
FLOOR_SHARE = 1e-3  # of the lowest loss: an E as small as that is none
TERM_SHARE = 1e-6  # of the lowest loss, at the mean size: the term is absent
START_EXPONENTS = (0.15, 0.4, 1.0)
START_FLOORS = (0.1, 0.5, 0.8, 0.95)  # shares of the lowest loss
START_SHARES = (0.2, 0.5, 0.8)  # of the rest, in the first term
POLISHED = 3  # starts that L-BFGS follows as well


@dataclass(frozen=True)
class Curve:
    """The law as a curve, for figures."""

    theta: Array
    """[P]: log E, then for each term the log of its part of the loss at the centre, and its exponent."""
    draws: Array
    """[R, P]"""
    center: Array
    """[K]: mean log of each regressor."""
    level: float
    """The share of draws beyond each end of a 95 % interval."""

    def predict(self, *regressors: ArrayLike) -> Array:
        """Loss in nats per token at these N and D (N alone for a size law); they may be arrays that broadcast."""
        x, shape = self._place(regressors)
        return np.exp(huber.log_sum(self.theta[None], x)[0]).reshape(shape)

    def band(self, *regressors: ArrayLike) -> Array:
        """Low and high end, [2, ...], of the 95 % interval of the law itself there (a run scatters more)."""
        x, shape = self._place(regressors)
        ends = bootstrap.interval(huber.log_sum(self.draws, x), self.level)
        return np.exp(ends).reshape(2, *shape)

    def _place(self, regressors: tuple[ArrayLike, ...]) -> tuple[Array, tuple[int, ...]]:
        logs = np.broadcast_arrays(*(np.log(np.asarray(x, float)) for x in regressors))
        return np.stack([x.ravel() - c for x, c in zip(logs, self.center, strict=True)]), logs[0].shape


@dataclass(frozen=True)
class LossLaw:
    """What came of a fit."""

    fitted: dict[str, Fitted]
    """By parameter; `n` counts runs."""
    curve: Curve | None
    """None where a term is refused."""


def fit_loss_law(N: ArrayLike, D: ArrayLike, loss: ArrayLike, resamples: int = 1000, seed: int = 0) -> LossLaw:
    """L = E + A/N^alpha + B/D^beta through runs of N [n] parameters on D [n] tokens that ended at `loss` [n].

    Fitted: E, A, B, alpha, beta, and N_exponent = beta / (alpha + beta), with which the compute-optimal N grows with
    compute. Runs without a finite loss are left out.
    """
    return _fit({"N": N, "D": D}, loss, resamples, seed)


def fit_size_law(N: ArrayLike, loss: ArrayLike, resamples: int = 1000, seed: int = 0) -> LossLaw:
    """L = E + A/N^alpha through runs of N [n] parameters that all saw as many tokens. Fitted: E, A, alpha."""
    return _fit({"N": N}, loss, resamples, seed)


def _fit(regressors: dict[str, ArrayLike], loss: ArrayLike, resamples: int, seed: int) -> LossLaw:
    losses = np.asarray(loss, float)
    kept = np.isfinite(losses)
    if not (losses[kept] > 0).all():
        raise ValueError(f"losses must be positive nats per token, got {losses[kept].min()}")
    log_y = np.log(losses[kept])
    logs = {}
    for name, column in regressors.items():
        values = np.asarray(column, float)[kept]
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name} must be positive and finite; leave other runs out")
        logs[name] = np.log(values)

    n, parameters = len(log_y), 1 + 2 * len(logs)
    few = {name: _too_few(name, x) for name, x in logs.items()}
    nothing = _refuse_all(logs, n, parameters)
    if nothing or all(few.values()):
        reason = nothing or next(reason for reason in few.values() if reason)
        return LossLaw(dict.fromkeys(_names(list(logs)), reason), None)

    center = np.array([x.mean() for x in logs.values()])
    x = np.stack([one - c for one, c in zip(logs.values(), center, strict=True)])
    box = _box(log_y, [count_levels(one) for one in logs.values()])
    theta = _point(x, log_y, box)
    draws, converged = huber.fit(theta[None], x, log_y, bootstrap.exponential_weights(n, resamples, seed), box)
    level = bootstrap.tail(n, parameters)
    judged = _judge(list(logs), few, theta, draws, converged, box, level)
    values = _values(list(logs), np.concatenate([theta[None], draws]), center)
    fitted: dict[str, Fitted] = {}
    for name in _names(list(logs)):
        low, high = bootstrap.interval(values[name][1:], level)
        fitted[name] = judged[name] or Estimate(float(values[name][0]), float(low), float(high), n)
    known = not any(judged[name] for term in logs for name in TERMS[term])
    return LossLaw(fitted, Curve(theta, draws, center, level) if known else None)


def _names(terms: list[str]) -> list[str]:
    """What is fitted, in the order in which it is shown."""
    sizes, exponents = zip(*(TERMS[term] for term in terms), strict=True)
    return [FLOOR, *sizes, *exponents, *([OPTIMAL] if len(terms) == 2 else [])]


def _values(terms: list[str], theta: Array, center: Array) -> dict[str, Array]:
    """The parameters as they are written, each [1 + R]."""
    values = {FLOOR: np.exp(theta[:, 0])}
    for k, term in enumerate(terms):
        size, exponent = TERMS[term]
        values[exponent] = theta[:, 2 + 2 * k]
        with np.errstate(over="ignore"):  # of a term that is refused
            values[size] = np.exp(theta[:, 1 + 2 * k] + values[exponent] * center[k])
    if len(terms) == 2:
        alpha, beta = theta[:, 2], theta[:, 4]
        values[OPTIMAL] = beta / (alpha + beta)
    return values


def _too_few(name: str, logs: Array) -> NotEstimable | None:
    levels = count_levels(logs)
    few = f"{there_are(levels, f'value of {name}')} too few (at least {MIN_VALUES})"
    return NotEstimable(few) if levels < MIN_VALUES else None


def _refuse_all(logs: dict[str, Array], n: int, parameters: int) -> NotEstimable | None:
    if n < parameters + SPARE_POINTS:
        few = f"{there_are(n, 'run')} too few for {parameters} parameters (at least {parameters + SPARE_POINTS})"
        return NotEstimable(few)
    if len(logs) == 2 and all(count_levels(x) > 1 for x in logs.values()):
        first, second = (x - x.mean() for x in logs.values())
        if indistinguishable(first, second):
            return NotEstimable("N and D rise together, so their parts of the loss cannot be told apart")
    return None


def _judge(
    terms: list[str],
    few: dict[str, NotEstimable | None],
    theta: Array,
    draws: Array,
    converged: NDArray[np.bool_],
    box: huber.Box,
    level: float,
) -> dict[str, NotEstimable | None]:
    """The reason against each parameter, None where it stands."""
    everything = np.concatenate([theta[None], draws])
    margin = 1e-3 * (box.high - box.low)
    at_low, at_high = everything <= box.low + margin, everything >= box.high - margin

    def often(reached: NDArray[np.bool_]) -> bool:
        # Then an end of the interval lies on the border of the search, and the data would have gone further.
        return bool(reached[0] or reached[1:].mean() > level)

    judged: dict[str, NotEstimable | None] = {}
    for k, term in enumerate(terms):
        size, exponent = TERMS[term]
        reason = few[term]
        if reason is None and often(at_low[:, 1 + 2 * k]):
            reason = NotEstimable(f"the part of the loss that falls with {term} cannot be told from zero")
        elif reason is None and (often(at_low[:, 2 + 2 * k]) or often(at_high[:, 2 + 2 * k])):
            low, high = EXPONENTS
            reason = NotEstimable(f"{exponent} is not identified: its interval reaches {low:g} or {high:g}")
        judged[size] = judged[exponent] = reason
    # A term that is not known leaves the floor unknown as well: it takes up whatever does not vary.
    unknown = next((reason for reason in judged.values() if reason), None)
    lost = float(1 - converged.mean())
    if not unknown and lost > level:  # beside a term that is not known, steps along it need not come to an end
        unknown = NotEstimable(f"the fit does not settle in {100 * lost:.0f} % of the resamples")
        judged = dict.fromkeys(judged, unknown)
    floor = NotEstimable("E cannot be told from zero") if often(at_low[:, 0]) else None
    return {**judged, FLOOR: unknown or floor, OPTIMAL: unknown}


def _box(log_y: Array, levels: list[int]) -> huber.Box:
    """Where to search. What too few values cannot determine is held fixed, so that the other term still can be."""
    lowest, highest = log_y.min(), log_y.max()
    bounds = [(lowest + np.log(FLOOR_SHARE), highest)]
    for count in levels:
        none = lowest + np.log(TERM_SHARE)
        # One value: the term is part of the floor. Two: any exponent passes through both.
        bounds.append((none, highest) if count > 1 else (none, none))
        bounds.append(EXPONENTS if count > 2 else (START_EXPONENTS[1],) * 2)
    low, high = np.array(bounds, float).T
    return huber.Box(low, high)


def _point(x: Array, log_y: Array, box: huber.Box) -> Array:
    """The best fit [P] of all starts."""
    starts = _starts(log_y, len(x))
    ones = np.ones((len(starts), len(log_y)))
    found, _ = huber.fit(starts, x, log_y, ones, box)
    values = huber.objective(found, x, log_y, ones)
    order = values.argsort()
    best, best_value, one = found[order[0]], values[order[0]], ones[:1]
    unit = 1 / max(huber.objective(starts[:1], x, log_y, one)[0], huber.DELTA**2)  # L-BFGS's tolerances are for ~1

    def scaled(theta: Array) -> tuple[float, Array]:
        at = theta[None], x, log_y, one
        return unit * huber.objective(*at)[0], unit * huber.gradient(*at)[0]

    bounds = list(zip(box.low, box.high, strict=True))
    for start in np.clip(starts[order[:POLISHED]], box.low, box.high):
        result = optimize.minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds)
        if result.fun / unit < best_value:
            best, best_value = result.x, result.fun / unit
    return huber.fit(best[None], x, log_y, one, box)[0][0]


def _starts(log_y: Array, terms: int) -> Array:
    """[R, P]: exponents, floors and shares in every combination."""
    lowest, middle = np.exp(log_y.min()), np.exp(np.median(log_y))
    shares = [(share, 1 - share) for share in START_SHARES] if terms == 2 else [(1.0,)]
    starts = []
    for floor, share, *exponents in itertools.product(START_FLOORS, shares, *[START_EXPONENTS] * terms):
        rest = middle - floor * lowest
        pairs = [(np.log(rest * part), exponent) for part, exponent in zip(share, exponents, strict=True)]
        starts.append([np.log(floor * lowest), *itertools.chain(*pairs)])
    return np.array(starts)
