"""Compute-optimal size: at each compute budget the N of the lowest loss, and N* ~ C^a through them (Hoffmann et al.
2022, approach 2).

Compute is C = 6 N D everywhere. The curve of a budget is `analysis.scaling.response_surface` in log N, fitted to the
loss itself and not to its logarithm: if L = E + A/N^alpha + B/D^beta, the curves of all budgets are one curve moved,
stretched and raised, so an error of the form moves all minima alike and leaves the exponent alone. What the loss law
says about the same exponent is in `analysis.scaling.loss_law`.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.scaling.power_law import count_levels
from analysis.scaling.response_surface import ResponseSurface
from analysis.stats import bootstrap
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, there_are

Array = NDArray[np.float64]

FLOPS_PER_TOKEN_AND_PARAMETER = 6
MIN_BUDGETS = 3
EXACT = 1e-6  # compute that varies by less within budgets tells nothing
PARABOLA = 3  # coefficients
MIN_SIZES = 4  # at a budget: a parabola and one more
CUBIC_SIZES = 6
"""A cubic term and two more. With parabolas alone, the intervals of minima of Hoffmann's law (sizes 8 times smaller to
8 times larger than the best, 0.2 % noise) held the truth in 60 % of 1,800 budgets; with the cubic term in 95 %."""
SAME_BUDGET = 0.1
"""A budget reaches from its smallest compute to 10 % more: D is rounded to whole steps, or was read off a figure."""


@dataclass(frozen=True)
class Budget:
    """The runs of one compute budget."""

    compute: float
    """FLOPs: 6 N D, geometric mean of its runs."""
    members: NDArray[np.intp]
    """Indices of its runs among the points given."""
    N_optimal: Fitted
    """The minimum of its curve; `n` counts its runs."""
    form: ResponseSurface | None
    """None where the runs are too few for a curve."""
    coefficients: Array
    center: float
    """Mean log N."""

    def predict(self, N: ArrayLike) -> Array:
        """The curve's loss (nats per token) at N; only between the sizes that were trained does it mean anything."""
        if self.form is None:
            raise ValueError("a budget of too few runs has no curve; ask only where form is not None")
        u = np.log(np.asarray(N, float)) - self.center
        return (self.form.design(u.reshape(-1, 1)) @ self.coefficients).reshape(u.shape)


@dataclass(frozen=True)
class IsoFlop:
    """What came of a fit."""

    fitted: dict[str, Fitted]
    """N_exponent: a in N* ~ C^a; D_exponent = 1 - a, since C = 6 N D; `n` counts budgets."""
    budgets: list[Budget]
    """From the smallest compute."""


def fit_isoflop(
    N: ArrayLike, D: ArrayLike, loss: ArrayLike, resamples: int = 2000, seed: int = 0, tolerance: float = SAME_BUDGET
) -> IsoFlop:
    """The minima and the exponents from runs of N [n] parameters on D [n] tokens that ended at `loss` [n].

    A budget's runs reach from its smallest compute to `tolerance` (relative) more, and what they gain by that is taken
    out, with one slope in log compute for all budgets. Those without a finite
    loss are left out. A budget whose minimum is refused does not enter the exponents.
    """
    size, tokens, losses = (np.asarray(x, float) for x in (N, D, loss))
    if not ((size > 0).all() and (tokens > 0).all()):
        raise ValueError("N and D must be positive; leave other runs out")
    kept = np.flatnonzero(np.isfinite(losses))
    log_size, log_compute = np.log(size), np.log(FLOPS_PER_TOKEN_AND_PARAMETER * size * tokens)
    budgets = []
    moves: list[Array] = []
    fits = [_prepare(members, log_size, log_compute, losses) for members in _groups(log_compute, kept, tolerance)]
    curves = [fit for fit in fits if fit.form is not None]
    if sum(len(fit.members) for fit in curves) <= 1 + sum(PARABOLA + fit.form.cubic for fit in curves if fit.form):
        few = NotEstimable("the models at equal compute are too few for a curve and its noise")
        fits = [replace(fit, form=None, N_optimal=few) if fit.form is not None else fit for fit in fits]
        curves = []
    draws = iter(_draw(curves, log_size, log_compute, losses, resamples, seed))
    for fit in fits:
        if fit.form is None:
            budgets.append(fit)
            continue
        coefficients, drawn = next(draws)
        optimum, positions = _minimum(fit, coefficients, drawn, log_size, losses)
        if isinstance(optimum, Estimate):
            moves.append(positions)
        budgets.append(Budget(fit.compute, fit.members, optimum, fit.form, coefficients, fit.center))
    return IsoFlop(_exponents(budgets, moves, seed), budgets)


def _groups(log_compute: Array, kept: NDArray[np.intp], tolerance: float) -> list[NDArray[np.intp]]:
    groups: list[list[int]] = []
    for run in kept[np.argsort(log_compute[kept], kind="stable")]:
        if not groups or log_compute[run] > log_compute[groups[-1][0]] + math.log1p(tolerance):
            groups.append([])
        groups[-1].append(run)
    return [np.array(group) for group in groups]


def _prepare(members: NDArray[np.intp], log_size: Array, log_compute: Array, losses: Array) -> Budget:
    """The budget with its form, not yet fitted."""
    sizes = count_levels(log_size[members])
    best = log_size[members[losses[members].argmin()]]
    form, refused = ResponseSurface(1, cubic=sizes >= CUBIC_SIZES), NotEstimable("not fitted")
    if sizes < MIN_SIZES:
        few = f"{there_are(sizes, 'size at this compute')} too few (at least {MIN_SIZES})"
        form, refused = None, NotEstimable(few)
    elif best in (log_size[members].min(), log_size[members].max()):
        end = "smallest" if best == log_size[members].min() else "largest"
        refused = NotEstimable(
            f"the lowest loss is at the {end} size, {math.exp(best):.3g}: the minimum may lie beyond"
        )
    center = float(log_size[members].mean())
    return Budget(math.exp(log_compute[members].mean()), members, refused, form, np.empty(0), center)


def _draw(
    curves: list[Budget], log_size: Array, log_compute: Array, losses: Array, resamples: int, seed: int
) -> list[tuple[Array, Array]]:
    """Coefficients [P] and draws [R, P] of each curve, in nats.

    One linear fit of all curves in units of each budget's lowest loss: noise is relative, and together they tell its
    size far better than five points could.
    """
    if not curves:
        return []
    blocks = [c.form.design((log_size[c.members] - c.center)[:, None]) for c in curves if c.form is not None]
    rows, columns = np.cumsum([[0, 0], *(block.shape for block in blocks)], axis=0).T
    off = np.concatenate([log_compute[c.members] - math.log(c.compute) for c in curves])
    design = np.zeros((rows[-1], columns[-1] + bool(np.abs(off).max() > EXACT)))
    design[:, columns[-1] :] = off[:, None]
    for block, row, column in zip(blocks, rows, columns, strict=False):
        design[row : row + len(block), column : column + block.shape[1]] = block
    unit = [losses[c.members].min() for c in curves]
    y = np.concatenate([losses[c.members] / lowest for c, lowest in zip(curves, unit, strict=True)])
    coefficients, draws = bootstrap.linear_draws(design, y, resamples, seed)
    parts = [slice(a, b) for a, b in itertools.pairwise(columns)]
    return [(coefficients[part] * u, draws[:, part] * u) for part, u in zip(parts, unit, strict=True)]


def _minimum(budget: Budget, coefficients: Array, draws: Array, log_size: Array, losses: Array) -> tuple[Fitted, Array]:
    """The optimal N, and its logarithm at the point and in each draw [1 + R]."""
    assert budget.form is not None
    positions = budget.form.lowest(np.concatenate([coefficients[None], draws]))[:, 0] + budget.center
    if isinstance(budget.N_optimal, NotEstimable) and budget.N_optimal.reason != "not fitted":
        return budget.N_optimal, positions
    tried = log_size[budget.members]
    if not np.isfinite(positions[0]):
        return NotEstimable("the curve has no minimum: it bends downwards"), positions
    if not tried.min() < positions[0] < tried.max():
        return NotEstimable(
            f"the curve's minimum lies outside the sizes tried, at {math.exp(positions[0]):.3g}"
        ), positions
    ends = bootstrap.interval(positions[1:])
    if not np.isfinite(ends).all():
        return NotEstimable("within the noise the curve may have no minimum"), positions
    return Estimate(*(math.exp(x) for x in (positions[0], *ends)), len(budget.members)), positions


def _exponents(budgets: list[Budget], moves: list[Array], seed: int) -> dict[str, Fitted]:
    used = [budget for budget in budgets if isinstance(budget.N_optimal, Estimate)]
    if len(used) < MIN_BUDGETS:
        reasons = [b.N_optimal.reason for b in budgets if isinstance(b.N_optimal, NotEstimable)]
        first = f"; {reasons[0]}" if reasons else ""
        refused = NotEstimable(
            f"{len(used)} of {len(budgets)} compute budgets have a minimum, too few (at least {MIN_BUDGETS}){first}"
        )
        return {"N_exponent": refused, "D_exponent": refused}
    x = np.log([budget.compute for budget in used])
    x -= x.mean()
    positions = np.stack(moves, axis=1)
    positions[1:] = np.where(np.isfinite(positions[1:]), positions[1:], np.nan)
    # A draw in which a curve has lost its minimum says nothing about the exponent; there are at most 5 % per curve.
    finite = positions[1:][np.isfinite(positions[1:]).all(axis=1)]
    point = positions[0] @ x / (x @ x)
    slopes = finite @ x / (x @ x)
    # If minima scatter about the line more than the noise of their curves allows, N* ~ C^a is only roughly true, and
    # the interval says so: it is stretched by the Birge ratio, as the Particle Data Group does.
    residuals = positions[0] - positions[0].mean() - point * x
    chi2 = np.sum((residuals / finite.std(axis=0)) ** 2) / (len(used) - 2)
    low, high = point + max(1.0, math.sqrt(chi2)) * (bootstrap.interval(slopes) - point)
    return {
        "N_exponent": Estimate(float(point), float(low), float(high), len(used)),
        "D_exponent": Estimate(float(1 - point), float(1 - high), float(1 - low), len(used)),
    }
