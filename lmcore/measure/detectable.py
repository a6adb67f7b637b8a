"""The smallest difference between two settings that a number of seeds can detect."""

import math

ASSUMED_NOISE = 0.025
"""Standard deviation of the loss between seeds, in nats per token, that is assumed before anything was trained: what
models of 1.3M parameters showed. That of other models differs."""
CONFIDENCE, POWER = 0.95, 0.8


def detectable_difference(seeds: int, settings: int = 2) -> float:
    """The difference of two settings with so many seeds each, in units of the noise between seeds (`seed_noise`).

    A paired t-test at 95 % finds a difference of this size in 80 % of cases, approximately:
    (t_{0.975, df} + t_{0.8, df}) sqrt(2 / n) for n seeds, with df = (settings - 1)(n - 1), as the noise is estimated
    from all `settings` that share the seeds. Infinite for one seed, which says nothing about the noise.

    >>> round(detectable_difference(3), 2), round(detectable_difference(3, settings=6), 2)
    (4.38, 2.54)
    """
    if seeds < 2:
        return math.inf
    from scipy.stats import t  # takes a second to import

    df = (settings - 1) * (seeds - 1)
    quantiles = t.ppf((1 + CONFIDENCE) / 2, df) + t.ppf(POWER, df)
    return float(quantiles) * math.sqrt(2 / seeds)
