"""Robust fits of a sum of powers to log loss, many at once: the solver behind `analysis.scaling.loss_law`.

The model of log y is log(e^{c_0} + sum_k e^{c_k - s_k x_k}): a constant and, for each regressor, a power law, added up
through log-sum-exp (Hoffmann et al. 2022, approach 3). All fits of a batch share the points and differ in their
weights, so a resample is a row of weights and nothing is gathered. What the numbers mean, which start is taken and when
a fit is not believed is decided by the law.

Shape letters: R fits, n points, K regressors, P = 1 + 2K parameters in the order c_0, c_1, s_1, c_2, s_2, ...
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3  # Hoffmann et al. 2022: residuals of log loss beyond it count linearly
MAX_STEPS = 3000  # a few points with noise above delta need some 1,000; most fits end within 30
STEP_TOLERANCE = 1e-9
GAIN_TOLERANCE = 1e-12  # of the objective: along a direction that the data leave open, steps need not become small
CHUNK_POINTS = 30_000  # R * n at a time: the temporaries of a chunk stay in the cache, which is about twice as fast


@dataclass(frozen=True)
class Box:
    """Where the parameters may lie. One that has equal ends is held fixed."""

    low: Array
    """[P]"""
    high: Array
    """[P]"""


def log_sum(theta: Array, x: Array) -> Array:
    """The model's log y [R, n] for `theta` [R, P] at `x` [K, n]."""
    return _terms(theta, x)[0]


def objective(theta: Array, x: Array, log_y: Array, weights: Array) -> Array:
    """[R]: the sum over points of weight times Huber's rho, which is r^2 / 2 near zero, for `weights` [R, n]."""
    return np.einsum("rn,rn->r", weights, _rho(log_y - log_sum(theta, x)))


def gradient(theta: Array, x: Array, log_y: Array, weights: Array) -> Array:
    """[R, P]: of `objective`."""
    model, shares = _terms(theta, x)
    psi = weights * np.clip(log_y - model, -DELTA, DELTA)
    return -np.einsum("rpn,rn->rp", _jacobian(shares, x), psi)


def fit(theta: Array, x: Array, log_y: Array, weights: Array, box: Box) -> tuple[Array, NDArray[np.bool_]]:
    """A local minimum of `objective` in `box` from each of `theta` ([R, P] or [1, P]); [R] whether it was reached.

    Newton's method, damped towards iteratively reweighted least squares, which always descends: with noise well above
    delta the sum is nearly that of absolute values, where reweighting alone needs thousands of steps.
    """
    theta = np.broadcast_to(theta, (len(weights), theta.shape[1])).copy()
    reached = np.zeros(len(theta), bool)
    rows = max(1, CHUNK_POINTS // x.shape[1])
    for start in range(0, len(theta), rows):
        part = slice(start, start + rows)
        theta[part], reached[part] = _fit_chunk(theta[part], x, log_y, weights[part], box)
    return theta, reached


def _fit_chunk(theta: Array, x: Array, log_y: Array, weights: Array, box: Box) -> tuple[Array, NDArray[np.bool_]]:
    theta = np.clip(theta, box.low, box.high)
    damping = np.ones(len(theta))
    value = objective(theta, x, log_y, weights)
    busy = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        now = theta[busy]
        slope, newton, safe = _quadratic(now, x, log_y, weights[busy])
        step = _step(now, slope, newton + damping[busy, None, None] * safe, box)
        proposed = np.clip(now - step, box.low, box.high)
        proposed_value = objective(proposed, x, log_y, weights[busy])
        better = proposed_value <= value[busy]
        moved = np.abs(proposed - now).max(axis=1)
        theta[busy[better]] = proposed[better]
        value[busy[better]] = proposed_value[better]
        damping[busy] = np.clip(np.where(better, damping[busy] / 5, damping[busy] * 5), 1e-9, 1e6)
        gain = np.einsum("rp,rp->r", slope, now - proposed)
        gained = (np.abs(gain) > GAIN_TOLERANCE * value[busy]) | (damping[busy] > 1)
        busy = busy[(moved > STEP_TOLERANCE) & gained]
        if not len(busy):
            break
    return theta, ~np.isin(np.arange(len(theta)), busy)


def _terms(theta: Array, x: Array) -> tuple[Array, Array]:
    """Log y [R, n] and each term's share of y [R, 1 + K, n]."""
    logs = np.empty((len(theta), 1 + len(x), x.shape[1]))
    logs[:, 0] = theta[:, :1]
    for k in range(len(x)):
        logs[:, 1 + k] = theta[:, 1 + 2 * k, None] - theta[:, 2 + 2 * k, None] * x[k]
    largest = logs.max(axis=1)
    shares = np.exp(logs - largest[:, None])
    total = shares.sum(axis=1)
    shares /= total[:, None]
    return largest + np.log(total), shares


def _jacobian(shares: Array, x: Array) -> Array:
    """d log y / d theta [R, P, n]."""
    jacobian = np.empty((len(shares), 1 + 2 * len(x), x.shape[1]))
    jacobian[:, 0] = shares[:, 0]
    for k in range(len(x)):
        jacobian[:, 1 + 2 * k] = shares[:, 1 + k]
        jacobian[:, 2 + 2 * k] = -x[k] * shares[:, 1 + k]
    return jacobian


def _rho(residual: Array) -> Array:
    size = np.abs(residual)
    inside = np.minimum(size, DELTA)
    return inside * (size - inside / 2)


def _quadratic(theta: Array, x: Array, log_y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Gradient [R, P], Hessian [R, P, P] and the matrix of reweighted least squares [R, P, P] of the objective."""
    model, shares = _terms(theta, x)
    jacobian = _jacobian(shares, x)
    residual = log_y - model
    size = np.abs(residual)
    psi = weights * np.clip(residual, -DELTA, DELTA)
    transposed = jacobian.transpose(0, 2, 1)
    safe = (jacobian * (weights * DELTA / np.maximum(size, DELTA))[:, None]) @ transposed
    safe += np.eye(len(x) * 2 + 1) * safe  # Marquardt: short steps along what the data hardly determine
    # The second derivative of log-sum-exp is that of the terms weighed by their shares, less the product of the
    # first ones; the latter has the form of the first part and is added to its weights.
    hessian = (jacobian * (weights * (size < DELTA) + psi)[:, None]) @ transposed
    hessian[:, 0, 0] -= np.einsum("rn,rn->r", psi, shares[:, 0])
    for k in range(len(x)):
        a, b = 1 + 2 * k, 2 + 2 * k
        pulled = psi * shares[:, 1 + k]
        cross = pulled @ x[k]
        hessian[:, a, a] -= pulled.sum(axis=1)
        hessian[:, a, b] += cross
        hessian[:, b, a] += cross
        hessian[:, b, b] -= pulled @ x[k] ** 2
    return -np.einsum("rpn,rn->rp", jacobian, psi), hessian, safe


def _step(theta: Array, slope: Array, matrix: Array, box: Box) -> Array:
    """What to subtract from theta [R, P]: the solution of matrix times step = slope, as far as the box lets it go.

    A parameter at a border that would leave is held, and the others are solved for without it. Cutting off single
    components instead would turn the step out of the descent: parameters are strongly correlated.
    """
    low, high = theta <= box.low, theta >= box.high
    held = (low & (slope > 0)) | (high & (slope < 0)) | (low & high)
    for _ in range(theta.shape[1]):
        step = _solve(matrix, slope, held)
        leaving = ~held & ((low & (step > 0)) | (high & (step < 0)))
        if not leaving.any():
            break
        held |= leaving
    room = np.where(step > 0, theta - box.low, box.high - theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(step == 0, 1.0, room / np.abs(step)).min(axis=1, keepdims=True)
    return step * np.minimum(share, 1.0)


def _solve(matrix: Array, slope: Array, held: NDArray[np.bool_]) -> Array:
    """The step [R, P] that leaves held parameters where they are."""
    free = ~held
    matrix = matrix * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("rpp->rp", matrix)
    diagonal += np.where(free, 1e-12 + 1e-10 * np.abs(diagonal), 1.0)
    return np.linalg.solve(matrix, (slope * free)[..., None])[..., 0]
