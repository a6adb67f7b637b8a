"""Robust fits of a sum of power laws to log loss, many at once: the solver behind `analysis.scaling.loss_law`.

The model is log y = log(e^{c_0} + sum_k e^{c_k - s_k x_k}): a constant plus one power law per regressor, added through
log-sum-exp (Hoffmann et al. 2022, approach 3). All fits of a batch share the points and differ in their weights, so a
bootstrap resample is a row of weights and no data are copied; SciPy's optimisers handle one fit at a time. Starting
points, and whether a fit is to be believed, are up to the caller.

Shape letters: R fits, n points, K regressors, P = 1 + 2K parameters in the order c_0, c_1, s_1, c_2, s_2, ...
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds

from analysis.stats.bootstrap import Array

Mask = NDArray[np.bool_]

DELTA = 1e-3  # Hoffmann et al. 2022: residuals of log loss beyond it count linearly
MAX_STEPS = 3000  # a few points with noise above delta need some 1,000; most fits end within 30
STEP_TOLERANCE = 1e-9
GAIN_TOLERANCE = 1e-12  # relative to the objective; steps stay large along directions that the data leave open
CHUNK_POINTS = 30_000  # R * n at a time: temporaries then fit in the cache, which is about twice as fast


def log_sum(theta: Array, x: Array) -> Array:
    """The model's log y [R, n] for `theta` [R, P] at `x` [K, n]."""
    return _terms(theta, x)[0]


def objective(theta: Array, x: Array, log_y: Array, weights: Array) -> Array:
    """[R]: the sum over points of `weights` [R, n] times Huber's rho, which is r^2 / 2 for small residuals r."""
    size = np.abs(log_y - log_sum(theta, x))
    inside = np.minimum(size, DELTA)
    return np.asarray(np.einsum("rn,rn->r", weights, inside * (size - inside / 2)))


def gradient(theta: Array, x: Array, log_y: Array, weights: Array) -> Array:
    """[R, P]: the gradient of `objective`."""
    return _quadratic(theta, x, log_y, weights)[0]


def fit(theta: Array, x: Array, log_y: Array, weights: Array, bounds: Bounds) -> tuple[Array, Mask]:
    """A local minimum of `objective` within `bounds`, from each start `theta` ([R, P] or [1, P]); [R] if it converged.

    Newton's method, damped towards iteratively reweighted least squares, which always descends. If noise is well above
    delta, the objective is close to a sum of absolute values, and reweighting alone would need thousands of steps. A
    parameter with equal bounds is held fixed.

        x = np.log([N / 1e8, D / 1e10])
        theta, converged = fit(np.array([[0.5, -1, 0.3, -1, 0.3]]), x, np.log(loss), np.ones((1, len(N))), bounds)
    """
    theta = np.broadcast_to(theta, (len(weights), theta.shape[1])).copy()
    converged = np.zeros(len(theta), bool)
    rows = max(1, CHUNK_POINTS // x.shape[1])
    for start in range(0, len(theta), rows):
        part = slice(start, start + rows)
        theta[part], converged[part] = _fit_chunk(theta[part], x, log_y, weights[part], bounds)
    return theta, converged


def _fit_chunk(theta: Array, x: Array, log_y: Array, weights: Array, bounds: Bounds) -> tuple[Array, Mask]:
    theta = np.clip(theta, bounds.lb, bounds.ub)
    damping = np.ones(len(theta))
    value = objective(theta, x, log_y, weights)
    active = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        now = theta[active]
        slope, newton, reweighted = _quadratic(now, x, log_y, weights[active])
        step = _step(now, slope, newton + damping[active, None, None] * reweighted, bounds)
        proposed = np.clip(now - step, bounds.lb, bounds.ub)
        proposed_value = objective(proposed, x, log_y, weights[active])
        better = proposed_value <= value[active]
        moved = np.abs(proposed - now).max(axis=1)
        theta[active[better]] = proposed[better]
        value[active[better]] = proposed_value[better]
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 5), 1e-9, 1e6)
        gain = np.einsum("rp,rp->r", slope, now - proposed)
        gained = (np.abs(gain) > GAIN_TOLERANCE * value[active]) | (damping[active] > 1)
        active = active[(moved > STEP_TOLERANCE) & gained]
        if not len(active):
            break
    return theta, ~np.isin(np.arange(len(theta)), active)


def _terms(theta: Array, x: Array) -> tuple[Array, Array]:
    """Log y [R, n] and each term's share of y [R, 1 + K, n]."""
    logs = np.empty((len(theta), 1 + len(x), x.shape[1]))
    logs[:, 0] = theta[:, :1]
    logs[:, 1:] = theta[:, 1::2, None] - theta[:, 2::2, None] * x
    largest = logs.max(axis=1)
    shares = np.exp(logs - largest[:, None])
    total = shares.sum(axis=1)
    shares /= total[:, None]
    return largest + np.log(total), shares


def _quadratic(theta: Array, x: Array, log_y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Gradient [R, P] and Hessian [R, P, P] of the objective, and the matrix of reweighted least squares [R, P, P]."""
    model, shares = _terms(theta, x)
    jacobian = np.empty((*theta.shape, len(log_y)))  # d log y / d theta
    jacobian[:, 0] = shares[:, 0]
    jacobian[:, 1::2] = shares[:, 1:]
    jacobian[:, 2::2] = -x * shares[:, 1:]
    residual = log_y - model
    size = np.abs(residual)
    psi = weights * np.clip(residual, -DELTA, DELTA)
    transposed = jacobian.transpose(0, 2, 1)
    reweighted = (jacobian * (weights * DELTA / np.maximum(size, DELTA))[:, None]) @ transposed
    reweighted += np.eye(theta.shape[1]) * reweighted  # Marquardt: short steps along poorly determined directions

    # The second derivative of log-sum-exp is that of the terms, weighted by their shares, minus the outer product of
    # the gradient. The latter has the form of the Gauss-Newton part and is folded into its weights.
    hessian = (jacobian * (weights * (size < DELTA) + psi)[:, None]) @ transposed
    hessian[:, 0, 0] -= np.einsum("rn,rn->r", psi, shares[:, 0])
    for k in range(len(x)):
        c, s = 1 + 2 * k, 2 + 2 * k
        pulled = psi * shares[:, 1 + k]
        cross = pulled @ x[k]
        hessian[:, c, c] -= pulled.sum(axis=1)
        hessian[:, c, s] += cross
        hessian[:, s, c] += cross
        hessian[:, s, s] -= pulled @ x[k] ** 2
    return -np.einsum("rpn,rn->rp", jacobian, psi), hessian, reweighted


def _step(theta: Array, slope: Array, matrix: Array, bounds: Bounds) -> Array:
    """What to subtract from theta [R, P]: solves matrix @ step = slope, shortened to stay within the bounds.

    A parameter at a bound that would cross it is held, and the others are solved for without it. Clipping components
    one by one could turn the step uphill, because parameters are strongly correlated.
    """
    low, high = theta <= bounds.lb, theta >= bounds.ub
    held = (low & (slope > 0)) | (high & (slope < 0)) | (low & high)
    for _ in range(theta.shape[1]):
        step = _solve(matrix, slope, held)
        crossing = ~held & ((low & (step > 0)) | (high & (step < 0)))
        if not crossing.any():
            break
        held |= crossing
    room = np.where(step > 0, theta - bounds.lb, bounds.ub - theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(step == 0, 1.0, room / np.abs(step)).min(axis=1, keepdims=True)
    return np.asarray(step * np.minimum(share, 1.0))


def _solve(matrix: Array, slope: Array, held: Mask) -> Array:
    """The step [R, P], which is zero for held parameters."""
    free = ~held
    matrix = matrix * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("rpp->rp", matrix)
    diagonal += np.where(free, 1e-12 + 1e-10 * np.abs(diagonal), 1.0)
    return np.asarray(np.linalg.solve(matrix, (slope * free)[..., None])[..., 0], float)
