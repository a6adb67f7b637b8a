"""The learning curve at any setting between the recorded ones: Gaussian processes on principal components of curves.

All curves of a size are logarithms of losses on one grid of reports. Their first principal components are nearly all
there is to them; each has a Gaussian process with a Matern 5/2 kernel and a length scale for every axis (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5).
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from sweeps.recorded.recorded_runs import Array

COMPONENTS = 4
FITTED = 192
"""Settings from which hyperparameters are fitted; the cost grows with the third power."""
CONDITIONED = 1024
"""Settings from which losses are predicted."""


class Process(NamedTuple):
    """A Gaussian process conditioned on the points of its surrogate."""

    scales: Array  # length scale of each axis, [d]
    variance: float  # of the signal
    noise: float  # variance of what neighbours do not explain
    weights: Array  # K^-1 y, [n]
    left_out: Array  # prediction of each value from all others, [n]


class Surrogate:
    """Predicts log losses at a point of the unit cube.

    >>> points = np.linspace(0, 1, 12)[:, None]
    >>> surrogate = Surrogate(points, np.log(3 + (points - 0.4) ** 2))
    >>> bool(abs(np.exp(surrogate.predict(np.array([0.5])))[0] - 3.01) < 1e-3)
    True
    """

    def __init__(self, points: Array, curves: Array) -> None:
        """`points` [n, d] are distinct settings, and `curves` [n, S] their log losses, averaged over seeds."""
        chosen = _spread(len(points), CONDITIONED)
        self._points, curves = points[chosen], _capped(curves[chosen])
        self._mean = curves.mean(0)
        # Principal components: the right singular vectors, scaled so that scores have unit variance.
        _, spread, directions = np.linalg.svd(curves - self._mean, full_matrices=False)
        count = max(1, min(COMPONENTS, int((spread > 1e-9 * max(spread[0], 1e-300)).sum())))
        scale = np.maximum(spread[:count] / np.sqrt(len(curves)), 1e-12)
        self._directions = directions[:count] * scale[:, None]
        scores = (curves - self._mean) @ directions[:count].T / scale
        self._processes = [_fit(self._points, scores[:, c]) for c in range(count)]
        self.scales = self._processes[0].scales
        """Distance along each axis over which the first component changes, [d]."""
        left_out = np.stack([process.left_out for process in self._processes], 1) @ self._directions + self._mean
        last = np.exp(curves[:, -1])
        residual = float(((np.exp(left_out[:, -1]) - last) ** 2).sum())
        total = float(((last - last.mean()) ** 2).sum())
        self.r2 = 1 - residual / total if total > 0 else 0.0
        """Share of the variance of final losses, capped as above, that is predicted, each from all others."""

    def predict(self, point: Array) -> Array:
        """Log losses of the reports at a point [d], [S]."""
        gaps = self._points - point
        scores = np.array([_kernel(gaps, process) @ process.weights for process in self._processes])
        return np.asarray(scores @ self._directions + self._mean)


def _capped(curves: Array) -> Array:
    """Log losses without those far above the others, such as of runs that nearly diverged, which get a limit.

    Three interquartile ranges above the upper quartile is Tukey's limit for what is far out. A process that has to
    follow such values swings below all others beside them.
    """
    low, high = np.quantile(curves, [0.25, 0.75], axis=0)
    return np.asarray(np.minimum(curves, high + 3 * (high - low)))


def _fit(points: Array, values: Array) -> Process:
    """Fit the hyperparameters by marginal likelihood on a part of the points, then condition on all of them."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    part = _spread(len(points), FITTED)
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(np.ones(points.shape[1]), (0.05, 50.0), nu=2.5)
    regressor = GaussianProcessRegressor(kernel + WhiteKernel(1e-2, (1e-8, 1.0)), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: the axis does not matter
        regressor.fit(points[part], values[part])
    fitted = regressor.kernel_
    scales = np.broadcast_to(fitted.k1.k2.length_scale, points.shape[1]).astype(float)
    process = Process(scales, float(fitted.k1.k1.constant_value), float(fitted.k2.noise_level), values, values)
    covariance = np.stack([_kernel(points - point, process) for point in points])
    covariance[np.diag_indices_from(covariance)] += process.noise + 1e-9 * process.variance
    inverse = linalg.cho_solve(linalg.cho_factor(covariance, lower=True), np.eye(len(points)))
    weights = inverse @ values
    return process._replace(weights=weights, left_out=values - weights / np.diag(inverse))


def _kernel(gaps: Array, process: Process) -> Array:
    """Matern 5/2 of points whose differences are `gaps` [n, d], [n]."""
    r = np.sqrt(5 * ((gaps / process.scales) ** 2).sum(1))
    return np.asarray(process.variance * (1 + r + r * r / 3) * np.exp(-r))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` indices, the same each time, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
