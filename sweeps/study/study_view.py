"""A study that shows a sampler other trials than are stored."""

import copy
from collections.abc import Callable, Container, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState


class StudyView(optuna.Study):
    """`study`, of whose trials only what `show` makes of them is seen. What a sampler writes goes to the study itself.

    Optuna's samplers read trials through `_get_trials` alone, which has no public form that could be replaced.

    Example:
        view = StudyView(study, lambda trials: with_outlook(trials, number=3))
        values = sampler.sample_relative(view, trial, space)
    """

    def __init__(self, study: optuna.Study, show: Callable[[Sequence[FrozenTrial]], Sequence[FrozenTrial]]) -> None:
        # Without `Study.__init__`, which would look the study up in the database.
        for name in ("study_name", "_study_id", "_storage", "_directions", "_thread_local", "pruner", "sampler"):
            setattr(self, name, getattr(study, name))
        self._study, self._show = study, show

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        shown = self._show(self._study._get_trials(False, None, use_cache))
        shown = [trial for trial in shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown
