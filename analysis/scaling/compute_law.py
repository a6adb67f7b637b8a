"""The loss as a power law of compute with a floor, L = E + A C^-b, from three sizes on.

Three or four sizes do not tell the floor E. So it is not estimated: all floors from zero to just below the lowest loss
count, each with every exponent and every noise, by how well they describe the losses (a Bayesian average on a grid). An
extrapolation is then as wide as what is not known about the floor. With six sizes or more, `analysis.scaling.loss_law`
fits it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from analysis.scaling.regressors import count_levels, log_of
from analysis.stats.bootstrap import Array, tail
from analysis.stats.estimate import Estimate, NotEstimable, too_few

MIN_SIZES = 3
FLOORS = np.linspace(0.0, 0.95, 20)
"""As shares of the lowest loss."""
EXPONENTS = np.geomspace(0.02, 0.6, 30)
"""Of compute. Published ones are from 0.05 (Kaplan et al. 2020, without a floor) to about 0.17 (Hoffmann et al.)."""
NOISES = np.geomspace(1e-3, 3e-2, 8)
"""Standard deviations of a loss about the law, relative to it: seeds, tuning, and sizes that are off the law."""
DRAWS = 4000


@dataclass(frozen=True)
class ComputeLaw:
    """A fitted law, as draws from its distribution.

    >>> law = fit_compute_law(flops, loss)
    >>> law.predict(1e18), law.forecast(1e18)
    """

    floor: Array = field(repr=False)  # [R], nats per token
    coefficient: Array = field(repr=False)  # [R], the part above the floor at `center`, nats per token
    exponent: Array = field(repr=False)  # [R]
    error: Array = field(repr=False)  # [R], of one size about the law, relative
    center: float  # FLOPs
    n: int  # sizes

    def predict(self, flops: ArrayLike) -> Array:
        """The median of the law at this compute."""
        return np.asarray(np.median(self._losses(flops), axis=0))

    def band(self, flops: ArrayLike) -> Array:
        """Ends [2, ...] of the 95 % interval of the law itself."""
        return np.asarray(np.quantile(self._losses(flops), [tail(), 1 - tail()], axis=0))

    def forecast(self, flops: float) -> Estimate:
        """The loss of one size at this compute, which may be off the law as much as those fitted."""
        losses = self._losses(flops) * np.exp(self.error)
        low, middle, high = np.quantile(losses, [tail(), 0.5, 1 - tail()])
        return Estimate(float(middle), float(low), float(high), self.n)

    def _losses(self, flops: ArrayLike) -> Array:
        """[R, ...]"""
        x = np.asarray(flops, float) / self.center
        shape = (-1, *(1 for _ in x.shape))
        floor, part, exponent = (one.reshape(shape) for one in (self.floor, self.coefficient, self.exponent))
        return np.asarray(floor + part * x**-exponent)


def fit_compute_law(flops: ArrayLike, loss: ArrayLike, seed: int = 0) -> ComputeLaw | NotEstimable:
    """The law through sizes of these training FLOPs [n] with these losses [n], nats per token, one per size.

    >>> fit_compute_law([1e15, 1e16, 1e17], [3.4, 2.9, 2.6]).forecast(1e18)

    NotEstimable with fewer than three sizes of different compute. Raises ValueError if a value is not positive.
    """
    logs, losses = log_of("flops", flops), np.exp(log_of("loss", loss))
    levels = count_levels(logs)
    if levels < MIN_SIZES:
        return too_few(levels, "size of different compute", MIN_SIZES, " for a law of loss in compute")
    center = float(np.exp(logs.mean()))
    floors = FLOORS * losses.min()
    x = np.exp(-EXPONENTS[:, None] * (logs - logs.mean()))  # [B, n]
    weights = 1 / losses**2
    xx = (weights * x**2).sum(axis=1)[None, :]  # [1, B]
    above = losses - floors[:, None]  # [F, n]
    best = (above * weights) @ x.T / xx  # [F, B], the coefficient
    misfit = (weights * (above[:, None] - best[..., None] * x) ** 2).sum(axis=-1)  # [F, B]
    n, noises = len(losses), NOISES[:, None, None]
    evidence = -0.5 * misfit / noises**2 - (n - 1) * np.log(noises) - 0.5 * np.log(xx)  # [S, F, B]
    evidence = np.where(best > 0, evidence, -np.inf)
    if not np.isfinite(evidence).any():
        return NotEstimable("the loss does not fall with compute")
    chances = np.exp(evidence - evidence.max()).ravel()
    rng = np.random.default_rng(seed)
    s, f, b = np.unravel_index(rng.choice(chances.size, DRAWS, p=chances / chances.sum()), evidence.shape)
    drawn = best[f, b] + NOISES[s] / np.sqrt(xx[0, b]) * rng.standard_normal(DRAWS)
    error = NOISES[s] * rng.standard_normal(DRAWS)
    return ComputeLaw(floors[f], np.maximum(drawn, 0.0), EXPONENTS[b], error, center, n)
