"""`--resume --retry failed`: trials that failed are asked for again, as new trials with the same setting.

What was recorded of the failed trial stays. The new one names it in an attribute, so that it is not tried again unless
the new one fails, too.
"""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from lmcore import columns as col
from sweeps.spec.sweep_spec import SweepSpec

RETRY_OF = "retry_of"
"""User attribute of a trial: the id of the failed trial that it repeats."""
KEPT = (col.EXPERIMENT, col.OF, col.CONFIRM_SEED)
"""User attributes that a trial's run follows from, beside its parameters."""


def retry_failed(spec: SweepSpec, storage: optuna.storages.BaseStorage) -> list[str]:
    """Enqueue each failed trial of the sweep again, once; returns the ids of those that failed.

    >>> retry_failed(spec, storage)  # doctest: +SKIP
    ['xs-0003', 's-0001']
    """
    retried = []
    for plan in (*spec.studies, *spec.confirmations):
        try:
            study = optuna.load_study(study_name=spec.study_name(plan), storage=storage)
        except KeyError:  # its confirmation has not begun
            continue
        trials = study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            trial_id = col.trial_id(plan.id, trial.number)
            if trial.user_attrs.get(col.STATUS) != col.FAILED or trial_id in known:
                continue
            kept = {name: trial.user_attrs[name] for name in KEPT if name in trial.user_attrs}
            study.enqueue_trial(trial.params, user_attrs={**kept, RETRY_OF: trial_id})
            retried.append(trial_id)
    return retried


def first_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that repeat no other: those that a search, a grid or a list of experiments has asked for."""
    return [trial for trial in trials if RETRY_OF not in trial.user_attrs]
