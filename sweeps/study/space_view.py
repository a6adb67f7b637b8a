"""How a sampler sees the trials of a study whose space has changed since they were asked for.

A sweep may be resumed with another space. Optuna's samplers model a parameter only where all trials have it with one
distribution, and refuse choices that change. So the sampler gets a view of the study: an earlier trial is shown as one
of the new space if its setting lies in it, and is hidden otherwise. In the study, the ranking and the tables all trials
stay as they were.

The setting of a trial is that of the run that was trained, which is kept with it. A field that is searched now and was
not then has the value of the base run of that time; a field that is not searched any more must have the value at which
it stays, or the trial would show the sampler something that it cannot propose.
"""

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.config import RunSpec

Distributions = dict[str, BaseDistribution]
CMAES = "cma:"
"""Begins the attributes in which CMA-ES keeps its state, which is one of a space."""


class SpaceView:
    """The trials of a study as trials of its present space.

    Args:
        space: the distributions of the present space.
        fixed: the run of a trial that changes nothing, for the values of what is not searched.

    Example:
        view = SpaceView({"optim.lr": FloatDistribution(1e-4, 1e-1, log=True)}, spec.run_for("xs", {}))
        study.sampler = view.sampler(TPESampler())
    """

    def __init__(self, space: Distributions, fixed: RunSpec) -> None:
        self.space = space
        self._fixed = fixed
        self._shown: dict[int, FrozenTrial | None] = {}
        """Trials that have ended, by number: they do not change any more."""
        self._removed: set[str] = set()

    def shows_all(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every trial has the present space already, so that no view is needed."""
        return all(map(self._is_present, trials))

    def of(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """These trials as the sampler is to see them, in order, without those that are hidden."""
        removed = {path for trial in trials for path in trial.distributions} - self.space.keys()
        if removed != self._removed:
            self._shown, self._removed = {}, removed
        shown = (self._view(trial) for trial in trials)
        return [trial for trial in shown if trial is not None]

    def _is_present(self, trial: FrozenTrial) -> bool:
        """Whether the trial was asked for, or is being asked for, in the present space."""
        known = trial.distributions
        whole = col.RUN not in trial.user_attrs or known.keys() == self.space.keys()
        return whole and all(self.space.get(path) == distribution for path, distribution in known.items())

    def _view(self, trial: FrozenTrial) -> FrozenTrial | None:
        if trial.number in self._shown:
            return self._shown[trial.number]
        if col.RUN not in trial.user_attrs:
            return trial if self._is_present(trial) else None
        viewed = self._as_present(trial)
        if trial.state.is_finished() and col.STATUS in trial.user_attrs:
            self._shown[trial.number] = viewed
        return viewed

    def params_of(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """The setting of an earlier trial in the present space; None if it does not lie there."""
        viewed = self._as_present(trial)
        return None if viewed is None else dict(viewed.params)

    def _as_present(self, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial with the present distributions; None if its setting does not lie in the present space."""
        run = trial.user_attrs[col.RUN]
        removed = self._removed | (trial.distributions.keys() - self.space.keys())
        if not all(_value(trial.params, run, path) == self._fixed_value(path) for path in removed):
            return None
        if trial.distributions == self.space:
            return trial
        params = {path: _value(trial.params, run, path) for path in self.space}
        if not all(_contains(self.space[path], value) for path, value in params.items()):
            return None
        viewed = copy.copy(trial)
        viewed._params, viewed._distributions = params, dict(self.space)
        attributes = trial.system_attrs
        viewed._system_attrs = {name: value for name, value in attributes.items() if not name.startswith(CMAES)}
        return viewed

    def _fixed_value(self, path: str) -> Any:
        section, name = path.split(".")
        return getattr(getattr(self._fixed, section), name)

    def sampler(self, sampler: BaseSampler) -> BaseSampler:
        """`sampler`, which is shown this view of any study."""
        return _ViewingSampler(sampler, self)


def _value(params: Mapping[str, Any], run: Mapping[str, Any], path: str) -> Any:
    """The value of a trial at a path; a budget that was proposed is in its parameters alone."""
    section, name = path.split(".")
    return params[path] if path in params else run.get(section, {}).get(name)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        # 1 == 1.0 == True, but as choices they are not the same.
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return distribution._contains(distribution.to_internal_repr(value))


class _ViewedStudy(optuna.Study):
    """A study that lists the trials of `study` as `view` shows them."""

    def __init__(self, study: optuna.Study, view: SpaceView) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._study, self._view = (
            study,
            view,
        )  # `study` may list some of the trials, as those of hyperband's brackets do

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._view.of(self._study._get_trials(False, None, use_cache))
        trials = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class _ViewingSampler(BaseSampler):
    """A sampler that sees studies through a view."""

    def __init__(self, sampler: BaseSampler, view: SpaceView) -> None:
        self._sampler = sampler
        self._view = view
        self._last: _ViewedStudy | None = None

    def _viewed(self, study: optuna.Study) -> optuna.Study:
        if self._last is None or self._last._study is not study:
            self._last = _ViewedStudy(study, self._view)
        return self._last

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        return self._sampler.infer_relative_search_space(self._viewed(study), trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions) -> dict[str, Any]:
        return self._sampler.sample_relative(self._viewed(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._viewed(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._viewed(study), trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(self._viewed(study), trial, state, values)
