"""An Optuna sampler for each value of `search.method`.

To add a search method, write its function below, enter it in SAMPLERS, and add its name to `Method` in
`sweeps.spec.settings`. Grid and experiments need no sampler of their own: `sweeps.study.open_study` enqueues their
trials.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from sweeps.spec.settings import SearchConfig
from sweeps.spec.space import Layout


def _tpe(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def _random(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(seed: int, study_seed: int, startup: int) -> BaseSampler:
    # All points of a study belong to one scrambled sequence, so its seed must not change from trial to trial.
    return QMCSampler(scramble=True, seed=study_seed, **_independent(seed))


def _gp(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return GPSampler(n_startup_trials=startup, seed=seed, **_independent(seed))


def _cmaes(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return CmaEsSampler(n_startup_trials=startup, seed=seed, **_independent(seed))


def _independent(seed: int) -> dict[str, Any]:
    return {"independent_sampler": RandomSampler(seed=seed), "warn_independent_sampling": False}


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
    """The sampler for trial `number` of `size`, with `startup` random trials before its model-based search.

    Its seed follows from (search seed, size, number), so that a resumed search does not repeat earlier suggestions and
    no two sizes get the same ones.

    >>> type(sampler_for(SearchConfig(method="qmc"), "xs", number=3, startup=4)).__name__
    'QMCSampler'
    """
    study = [search.seed, zlib.crc32(size.encode())]
    seed, study_seed = (int(np.random.SeedSequence(seq).generate_state(1)[0]) for seq in ([*study, number], study))
    return SAMPLERS[search.method](seed, study_seed, startup)


def suggest_conditional(trial: optuna.Trial, space: dict[str, BaseDistribution], layout: Layout) -> None:
    """Suggest the entries of the space whose conditions hold in a trial that has all others, one by one."""
    for name in layout.conditional:
        if layout.applies(name, trial.params):
            _suggest(trial, name, space[name])


def complete_suggestion(trial: optuna.Trial, space: dict[str, BaseDistribution], layout: Layout) -> None:
    """Suggest the values that had not been suggested yet when the trial's driver was killed.

    `trial.study.sampler` must have the seed that it had then.
    """
    suggested = dict(trial.params)
    if set(_asked_for(layout, suggested)) <= suggested.keys():
        return
    for name in (*layout.searched, *layout.conditional):
        if name in layout.conditional and not layout.applies(name, trial.params):
            continue
        if name not in suggested:
            _suggest(trial, name, space[name])
        elif name not in trial.relative_params and not space[name].single():
            # Drawn again and discarded, so that the sampler's random numbers for the next values are those it had then.
            frozen = trial.study.get_trials(deepcopy=False)[trial.number]
            trial.study.sampler.sample_independent(trial.study, frozen, name, space[name])


def _asked_for(layout: Layout, suggested: Mapping[str, Any]) -> Iterator[str]:
    """The entries that a trial has, up to the first that it lacks."""
    for name in (*layout.searched, *layout.conditional):
        if name not in layout.conditional or layout.applies(name, suggested):
            yield name
            if name not in suggested:
                return


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    match distribution:
        case FloatDistribution():
            trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        case IntDistribution():
            trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        case CategoricalDistribution():
            trial.suggest_categorical(name, distribution.choices)
