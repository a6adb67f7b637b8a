"""What lmsweep's searches are compared with by `tests/bench/search.py`: the real classes of Ray Tune and of Syne Tune.

A peer is asked for settings and told of every report, as its own tuner would, and says whether a trial goes on. Time is
virtual: `replay_peer` does for it what `sweeps.replay` does for a study.
"""

import heapq
import logging
import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sweeps.spec.space import Choices, Range, takes_integers

Setting = dict[str, Any]
LOSS, STEP = "val_loss", "step"


class Problem(NamedTuple):
    """What all searches get: the space, a trial's steps, and those before which none is stopped."""

    space: Mapping[str, Any]
    steps: int
    grace: int


class Trial(NamedTuple):
    """What Tune's scheduler reads of a trial."""

    trial_id: str


class Peer(ABC):
    """A search and its early stopping."""

    @abstractmethod
    def ask(self, number: int) -> Setting:
        """The setting of trial `number`."""

    @abstractmethod
    def report(self, number: int, step: int, loss: float) -> bool:
        """Take a loss; returns whether the trial goes on. After the last step the answer is not looked at."""


class PlainTune(Peer):
    """Ray Tune's ASHAScheduler and its bridge to Optuna, called as its TuneController calls them."""

    def __init__(self, problem: Problem, seed: int, factor: int = 4) -> None:
        logging.getLogger("ray.tune.search.optuna.optuna_search").setLevel(logging.ERROR)
        self._steps = problem.steps
        self._search = OptunaSearch(seed=seed)
        self._search.set_search_properties(
            LOSS, "min", {path: _tune(path, entry) for path, entry in problem.space.items()}
        )
        # None in place of Tune's controller, which it does not use.
        self._scheduler: Any = AsyncHyperBandScheduler(
            STEP, LOSS, "min", max_t=problem.steps, grace_period=problem.grace, reduction_factor=factor
        )
        self._reports: dict[int, int] = {}

    def ask(self, number: int) -> Setting:
        """See `Peer`."""
        self._scheduler.on_trial_add(None, Trial(str(number)))
        return dict(self._search.suggest(str(number)) or {})

    def report(self, number: int, step: int, loss: float) -> bool:
        """See `Peer`."""
        self._reports[number] = self._reports.get(number, 0) + 1
        result = {LOSS: loss, STEP: step, "training_iteration": self._reports[number]}
        trial = Trial(str(number))
        decision = self._scheduler.on_trial_result(None, trial, result)
        if step < self._steps and decision == TrialScheduler.CONTINUE:
            self._search.on_trial_result(str(number), result)
            return True
        self._scheduler.on_trial_complete(None, trial, result)
        self._search.on_trial_complete(str(number), result)
        return False


class SyneTune(Peer):
    """One of Syne Tune's schedulers: ASHA that stops, with the searcher of BOHB or conformal quantile regression."""

    def __init__(self, problem: Problem, seed: int, name: str, factor: int = 3) -> None:
        from syne_tune import config_space as domains
        from syne_tune.optimizer import baselines

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"(syne_tune|statsmodels|xgboost|sklearn).*")
        np.random.seed(seed)  # some of its searchers draw from the global generators
        random.seed(seed)
        space = {path: _syne(path, entry, domains) for path, entry in problem.space.items()}
        self._steps = problem.steps
        self._settings: dict[int, Setting] = {}
        self._scheduler = getattr(baselines, name)(
            space,
            metric=LOSS,
            time_attr=STEP,
            max_t=problem.steps,
            grace_period=problem.grace,
            reduction_factor=factor,
            random_seed=seed,
        )

    def ask(self, number: int) -> Setting:
        """See `Peer`."""
        self._settings[number] = dict(self._scheduler.suggest().config)
        self._scheduler.on_trial_add(self._trial(number))
        return self._settings[number]

    def report(self, number: int, step: int, loss: float) -> bool:
        """See `Peer`. Its searchers do not accept a loss that is not a number, so a diverged trial gets a high one."""
        result = {LOSS: loss if math.isfinite(loss) else 100.0, STEP: step}
        trial = self._trial(number)
        if step >= self._steps:
            self._scheduler.on_trial_complete(trial, result)
            return False
        goes_on: bool = self._scheduler.on_trial_result(trial, result) == "CONTINUE"
        if not goes_on:
            self._scheduler.on_trial_remove(trial)
        return goes_on

    def _trial(self, number: int) -> Any:
        from syne_tune.backend.trial_status import Trial as SyneTrial

        return SyneTrial(trial_id=number, config=self._settings[number], creation_time=None)


class Finished(NamedTuple):
    """A trial that was trained to its end."""

    setting: Setting
    loss: float
    steps_spent: int
    """Updates of all trials until then."""
    intervals: float
    """Virtual time until then, in updates of one slot."""


def replay_peer(
    peer: Peer, curve_of: Callable[[Setting], Mapping[int, float]], steps: int, slots: int, budget: int
) -> list[Finished]:
    """Run a peer on recorded curves until all its trials together have made `budget` updates.

    Args:
        curve_of: by step, the losses that a trial with a setting reports; a step that is missing is a diverged report.
        steps: of a trial.
    """
    queue: list[tuple[int, int, int, int]] = []  # virtual time, slot, trial, index of the report that is due
    settings: dict[int, Setting] = {}
    curves: dict[int, list[tuple[int, float]]] = {}
    finished, spent, asked = [], 0, 0

    def start(slot: int, now: int) -> None:
        nonlocal asked
        settings[asked] = peer.ask(asked)
        curves[asked] = list(curve_of(settings[asked]).items())
        heapq.heappush(queue, (now + curves[asked][0][0], slot, asked, 0))
        asked += 1

    for slot in range(slots):
        start(slot, 0)
    while spent < budget:
        now, slot, number, index = heapq.heappop(queue)
        step, loss = curves[number][index]
        spent += step - (curves[number][index - 1][0] if index else 0)
        goes_on = peer.report(number, step, loss)
        if step >= steps and math.isfinite(loss):
            finished.append(Finished(settings[number], loss, spent, now))
        if goes_on and step < steps:
            heapq.heappush(queue, (now + curves[number][index + 1][0] - step, slot, number, index + 1))
        else:
            start(slot, now)
    return finished


PEERS: dict[str, Callable[[Problem, int], Peer]] = {
    "tune": PlainTune,
    "tune-2": lambda problem, seed: PlainTune(problem, seed, factor=2),
    "tune-3": lambda problem, seed: PlainTune(problem, seed, factor=3),
    "syne-bohb": lambda problem, seed: SyneTune(problem, seed, "BOHB"),
    "syne-asha-cqr": lambda problem, seed: SyneTune(problem, seed, "ASHACQR"),
}
"""By name of the arm. `tune` has Tune's own reduction factor."""


def _tune(path: str, entry: Range | Choices) -> Any:
    if isinstance(entry, Choices):
        return tune.choice(list(entry.choices))
    if takes_integers(path):
        return (tune.lograndint if entry.log else tune.randint)(int(entry.low), int(entry.high) + 1)
    return (tune.loguniform if entry.log else tune.uniform)(entry.low, entry.high)


def _syne(path: str, entry: Range | Choices, domains: Any) -> Any:
    if isinstance(entry, Choices):
        return domains.choice(list(entry.choices))
    if takes_integers(path):
        return (domains.lograndint if entry.log else domains.randint)(int(entry.low), int(entry.high))
    return (domains.loguniform if entry.log else domains.uniform)(entry.low, entry.high)
