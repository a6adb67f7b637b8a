"""Trials that the user has excluded: kept and marked, and ignored by everything that learns from a study.

The mark is an attribute of the study, because Optuna allows no change to a trial that has ended: a reason by trial id.
Samplers, early stopping, ranking and confirmation never see it. The storage shows them an excluded trial, and each run
that confirms it, as one that failed (`sweeps.study.study_storage`), which all of them ignore already.
"""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from sweeps.spec.sweep_spec import SweepSpec

RUNG = "completed_rung_"
"""Begins the system attributes in which successive halving notes a trial's rungs."""


def excluded_in(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The excluded trials by the attributes of their study: a reason by id, which may be empty.

    >>> excluded_in({"excluded": {"xs-0003": "a bad node"}})
    {'xs-0003': 'a bad node'}
    """
    kept = attributes.get(col.EXCLUDED)
    return dict(kept) if isinstance(kept, dict) else {}


def is_excluded(trial: FrozenTrial, excluded: Mapping[str, str]) -> bool:
    """Whether the trial is excluded, or confirms one that is, or has its result."""
    return any(trial.user_attrs.get(name) in excluded for name in (col.TRIAL, col.OF, col.SAME_AS))


def hidden(trial: FrozenTrial) -> FrozenTrial:
    """An excluded trial as a sweep sees it: failed, without a loss and without rungs, and with a status of its own."""
    seen = copy.copy(trial)
    seen.state, seen.value = TrialState.FAIL, None
    seen.datetime_start = trial.datetime_start or datetime.now()
    seen.datetime_complete = trial.datetime_complete or seen.datetime_start
    seen.user_attrs = {**trial.user_attrs, col.STATUS: col.EXCLUDED}
    seen.system_attrs = {name: value for name, value in trial.system_attrs.items() if not name.startswith(RUNG)}
    return seen


class Exclusions:
    """The excluded trials of a sweep, to be changed while no driver runs it.

    >>> exclusions = Exclusions(spec, storage)  # doctest: +SKIP
    >>> exclusions.add(["xs-0003"], because="a bad node")  # doctest: +SKIP
    >>> exclusions.reasons  # doctest: +SKIP
    {'xs-0003': 'a bad node'}
    """

    def __init__(self, spec: SweepSpec, storage: optuna.storages.BaseStorage) -> None:
        self._studies: dict[str, optuna.Study] = {}  # by the ids that their trials' ids begin with
        for plan in (*spec.studies, *spec.confirmations):
            try:
                self._studies[plan.id] = optuna.load_study(study_name=spec.study_name(plan), storage=storage)
            except KeyError:  # a confirmation that has not begun
                continue

    @property
    def trials(self) -> list[str]:
        """Ids of all trials that have started, excluded ones included."""
        trials = [trial for study in self._studies.values() for trial in study.get_trials(deepcopy=False)]
        return [trial.user_attrs[col.TRIAL] for trial in trials if col.TRIAL in trial.user_attrs]

    @property
    def reasons(self) -> dict[str, str]:
        """Why each excluded trial is; empty if nobody said so."""
        return {name: why for study in self._studies.values() for name, why in excluded_in(study.user_attrs).items()}

    def add(self, trials: Sequence[str], because: str) -> None:
        """Exclude these trials, and the runs that confirm them."""
        for study, ids in self._marked_in(trials):
            study.set_user_attr(col.EXCLUDED, excluded_in(study.user_attrs) | dict.fromkeys(ids, because))

    def remove(self, trials: Sequence[str]) -> None:
        """Include these trials again."""
        for study, _ in self._marked_in(trials):
            left = {name: why for name, why in excluded_in(study.user_attrs).items() if name not in trials}
            study.set_user_attr(col.EXCLUDED, left)

    def _marked_in(self, trials: Sequence[str]) -> list[tuple[optuna.Study, list[str]]]:
        """Where the trials are marked: in their own study, and in the one that confirms it."""
        found = []
        for name, study in self._studies.items():
            search = name.removesuffix(f"-{col.CONFIRM}")
            if ids := [trial for trial in trials if trial.rpartition("-")[0] in (name, search)]:
                found.append((study, ids))
        return found
