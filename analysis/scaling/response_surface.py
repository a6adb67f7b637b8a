"""Response surfaces: a quadratic fit to losses near their minimum, in the logs of the settings, and its minimum.

The quadratic has all squares and products of the settings (Box and Wilson 1951). A cubic term per setting can be added,
because loss rises faster towards divergence than towards too small a learning rate, and the minimum of a parabola is
then off. `analysis.scaling.optimum` and `analysis.scaling.isoflop` choose the trials and fit the coefficients.

Shape letters: n trials, K settings, P = 1 + 2 K + K (K - 1) / 2 coefficients, K more with cubes; R draws.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from analysis.stats import bootstrap
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable

FLAT = 1e-9  # relative loss per squared log unit; a curvature below it counts as zero
NEWTON_STEPS = 30
LONGEST_STEP = 0.5  # log units


@dataclass(frozen=True)
class ResponseSurface:
    """The form of the polynomial; coefficients come from a linear fit to its `design`.

    >>> u = np.linspace(-1, 1, 5)[:, None]
    >>> surface = ResponseSurface(settings=1, cubic=False)
    >>> coefficients = np.linalg.lstsq(surface.design(u), (u[:, 0] - 0.25) ** 2)[0]
    >>> surface.lowest(coefficients[None]).round(6).tolist()
    [[0.25]]
    """

    settings: int  # K
    cubic: bool

    def design(self, u: Array) -> Array:
        """[n, P] at log settings u [n, K], which should be centred: constant, linear, squares, products, cubes."""
        products = [u[:, i] * u[:, j] for i, j in itertools.combinations(range(self.settings), 2)]
        return np.stack([np.ones(len(u)), *u.T, *(u**2).T, *products, *((u**3).T if self.cubic else [])], axis=1)

    def lowest(self, coefficients: Array) -> Array:
        """The minimum near the centre of each polynomial [R, P], as log settings [R, K].

        Infinite, with the sign of the direction in which the loss falls, if a polynomial has no minimum.
        """
        k = self.settings
        pairs = list(itertools.combinations(range(k), 2))
        _, slope, square, cross, cube = np.split(coefficients, np.cumsum([1, k, k, len(pairs)]), axis=1)
        cube = cube if self.cubic else np.zeros((1, k))
        diagonal = np.arange(k)
        quadratic = np.zeros((len(coefficients), k, k))
        quadratic[:, diagonal, diagonal] = 2 * square
        for column, (i, j) in enumerate(pairs):
            quadratic[:, i, j] = quadratic[:, j, i] = cross[:, column]

        u = np.zeros((len(coefficients), k))
        for _ in range(NEWTON_STEPS):  # one suffices for a quadratic whose minimum is within LONGEST_STEP
            gradient = slope + np.einsum("rij,rj->ri", quadratic, u) + 3 * cube * u**2
            hessian = quadratic.copy()
            hessian[:, diagonal, diagonal] += 6 * cube * u
            lifted = hessian.copy()  # to be positive definite
            lifted[:, diagonal, diagonal] += np.maximum(1e-4 - np.linalg.eigvalsh(hessian)[:, :1], 0)
            step = np.clip(np.linalg.solve(lifted, gradient[..., None])[..., 0], -LONGEST_STEP, LONGEST_STEP)
            u -= step
        none = (np.linalg.eigvalsh(hessian)[:, 0] <= FLAT) | (np.abs(step).max(axis=1) > 1e-4)
        u[none] = -np.copysign(np.inf, gradient[none])
        return u


def judge(name: str, minima: Array, tried: Array, best: float, n: int) -> Fitted:
    """The optimal value of the setting `name`, or why it is not estimable.

    All in logs: `minima` [1 + R] of the fit and of its draws, the values `tried` and the `best` of them. The optimum is
    not estimable if `best` or the minimum is at the edge of `tried`, or if the interval is infinite.
    """
    smallest, largest = tried.min(), tried.max()
    if best in (smallest, largest):
        end = "smallest" if best == smallest else "largest"
        return NotEstimable(f"the best trial has the {end} {name} that finished, {math.exp(best):.3g}: try beyond it")
    low, high = bootstrap.interval(minima[1:])
    if not np.isfinite([minima[0], low, high]).all():
        return NotEstimable(f"the loss has no clear minimum in {name}: within the noise it may have none")
    if not smallest < minima[0] < largest:
        return NotEstimable(f"the fitted optimum of {name} is outside the values tried, at {math.exp(minima[0]):.3g}")
    return Estimate(math.exp(minima[0]), math.exp(low), math.exp(high), n)
