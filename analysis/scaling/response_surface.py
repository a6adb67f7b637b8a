"""A smooth surface through losses near their minimum: a polynomial in the logs of the settings, and its lowest point.

A quadratic in all settings together, with a cubic term for each: the loss rises faster towards divergence than towards
too small a learning rate, and a parabola through a lopsided surface misses its minimum. Which trials are near enough
and whether a minimum is believed is decided by `analysis.scaling.optimum` and `analysis.scaling.isoflop`.

Shape letters: n trials, K settings, P = 1 + 2 K + K (K - 1) / 2 coefficients, K more with cubes; R draws.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLAT = 1e-9  # relative loss per squared log unit: a curvature below it is none
NEWTON_STEPS = 30
LONGEST_STEP = 0.5  # log units


@dataclass(frozen=True)
class ResponseSurface:
    """The form of the polynomial."""

    settings: int
    """K."""
    cubic: bool

    def design(self, u: Array) -> Array:
        """[n, P] at log settings u [n, K], which should be centred: constant, linear, squares, products, cubes."""
        products = [u[:, i] * u[:, j] for i, j in itertools.combinations(range(self.settings), 2)]
        return np.stack([np.ones(len(u)), *u.T, *(u**2).T, *products, *((u**3).T if self.cubic else [])], axis=1)

    def lowest(self, coefficients: Array) -> Array:
        """Where the polynomials [R, P] have their minimum near the centre, [R, K].

        Infinite, in the direction in which it falls, where one has none.
        """
        number = self.settings
        constant_and_slope, rest = np.split(coefficients, [1 + number], axis=1)
        slope = constant_and_slope[:, 1:]
        square, cross, cube = np.split(rest, [number, number + number * (number - 1) // 2], axis=1)
        diagonal = np.arange(number)
        quadratic = np.zeros((len(coefficients), number, number))
        quadratic[:, diagonal, diagonal] = 2 * square
        for column, (i, j) in enumerate(itertools.combinations(range(number), 2)):
            quadratic[:, i, j] = quadratic[:, j, i] = cross[:, column]
        if not self.cubic:
            cube = np.zeros((1, number))

        u = np.zeros((len(coefficients), number))
        for _ in range(NEWTON_STEPS):  # a quadratic's minimum takes one, as far as it is within reach of a step
            gradient = slope + np.einsum("rij,rj->ri", quadratic, u) + 3 * cube * u**2
            hessian = quadratic.copy()
            hessian[:, diagonal, diagonal] += 6 * cube * u
            lift = np.maximum(1e-4 - np.linalg.eigvalsh(hessian)[:, :1], 0)
            lifted = hessian.copy()
            lifted[:, diagonal, diagonal] += lift
            step = np.clip(np.linalg.solve(lifted, gradient[..., None])[..., 0], -LONGEST_STEP, LONGEST_STEP)
            u -= step
        none = (np.linalg.eigvalsh(hessian)[:, 0] <= FLAT) | (np.abs(step).max(axis=1) > 1e-4)
        u[none] = -np.copysign(np.inf, gradient[none])
        return u
