"""How the optimal settings move with model size: one Bayesian fit of all trials of all sizes.

In each *cell* (a size: N parameters trained on D tokens) the logarithm of the loss is a bowl in the settings u, which
are points of the unit cube around its centre:

    log loss = a_c + 1/2 u' A u + u' (b + B z_c + d_c) + (e + e_c)' x,    z_c = (log N, log D), about their mean

All cells share the bowl's shape A. Its minimum moves with size by the power law b + B z, and in each cell by a
deviation d_c of its own. x says which of the choices that are not numbers a trial has; their effects are e, and in each
cell deviate by e_c. Bowls bend far from their minima, so a trial counts the less, the more its loss exceeds the lowest
of its cell (`MISFIT`).

The model is linear in its coefficients and Gaussian given two numbers, the noise of a loss and the size of deviations,
over which it averages with the weight of their evidence (Gelman et al., Bayesian Data Analysis, 2013, chapters 14, 15).
Priors are weak. With one cell, the slopes B are those of the prior. Imports numpy alone, because both the sweep and its
analysis need it.

Shapes: C cells, n trials of a cell, P settings, M = 2 measures of size, Q choices, R draws.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MISFIT = 0.8
"""Relative error of the bowl: a loss that exceeds the lowest of its cell by e is described to within MISFIT e."""
NOISES = np.geomspace(2e-4, 5e-2, 9)
"""Standard deviations of the noise of log losses."""
DEVIATIONS = np.array([0.003, 0.01, 0.03, 0.1])
"""How far optima deviate from the law, as shares of the cube."""
BOWL, OFFSET, EFFECT, OWN_EFFECT = 2.0, 10.0, 0.1, 0.02
"""Prior standard deviations of the entries of A, of a_c about the mean log loss, of e and of e_c."""
FLATTEST = 0.01
"""Smallest curvature of a bowl along any direction. Flatter ones, with 0.1 % of loss at their ends, are not drawn."""
CLEAR = 0.1
"""Curvature from which on the minimum is one to speak of: the ends of the cube are 1.25 % above its centre."""
ROUNDS = 3
"""Rounds of the fit. Priors of linear terms are in shares of the cube, so they depend on the curvature found before."""
DRAWS, SPARE = 400, 4
"""Draws of the coefficients that are kept, and how many times as many are made."""


class Cell(NamedTuple):
    """The trials of one size."""

    size: Array
    """log N and log D, [M]."""
    settings: Array
    """Points of the unit cube, [n, P]."""
    choices: Array
    """1 for the choices that a trial has, 0 for others, [n, Q]."""
    losses: Array
    """Nats per token, finite and positive, [n]."""


class Slopes(NamedTuple):
    """Prior of how far the optimum moves for each unit of log N and log D, in shares of the cube: [P, M] each."""

    mean: Array
    sd: Array


class Optimum(NamedTuple):
    """Where the loss is lowest: the best guess and draws from its distribution."""

    value: Array
    """The point with the lowest expected loss, [P]: the mean of the draws, weighted by the curvature of their bowls."""
    draws: Array
    """[R, P]."""

    def interval(self, share: float = 0.95) -> tuple[Array, Array]:
        """Ends of the central interval that holds `share` of the draws, for each setting."""
        low, high = np.quantile(self.draws, [(1 - share) / 2, (1 + share) / 2], axis=0)
        return low, high


@dataclass(frozen=True)
class OptimumLaw:
    """A fitted law.

    >>> law = fit_optimum_law(cells)
    >>> law.predict(np.log([1e8, 2e9])).interval()
    """

    center: Array  # [M]: mean of the cells' sizes
    coefficients: Array = field(repr=False)  # [R, J]: draws, in the order of `_design`
    deviations: Array = field(repr=False)  # [R, P]: of the bowl's linear terms in a new cell
    effect_deviations: Array = field(repr=False)  # [R, Q]: of the effects of choices in a new cell
    cells: int
    settings: int
    flat: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    """How probable it is that the bowl bends less than `CLEAR` along a setting, [P]."""

    def predict(self, size: ArrayLike, beyond: float = 0.0) -> Optimum:
        """The optimum of a cell without trials, of size (log N, log D) [M]; at most `beyond` outside the cube."""
        return self._minimum(np.asarray(size, float), self.deviations, beyond)

    def optimum(self, cell: int, size: ArrayLike, beyond: float = 0.0) -> Optimum:
        """The optimum of one of the cells that were fitted, by its place and size."""
        return self._minimum(np.asarray(size, float), self._own(cell), beyond)

    def excess(self, cell: int, size: ArrayLike, settings: ArrayLike) -> Array:
        """By how much the log loss at a point [P] is above its minimum in one of the cells, [R]."""
        lowest = self._minimum(np.asarray(size, float), self._own(cell), np.inf)
        offset = np.asarray(settings, float) - lowest.draws
        return np.asarray(0.5 * np.einsum("ri,rij,rj->r", offset, self.curvature(), offset))

    def _own(self, cell: int) -> Array:
        """Deviations of the linear terms of a cell that was fitted, [R, P]."""
        return self.coefficients[:, self._linear + (3 + cell) * self.settings :][:, : self.settings]

    @property
    def _linear(self) -> int:
        """The place of b among the coefficients."""
        return self.cells + self.settings * (self.settings + 1) // 2

    def effects(self, cell: int | None = None) -> Array:
        """What each choice adds to the log loss, [R, Q]: in a cell that was fitted, or in one without trials."""
        at, q = self._linear + (3 + self.cells) * self.settings, self.effect_deviations.shape[1]
        own = self.effect_deviations
        if cell is not None:
            own = self.coefficients[:, at + (1 + cell) * q :][:, :q]
        return np.asarray(self.coefficients[:, at : at + q] + own)

    def slopes(self) -> Array:
        """How the optimum moves with log N and log D, [R, P, M] in shares of the cube."""
        p, at = self.settings, self._linear + self.settings
        moves = self.coefficients[:, at : at + 2 * p].reshape(-1, 2, p).transpose(0, 2, 1)
        return np.asarray(-np.linalg.solve(self.curvature(), moves))

    def curvature(self) -> Array:
        """A, [R, P, P], with no eigenvalue below `FLATTEST`."""
        return _convex(_bowls(self.coefficients[:, self.cells : self._linear], self.settings))

    def _minimum(self, size: Array, own: Array, beyond: float) -> Optimum:
        p, at, z = self.settings, self._linear, size - self.center
        parts = self.coefficients[:, at : at + 3 * p].reshape(-1, 3, p)
        linear = parts[:, 0] + parts[:, 1] * z[0] + parts[:, 2] * z[1] + own
        bowls = self.curvature()
        minima = 0.5 - np.linalg.solve(bowls, linear[..., None])[..., 0]
        minima = np.clip(minima, -beyond, 1.0 + beyond)
        # Where the sum over draws r of 1/2 (u - u_r)' A_r (u - u_r) is lowest.
        value = np.linalg.solve(bowls.sum(axis=0), np.einsum("rij,rj->i", bowls, minima))
        return Optimum(np.clip(value, -beyond, 1.0 + beyond), minima)


def fit_optimum_law(
    cells: Sequence[Cell], slopes: Slopes | None = None, seed: int = 0, deviations: ArrayLike = DEVIATIONS
) -> OptimumLaw:
    """The law through at least one cell; without `slopes`, optima move by 0 +- 0.15 of the cube for each factor e.

    With `deviations` of one large number, cells share the shape of their bowls and nothing else.
    """
    grid = tuple(itertools.product(np.asarray(deviations, float).tolist(), NOISES.tolist()))
    p = cells[0].settings.shape[1]
    prior = slopes or Slopes(np.zeros((p, 2)), np.full((p, 2), 0.15))
    sizes = np.array([cell.size for cell in cells])
    center = sizes.mean(axis=0)
    design = np.vstack([_design(cell, c, len(cells), cell.size - center) for c, cell in enumerate(cells)])
    y = np.concatenate([np.log(cell.losses) for cell in cells])
    excess = np.concatenate([np.log(cell.losses / cell.losses.min()) for cell in cells])
    y = y - np.median(y)
    data = {noise: _Data.of(design, y, noise**2 + (MISFIT * excess) ** 2) for noise in NOISES.tolist()}

    curvature = np.eye(p)
    bowl, choices = len(cells) + p * (p + 1) // 2, cells[0].choices.shape[1]
    for _ in range(ROUNDS):
        mean = np.zeros(design.shape[1])
        mean[bowl + p : bowl + 3 * p] = -(curvature @ prior.mean).T.ravel()  # u* = -A^-1 (b + B z), so B = -A S
        scale = np.diag(curvature)
        fits = [
            _posterior(data[noise], mean, _variances(len(cells), choices, scale, prior.sd, deviation))
            for deviation, noise in grid
        ]
        best = max(fits, key=lambda fit: fit.evidence)
        curvature = _convex(_bowls(best.mean[None, len(cells) : bowl], p))[0]

    rng = np.random.default_rng(seed)
    evidence = np.array([fit.evidence for fit in fits])
    chances = np.exp(evidence - evidence.max())
    counts = rng.multinomial(DRAWS * SPARE, chances / chances.sum())
    drawn = np.concatenate([fit.draw(rng, count) for fit, count in zip(fits, counts, strict=True) if count])
    spread = np.repeat([deviation for deviation, _ in grid], counts)
    own = spread[:, None] * np.diag(curvature) * rng.standard_normal((len(drawn), p))
    bowls = _bowls(drawn[:, len(cells) : bowl], p)
    kept = rng.permutation(np.flatnonzero(np.linalg.eigvalsh(bowls).min(axis=1, initial=np.inf) >= FLATTEST))[:DRAWS]
    if len(kept) < DRAWS // 4:  # hardly any has a minimum: the trials say nothing about it
        kept = np.arange(DRAWS)
    flat = (np.diagonal(bowls, axis1=1, axis2=2) < CLEAR).mean(axis=0)
    effects = OWN_EFFECT * rng.standard_normal((len(kept), choices))
    return OptimumLaw(center, drawn[kept], own[kept], effects, len(cells), p, flat)


class _Data(NamedTuple):
    """Sums over trials, weighted by their precision, from which every posterior follows."""

    gram: Array  # of the design, [J, J]
    projected: Array  # of log losses on the design, [J]
    constant: float  # of the log likelihood

    @classmethod
    def of(cls, design: Array, y: Array, variances: Array) -> "_Data":
        weighted = design / variances[:, None]
        constant = -0.5 * float(np.sum(y**2 / variances + np.log(variances)))
        return cls(weighted.T @ design, weighted.T @ y, constant)


class _Posterior(NamedTuple):
    evidence: float
    mean: Array
    factor: Array  # Cholesky factor of the precision

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        return np.asarray(self.mean + np.linalg.solve(self.factor.T, rng.standard_normal((len(self.mean), count))).T)


def _posterior(data: _Data, mean: Array, variances: Array) -> _Posterior:
    """The posterior of the coefficients, whose prior has this mean and these variances."""
    moments = data.projected - data.gram @ mean
    factor = np.linalg.cholesky(data.gram + np.diag(1 / variances))
    whitened = np.linalg.solve(factor, moments)
    fit = data.constant + mean @ data.projected - 0.5 * mean @ data.gram @ mean + 0.5 * whitened @ whitened
    evidence = fit - np.log(np.diag(factor)).sum() - 0.5 * np.log(variances).sum()
    return _Posterior(float(evidence), np.asarray(mean + np.linalg.solve(factor.T, whitened)), np.asarray(factor))


def _design(cell: Cell, c: int, cells: int, z: Array) -> Array:
    """One row per trial: a_c of all cells, A, b, B for each measure of size, d_c of all cells, e, e_c of all cells."""
    u, (n, p), q = cell.settings - 0.5, cell.settings.shape, cell.choices.shape[1]
    one, own, effects = np.zeros((n, cells)), np.zeros((n, cells * p)), np.zeros((n, cells * q))
    one[:, c], own[:, c * p : (c + 1) * p], effects[:, c * q : (c + 1) * q] = 1, u, cell.choices
    pairs = itertools.combinations_with_replacement(range(p), 2)
    products = [u[:, a] * u[:, b] * (0.5 if a == b else 1.0) for a, b in pairs]
    return np.column_stack([one, *products, u, u * z[0], u * z[1], own, cell.choices, effects])


def _variances(cells: int, choices: int, curvature: Array, slope_sd: Array, deviation: float) -> Array:
    """Prior variances of the coefficients. Those of linear terms are such that optima move by shares of the cube."""
    p = len(curvature)
    parts = [
        np.full(cells, OFFSET),
        np.full(p * (p + 1) // 2, BOWL),
        curvature * 0.5,
        *(curvature * slope_sd[:, m] for m in range(2)),
        np.tile(curvature * deviation, cells),
        np.full(choices, EFFECT),
        np.full(cells * choices, OWN_EFFECT),
    ]
    return np.asarray(np.concatenate(parts) ** 2)


def _bowls(entries: Array, p: int) -> Array:
    """Symmetric matrices [R, P, P] from their upper triangles [R, P (P + 1) / 2]."""
    rows = np.zeros((len(entries), p, p))
    for k, (a, b) in enumerate(itertools.combinations_with_replacement(range(p), 2)):
        rows[:, a, b] = rows[:, b, a] = entries[:, k]
    return rows


def _convex(bowls: Array) -> Array:
    """The matrices [R, P, P], with no eigenvalue below `FLATTEST`."""
    values, directions = np.linalg.eigh(bowls)
    return np.asarray((directions * np.maximum(values, FLATTEST)[:, None, :]) @ directions.transpose(0, 2, 1))
