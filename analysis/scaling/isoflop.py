"""IsoFLOP curves: the N with the lowest loss at each compute budget, and the law N* ~ C^a through these minima.

Hoffmann et al. 2022, approach 2, with C = 6 N D. The curve of a budget is an `analysis.scaling.response_surface` in
log N, fitted to the loss itself and not to its logarithm. If L = E + A/N^alpha + B/D^beta, the curves of all budgets
are then one curve, shifted and rescaled, so an error of the form shifts all minima alike and cancels from the exponent.
`analysis.scaling.loss_law` estimates the same exponent from the loss law.
"""

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from analysis.scaling.regressors import count_levels, levels_of, log_of
from analysis.scaling.response_surface import ResponseSurface, judge
from analysis.stats import bootstrap
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, ShowsFitted, too_few

FLOPS_PER_TOKEN_AND_PARAMETER = 6
MIN_BUDGETS = 3
EXACT = 1e-6  # relative variation of compute within budgets that is too small to fit a slope to
MIN_SIZES = 4  # at a budget: one more than the coefficients of a parabola
CUBIC_SIZES = 6
"""At a budget: two more than the coefficients of a cubic. With parabolas alone, the intervals of minima of Hoffmann's
law (sizes from 8 times smaller to 8 times larger than the best, 0.2 % noise) contained the truth in 60 % of 1,800
budgets; with the cubic term in 95 %."""
SAME_BUDGET = 0.1
"""A budget reaches from its smallest compute to 10 % more, because D is rounded to whole steps or read off a figure."""


@dataclass(frozen=True)
class Budget:
    """The runs of one compute budget and the curve through them.

    >>> budget = fit_isoflop(N, D, loss).budgets[0]
    >>> budget.compute, budget.N_optimal
    """

    compute: float  # FLOPs: 6 N D, geometric mean of its runs
    members: NDArray[np.intp] = field(repr=False)  # indices of its runs among the points given
    center: float  # mean log N
    form: ResponseSurface | None  # None if the runs are too few for a curve
    N_optimal: Fitted  # the minimum of its curve; `n` counts its runs
    coefficients: Array  # [P], in nats per token; empty without a curve

    def predict(self, N: ArrayLike) -> Array:
        """The curve's loss (nats per token) at N, meaningful only between the sizes that were trained.

        Raises:
            ValueError: the budget has no curve (`form` is None).
        """
        if self.form is None:
            raise ValueError("a budget of too few runs has no curve; ask only where form is not None")
        u = np.log(np.asarray(N, float)) - self.center
        return (self.form.design(u.reshape(-1, 1)) @ self.coefficients).reshape(u.shape)


@dataclass(frozen=True, repr=False)
class IsoFlop(ShowsFitted):
    """The result of `fit_isoflop`."""

    fitted: dict[str, Fitted]  # N_exponent: a in N* ~ C^a; D_exponent = 1 - a, since C = 6 N D; `n` counts budgets
    budgets: list[Budget]  # by increasing compute


def fit_isoflop(
    N: ArrayLike, D: ArrayLike, loss: ArrayLike, resamples: int = 2000, seed: int = 0, tolerance: float = SAME_BUDGET
) -> IsoFlop:
    """The minima and their exponents from runs of N [n] parameters on D [n] tokens with final `loss` [n].

    >>> fit_isoflop(N, D, loss).fitted["N_exponent"]

    Runs whose compute is within `tolerance` (relative) form a budget; the effect of the remaining difference is fitted
    with one slope in log compute for all budgets. Runs without a finite loss are left out.

    Intervals come from a residual bootstrap of all curves together. A minimum is not estimable with fewer than four
    sizes, if it is at the edge of the sizes tried, or if within the noise the curve may have none. Such a budget does
    not contribute to the exponents, which need three budgets with a minimum. Raises ValueError if N or D is not
    positive and finite.
    """
    losses = np.asarray(loss, float)
    log_size = log_of("N", N)
    log_compute = log_of("C = 6 N D", FLOPS_PER_TOKEN_AND_PARAMETER * np.asarray(N, float) * np.asarray(D, float))
    runs = np.flatnonzero(np.isfinite(losses))
    runs = runs[np.argsort(log_compute[runs], kind="stable")]
    levels = levels_of(log_compute[runs], math.log1p(tolerance))
    budgets = [_budget(runs[levels == level], log_size, log_compute, losses) for level in np.unique(levels)]

    curves = [(budget, budget.form) for budget in budgets if budget.form is not None]
    coefficients_in_all = 1 + sum(4 if form.cubic else 3 for _, form in curves)
    if sum(len(budget.members) for budget, _ in curves) <= coefficients_in_all:
        reason = NotEstimable("the models at equal compute are too few for a curve and its noise")
        budgets = [replace(b, form=None, N_optimal=reason) if b.form is not None else b for b in budgets]
        return IsoFlop(_exponents(budgets, [], seed), budgets)
    draws = iter(_draw(curves, log_size, log_compute, losses, resamples, seed))
    minima: list[Array] = []
    for index, budget in enumerate(budgets):
        if budget.form is not None:
            coefficients, drawn = next(draws)
            positions = budget.form.lowest(np.concatenate([coefficients[None], drawn]))[:, 0] + budget.center
            tried = log_size[budget.members]
            optimum = judge("size", positions, tried, tried[losses[budget.members].argmin()], len(tried))
            minima += [positions] if isinstance(optimum, Estimate) else []
            budgets[index] = replace(budget, N_optimal=optimum, coefficients=coefficients)
    return IsoFlop(_exponents(budgets, minima, seed), budgets)


def _budget(members: NDArray[np.intp], log_size: Array, log_compute: Array, losses: Array) -> Budget:
    """The budget with the form of its curve, not yet fitted."""
    sizes = count_levels(log_size[members])
    form = ResponseSurface(1, cubic=sizes >= CUBIC_SIZES) if sizes >= MIN_SIZES else None
    reason = too_few(sizes, "size at this compute", MIN_SIZES)
    compute, center = math.exp(log_compute[members].mean()), float(log_size[members].mean())
    return Budget(compute, members, center, form, reason, np.empty(0))


Curves = list[tuple[Budget, ResponseSurface]]


def _draw(
    curves: Curves, log_size: Array, log_compute: Array, losses: Array, resamples: int, seed: int
) -> list[tuple[Array, Array]]:
    """Coefficients [P] and draws [R, P] of each curve, in nats.

    One linear fit of all curves, in units of each budget's lowest loss: noise is relative, and all budgets together
    determine its size far better than the five points of one.
    """
    blocks = [form.design((log_size[budget.members] - budget.center)[:, None]) for budget, form in curves]
    compute = np.concatenate([log_compute[budget.members] - math.log(budget.compute) for budget, _ in curves])
    lowest = [losses[budget.members].min() for budget, _ in curves]
    y = np.concatenate([losses[budget.members] / unit for (budget, _), unit in zip(curves, lowest, strict=True)])
    design = linalg.block_diag(*blocks)
    if np.abs(compute).max() > EXACT:
        design = np.column_stack([design, compute])
    coefficients, draws = bootstrap.linear_draws(design, y, resamples, seed)
    ends = np.cumsum([0, *(block.shape[1] for block in blocks)])
    parts = [slice(*pair) for pair in itertools.pairwise(ends)]
    return [(coefficients[part] * unit, draws[:, part] * unit) for part, unit in zip(parts, lowest, strict=True)]


def _exponents(budgets: list[Budget], minima: list[Array], seed: int) -> dict[str, Fitted]:
    """The slope of log N* against log C through `minima`: the log N* [1 + R] of each budget that has an estimate."""
    used = [budget for budget in budgets if isinstance(budget.N_optimal, Estimate)]
    if len(used) < MIN_BUDGETS:
        reasons = [b.N_optimal.reason for b in budgets if isinstance(b.N_optimal, NotEstimable)]
        few = f"{len(used)} of {len(budgets)} compute budgets have a minimum, too few (at least {MIN_BUDGETS})"
        return dict.fromkeys(("N_exponent", "D_exponent"), NotEstimable("; ".join([few, *reasons[:1]])))
    x = np.log([budget.compute for budget in used])
    x -= x.mean()
    positions = np.stack(minima, axis=1)
    point, draws = positions[0], positions[1:]
    # A draw in which some curve has no minimum says nothing about the exponent; that is at most 5 % per curve.
    finite = draws[np.isfinite(draws).all(axis=1)]
    slope = point @ x / (x @ x)
    # If minima scatter about the line by more than the noise of their curves, N* ~ C^a holds only roughly. The interval
    # is then stretched by the Birge ratio, as the Particle Data Group does.
    residuals = point - point.mean() - slope * x
    chi2 = np.sum((residuals / finite.std(axis=0)) ** 2) / (len(used) - 2)
    low, high = slope + max(1.0, math.sqrt(chi2)) * (bootstrap.interval(finite @ x / (x @ x)) - slope)
    exponent = Estimate(float(slope), float(low), float(high), len(used))
    return {"N_exponent": exponent, "D_exponent": exponent.complement}
