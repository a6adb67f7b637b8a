"""How a sampler sees the trials of a study whose space has changed since they were asked for.

A sweep may be resumed with another space. Optuna's samplers model a parameter only where all trials have it with one
distribution, and refuse choices that change. So the sampler gets a view of the study: an earlier trial is shown as one
of the new space if its setting lies in it, and is hidden otherwise. In the study, the ranking and the tables all trials
stay as they were.

The setting of a trial is that of the run that was trained, which is kept with it: what would be proposed now for a run
with its fields. So a field that is searched now and was not then has the value of the base run of that time; a field
that is not searched any more must have the value at which it stays, and one that is computed the value that is computed
now, or the trial would show the sampler something that it cannot propose.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.config import FIELD_ROLES
from lmcore.runfile.paths import BUDGET, RUN_DEFAULTS
from sweeps.spec.proposals import equal_values, proposals_of
from sweeps.spec.space import Layout, distributions, paths_of
from sweeps.study.study_view import StudyView

Distributions = dict[str, BaseDistribution]
CMAES = "cma:"
"""Begins the attributes in which CMA-ES keeps its state, which is one of a space."""


RESOLVED = (*BUDGET, "model.vocab_size", "train.dtype", "train.micro_batch_size")
"""Fields that a run may have other values of than the base run that it is made from."""


class SpaceView:
    """The trials of a study as trials of its present space.

    Args:
        layout: of the present space of the study (`SweepSpec.study_layout`).

    Example:
        view = SpaceView(spec.study_layout(plan))
        study.sampler = view.sampler(TPESampler())
    """

    def __init__(self, layout: Layout) -> None:
        self.space = distributions(layout.space)
        self._layout = layout
        self._fixed = [
            path
            for path, role in FIELD_ROLES.items()
            if role != "sweep constant" and path not in RESOLVED and path not in layout.owners
        ]
        """Fields that may vary and are not searched."""
        self._budgets = [
            name for name, entry in layout.space.items() if not set(BUDGET).isdisjoint(paths_of(name, entry))
        ]
        self._shown: dict[int, FrozenTrial | None] = {}
        """Trials that have ended, by number: they do not change any more."""

    def shows_all(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every trial is one of the present space already, so that no view is needed."""
        return all(self._view(trial) is trial for trial in trials)

    def of(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """These trials as the sampler is to see them, in order, without those that are hidden."""
        shown = (self._view(trial) for trial in trials)
        return [trial for trial in shown if trial is not None]

    def _is_being_asked_for(self, trial: FrozenTrial) -> bool:
        """Whether what was suggested so far in a trial without a run was suggested in the present space."""
        return all(self.space.get(name) == distribution for name, distribution in trial.distributions.items())

    def _view(self, trial: FrozenTrial) -> FrozenTrial | None:
        if trial.number in self._shown:
            return self._shown[trial.number]
        if col.RUN not in trial.user_attrs:
            return trial if self._is_being_asked_for(trial) else None
        viewed = self._as_present(trial)
        if trial.state.is_finished() and col.STATUS in trial.user_attrs:
            self._shown[trial.number] = viewed
        return viewed

    def params_of(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """What would be proposed for an earlier trial in the present space; None if it does not lie there."""
        viewed = self._as_present(trial)
        return None if viewed is None else dict(viewed.params)

    def _as_present(self, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial with the present distributions; None if its run is none of the present space."""
        run = trial.user_attrs[col.RUN]
        fields = {f"{section}.{name}": value for section, values in run.items() for name, value in values.items()}
        fields = {**RUN_DEFAULTS, **fields}  # an earlier version had fewer
        if not all(equal_values(fields[path], self._layout.fields[path]) for path in self._fixed):
            return None
        # A run has its budget in steps, whichever was proposed. Those entries stay what they are while a sweep lasts.
        given = {path: value for path, value in fields.items() if path not in BUDGET}
        settled = {name: trial.params[name] for name in self._budgets if name in trial.params}
        params = proposals_of(self._layout, given, settled)
        if params is None:
            return None
        space = {name: self.space[name] for name in params}
        if trial.distributions == space and _are_equal(trial.params, params):
            return trial
        viewed = copy.copy(trial)
        viewed._params, viewed._distributions = params, space
        attributes = trial.system_attrs
        viewed._system_attrs = {name: value for name, value in attributes.items() if not name.startswith(CMAES)}
        return viewed

    def sampler(self, sampler: BaseSampler) -> BaseSampler:
        """`sampler`, which is shown this view of any study."""
        return _ViewingSampler(sampler, self)


def _are_equal(params: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    return params.keys() == others.keys() and all(equal_values(params[name], others[name]) for name in params)


class _ViewingSampler(BaseSampler):
    """A sampler that sees studies through a view."""

    def __init__(self, sampler: BaseSampler, view: SpaceView) -> None:
        self._sampler = sampler
        self._view = view
        self._last: StudyView | None = None

    def _viewed(self, study: optuna.Study) -> optuna.Study:
        if self._last is None or self._last._study is not study:
            self._last = StudyView(study, self._view.of)
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
