"""An Optuna sampler for each value of `search.method`.

To add a search method, write its function below, enter it in SAMPLERS, and add its name to `Method` in
`sweeps.spec.settings`. Grid and experiments need no sampler of their own: `sweeps.study.open_study` enqueues their
trials.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from sweeps.spec.settings import OPTUNA, SearchConfig, is_own
from sweeps.spec.space import Layout
from sweeps.study.distinct import TriedSettings
from sweeps.study.own_sampler import create_sampler
from sweeps.study.proposer import Proposer, View
from sweeps.study.sampler_view import with_outlook, with_paused_as_pruned
from sweeps.study.spread import spread_point

GP_TRIALS = 300
"""How many trials of a study `optuna` asks a Gaussian process for. Its time per trial grows with their number."""


def _tpe(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def _grouped_tpe(seed: int, study_seed: int, startup: int) -> BaseSampler:
    # For each set of entries that apply together, it learns from the trials that have them.
    return TPESampler(n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed)


def _random(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(seed: int, study_seed: int, startup: int) -> BaseSampler:
    """Points of one scrambled sequence, so its seed must not change from trial to trial.

    The study counts the points. A trial whose driver was killed while it was asked for may have the next one.
    """
    return QMCSampler(scramble=True, seed=study_seed, **_independent(seed))


def _gp(seed: int, study_seed: int, startup: int) -> BaseSampler:
    # Imports torch when it fits for the first time. The proposer decides how many trials that takes.
    return GPSampler(n_startup_trials=1, seed=seed, **_independent(seed))


def _cmaes(seed: int, study_seed: int, startup: int) -> BaseSampler:
    return CmaEsSampler(n_startup_trials=startup, seed=seed, **_independent(seed))


def _independent(seed: int) -> dict[str, Any]:
    return {"independent_sampler": RandomSampler(seed=seed), "warn_independent_sampling": False}


SAMPLERS: dict[str, Callable[[int, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "grid": _random,
    "qmc": _qmc,
    "gp": _gp,
    "cmaes": _cmaes,
    "experiments": _random,
}
"""From the seeds of a trial and of its study, and the number of trials before the model; `optuna` is one of them."""
VIEWS: dict[str, View] = {"gp": with_outlook, "tpe": with_paused_as_pruned}
"""What a sampler is shown of a study. QMC and CMA-ES keep their state in it, and see the study itself."""
SPREAD = ("tpe", "gp", "cmaes")
"""Methods whose first trials are spread over the space."""


@dataclass(frozen=True)
class AskedTrial:
    """What the sampler of a trial depends on, beside the search settings and the study.

    >>> AskedTrial("xs", number=3, startup=4).starts
    0
    """

    size: str
    number: int
    startup: int
    """Number of spread trials of its study before the model-based search."""
    starts: int = 0
    """Number of trials that begin its study with known settings."""
    dynamic: bool = False
    """Whether which fields a trial has depends on the values of others."""


def model_of(method: str, asked: AskedTrial) -> str:
    """The entry of SAMPLERS that proposes the trial: for `optuna` a Gaussian process at first, later TPE.

    A Gaussian process is fitted to trials that all have the same fields. With fields that depend on others it is TPE.

    >>> model_of("optuna", AskedTrial("xs", number=3, startup=4))
    'gp'
    """
    if method == OPTUNA:
        method = "gp" if asked.number < GP_TRIALS else "tpe"
    return "tpe" if method == "gp" and asked.dynamic else method


def sampler_for(
    search: SearchConfig,
    asked: AskedTrial,
    space: Mapping[str, BaseDistribution],
    tried: TriedSettings | None = None,
    layout: Layout | None = None,
) -> BaseSampler:
    """The sampler for one trial of a study.

    Its seed follows from (search seed, size, number, attempt), so that a resumed search does not repeat earlier
    suggestions and no two sizes get the same ones. `tried` are the settings that it must not propose again. `layout` is
    that of a space with entries that apply in some trials only.

    >>> type(sampler_for(SearchConfig(method="qmc"), AskedTrial("xs", number=3, startup=4), {})).__name__
    'Proposer'
    """
    study = [search.seed, zlib.crc32(asked.size.encode())]
    study_seed = _seed(study)

    def seed_of(attempt: int) -> int:
        return _seed([*study, asked.number, attempt] if attempt else [*study, asked.number])

    if is_own(search.method):
        return Proposer(
            space,
            lambda attempt: create_sampler(search.method, seed_of(attempt)),
            tried,
            seed=seed_of(0),
            layout=layout,
        )
    model = model_of(search.method, asked)
    make = _grouped_tpe if model == "tpe" and asked.dynamic else SAMPLERS[model]
    spread, startup = None, False
    if model in SPREAD:
        # Known settings come first. What they leave open are points of the sequence after those of the startup.
        startup = asked.number < asked.starts + asked.startup
        index = asked.number - asked.starts
        spread = spread_point(space, study_seed, index if index >= 0 else asked.startup + asked.number, asked.startup)
    return Proposer(
        space,
        lambda attempt: make(seed_of(attempt), study_seed, asked.startup),
        tried,
        spread,
        startup,
        VIEWS.get(model),
        least=asked.startup if model == "gp" else 0,
        numeric=model == "cmaes",
        seed=seed_of(0),
        layout=layout,
    )


def _seed(entropy: list[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


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
