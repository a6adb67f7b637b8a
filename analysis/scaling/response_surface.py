"""Response surfaces: a quadratic fit to losses near their minimum, in the logs of the settings, and its minimum.

The quadratic has all squares and products of the settings (Box and Wilson 1951). A cubic term per setting can be added,
because loss rises faster towards divergence than towards too small a learning rate, and the minimum of a parabola is
then off. `analysis.scaling.optimum` and `analysis.scaling.isoflop` choose the trials, fit the coefficients, and decide
whether a minimum is estimable.

Shape letters: n trials, K settings, P = 1 + 2 K + K (K - 1) / 2 coefficients, K more with cubes; R draws.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from analysis.stats.bootstrap import Array

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

    settings: int
    """K."""
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
