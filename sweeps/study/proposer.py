"""The sampler of every search: what it adds to one of Optuna's, which decides on the model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sweeps.spec.space import Layout
from sweeps.study.distinct import TriedSettings
from sweeps.study.sampler_view import is_paused
from sweeps.study.study_view import StudyView

ATTEMPTS = 6
"""How often a sampler is asked for a setting that was not tried, each time with another seed."""

View = Callable[[Sequence[FrozenTrial], int], list[FrozenTrial]]


class Proposer(BaseSampler):
    """Proposes all values of a trial at once, before the first of them is written to the study.

    So the same values are proposed to the driver that resumes one which was killed while it wrote them.

    Args:
        space: what is searched.
        make: the sampler of an attempt, from 0.
        tried: settings that must not be proposed again.
        spread: values of the trial that the model is not asked for, or does not propose.
        startup: whether the trial is one of the first, which the model is not asked for.
        view: what the model is shown of the study's trials; None for the study itself.
        least: with a view, the number of trials with a result that the model needs.
        numeric: whether the model handles no choices.
        seed: of the setting that is taken if the sampler proposes none that was not tried.
        layout: of a space with entries that apply in some trials only. Values are proposed for all entries; those that
            do not apply are not suggested (`sweeps.study.samplers.suggest_conditional`).

    Example:
        study.sampler = Proposer(space, lambda attempt: RandomSampler(seed=attempt), TriedSettings(space))
        study.ask(space)
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        make: Callable[[int], BaseSampler],
        tried: TriedSettings | None = None,
        spread: Mapping[str, Any] | None = None,
        startup: bool = False,
        view: View | None = None,
        least: int = 0,
        numeric: bool = False,
        seed: int = 0,
        layout: Layout | None = None,
    ) -> None:
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        self._make = make
        self._model = make(0)
        self._tried = tried
        self._spread = spread
        self._startup = startup
        self._least = least
        self._view = view
        self._numeric = numeric
        self._seed = seed
        self._layout = layout
        self._conditional = frozenset(layout.conditional if layout else ())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All that is searched."""
        return dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A setting that was not tried, unless all were. Values that a queued trial came with are kept."""
        fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
        if self._is_setting(fixed):
            return {}
        first = values = self._propose(self._model, study, trial) | fixed
        if self._tried is None or self._tried.exhausted:
            return values
        for attempt in range(1, ATTEMPTS):
            if values not in self._tried:
                return values
            # Asking again costs a fit, but spread points do not depend on the sampler.
            if self._startup and self._spread is not None:
                break
            values = self._propose(self._make(attempt), study, trial) | fixed
        return values if values not in self._tried else self._tried.another(first, fixed, self._seed)

    def _is_setting(self, values: Mapping[str, Any]) -> bool:
        """Whether there is a value for all that the trial has."""
        return self._space.keys() <= values.keys() or (self._layout is not None and self._layout.complete(values))

    def _propose(self, model: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        if self._spread is None:
            space = model.infer_relative_search_space(study, trial)
            proposed = model.sample_relative(study, trial, space)
            for name, distribution in self._space.items():
                if name not in proposed:
                    proposed[name] = model.sample_independent(study, trial, name, distribution)
            return {name: proposed[name] for name in self._space}
        spread = {name: self._spread[name] for name in self._space}
        return spread if self._startup else spread | self._relative(model, study, trial)

    def _relative(self, model: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        if self._view is not None:
            stored = study.get_trials(deepcopy=False)
            ended = (TrialState.COMPLETE, TrialState.PRUNED)
            if sum(one.state in ended or is_paused(one) for one in stored) < self._least:
                return {}
            shown = self._view(stored, trial.number)
            if self._conditional:
                suggested = list(map(_as_suggested, shown))
                return self._in_groups(model, StudyView(study, lambda _: suggested), trial)
            whole = [one for one in shown if self._space.keys() <= one.params.keys()]
            study = StudyView(study, lambda _: whole)
        space = {n: d for n, d in self._space.items() if not (self._numeric and isinstance(d, CategoricalDistribution))}
        # What some trials lack is spread evenly by a model that learns only from trials that have all fields.
        space = {name: distribution for name, distribution in space.items() if name not in self._conditional}
        return model.sample_relative(study, trial, space)

    def _in_groups(self, model: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """What the model proposes for the entries that it finds in the trials, of which some lack some."""
        found = model.infer_relative_search_space(study, trial)
        return model.sample_relative(study, trial, {name: found[name] for name in found if name in self._space})

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Only for a field whose only value it is: all others are proposed together."""
        return self._model.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell the sampler."""
        self._model.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the sampler."""
        self._model.after_trial(study, trial, state, values)


def _as_suggested(trial: FrozenTrial) -> FrozenTrial:
    """A trial that runs without what was proposed for entries that do not apply, which TPE has noted in it."""
    if trial.state is not TrialState.RUNNING:
        return trial
    seen = copy.copy(trial)
    seen.system_attrs = {}
    return seen
