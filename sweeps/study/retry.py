"""`--resume --retry failed`: trials that failed are asked for again, as new trials with the same setting.

What was recorded of the failed trial stays. The new one names it in an attribute, so that it is not tried again unless
the new one fails, too.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.space_view import SpaceView

RETRY_OF = "retry_of"
"""User attribute of a trial: the id of the failed trial that it repeats."""
KEPT = (col.EXPERIMENT, col.OF, col.CONFIRM_SEED)
"""User attributes that a trial's run follows from, beside its parameters."""


def retry_failed(spec: SweepSpec, storage: optuna.storages.BaseStorage) -> list[str]:
    """Enqueue each failed trial of the sweep again, once; returns the ids of those that failed.

    Raises InputError, and enqueues none, if the space has changed so that it lacks the setting of one.

    >>> retry_failed(spec, storage)  # doctest: +SKIP
    ['xs-0003', 's-0001']
    """
    retried, lost = [], []
    requests: list[tuple[optuna.Study, dict[str, Any], dict[str, Any]]] = []
    for plan in (*spec.studies, *spec.confirmations):
        try:
            study = optuna.load_study(study_name=spec.study_name(plan), storage=storage)
        except KeyError:  # its confirmation has not begun
            continue
        trials = study.get_trials(deepcopy=False)
        searches = spec.search.method != "experiments" and plan.phase != col.CONFIRM
        view = SpaceView(spec.study_layout(plan)) if searches else None
        known = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            trial_id = col.trial_id(plan.id, trial.number)
            if trial.user_attrs.get(col.STATUS) != col.FAILED or trial_id in known:
                continue
            kept = {name: trial.user_attrs[name] for name in KEPT if name in trial.user_attrs}
            params = view.params_of(trial) if view and col.RUN in trial.user_attrs else dict(trial.params)
            if params is None:
                lost.append(trial_id)
                continue
            requests.append((study, params, {**kept, RETRY_OF: trial_id}))
            retried.append(trial_id)
    if lost:
        rule = f"must be possible in the space as it is now, which lacks the settings of {', '.join(lost)}"
        raise InputError(f"--retry: {rule}; leave it out, or change the space back")
    for study, params, attributes in requests:
        study.enqueue_trial(params, user_attrs=attributes)
    return retried


def first_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that repeat no other: those that a search, a grid or a list of experiments has asked for."""
    return [trial for trial in trials if RETRY_OF not in trial.user_attrs]
