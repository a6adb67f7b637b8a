"""From `search.method` to an Optuna sampler.

Grid and experiments have no sampler of their own: their trials are enqueued in the study beforehand
(`sweeps.study.ledger`), and Optuna serves enqueued trials before it asks any sampler.
"""

import zlib
from collections.abc import Callable

import numpy as np
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from sweeps.spec.settings import SearchConfig


def _tpe(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def _random(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(seed: int, study_seed: int, startup: int) -> BaseSampler:
    # All points of a study belong to one scrambled sequence, so its seed must not change from ask to ask.
    return QMCSampler(
        scramble=True, seed=study_seed, independent_sampler=RandomSampler(seed=seed), warn_independent_sampling=False
    )


def _gp(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return GPSampler(
        n_startup_trials=startup,
        seed=seed,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


def _cmaes(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return CmaEsSampler(
        n_startup_trials=startup,
        seed=seed,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "optuna": _tpe,
    "random": _random,
    "grid": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
    "experiments": _random,
}


def sampler_for(search: SearchConfig, size: str, number: int, startup: int) -> BaseSampler:
    """The sampler that suggests trial `number` of `size`.

    Its seed follows from (search seed, size, number), so that a resumed search does not repeat the suggestions that it
    has already made, and two sizes do not make the same ones.
    """
    study = [search.seed, zlib.crc32(size.encode())]
    seed, study_seed = (
        int(np.random.SeedSequence(entropy).generate_state(1)[0]) for entropy in ([*study, number], study)
    )
    return SAMPLERS[search.method](seed, study_seed, startup)
