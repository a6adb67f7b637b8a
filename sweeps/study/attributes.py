"""What a study says about each trial, as user attributes of Optuna.

`run`, `counts` and `last` are dicts, and `branches` a list of dicts, from which everything is read again. Beside them
stand plain numbers and words, because optuna-dashboard sorts and filters by those and shows a dict as text. They have
the names of the columns of the trials table, and no code depends on them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import training_flops
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.spec.arms import StudyPlan
from sweeps.study.study_storage import StudyStorage

ENDED = (col.LAST, col.BRANCHES, col.STEP, col.TOKENS, col.TRAIN_FLOPS, col.MESSAGE, col.STATUS)
"""What a trial has when it has ended; its branches as soon as they have."""


def run_attributes(trial_id: str, plan: StudyPlan, experiment: str | None, run: RunSpec) -> dict[str, Any]:
    """The attributes of a trial that is handed out.

    >>> run_attributes("xs-0003", StudyPlan("xs"), None, RunSpec())["params_exact"]  # doctest: +SKIP
    362816
    """
    exact = count_parameters(run.model)
    values = estimate_parameters(run.model), exact.total, exact.non_embedding, flops_per_token(run.model)
    counts = dict(zip(col.COUNT_COLUMNS, values, strict=True))
    place = {col.SIZE: plan.size, col.ARM: plan.arm.name, col.EXPERIMENT: experiment, col.PHASE: plan.phase}
    scalars = {**place, **counts, col.PLANNED_FLOPS: training_flops(run)}
    known = {name: value for name, value in scalars.items() if value is not None}
    return {col.TRIAL: trial_id, col.RUN: run.model_dump(mode="json"), col.COUNTS: counts, **known}


def end_attributes(status: str, message: str | None, last_row: Row | None, run: RunSpec) -> dict[str, Any]:
    """The attributes of a trial that has ended. `last_row` is None if it never reported.

    >>> end_attributes("failed", "ValueError: boom", None, RunSpec())
    {'message': 'ValueError: boom', 'status': 'failed'}
    """
    attributes: dict[str, Any] = {}
    if last_row is not None:
        last = finite_row({name: value for name, value in last_row.items() if name in col.LAST_COLUMNS})
        tokens = last[col.STEP] * run.tokens_per_step
        flops = flops_per_token(run.model) * tokens
        attributes = {col.LAST: last, col.STEP: last[col.STEP], col.TOKENS: tokens, col.TRAIN_FLOPS: flops}
    if message is not None:
        attributes[col.MESSAGE] = message
    return {**attributes, col.STATUS: status}


def note_branches(trial: optuna.Trial, rows: Sequence[Row]) -> None:
    """Add the results of branches that have ended to those of a live trial; a branch that is repeated replaces itself.

    What is told is no intermediate value: those are the trial's own, at its own steps.
    """
    known = {one[col.BRANCH]: one for one in trial.user_attrs.get(col.BRANCHES, ())}
    new = {row[col.BRANCH]: finite_row({name: row.get(name) for name in col.BRANCH_COLUMNS}) for row in rows}
    trial.set_user_attr(col.BRANCHES, [*{**known, **new}.values()])


def set_attributes(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a live trial; in the database of a sweep they are one transaction, hence some milliseconds."""
    backend = getattr(trial.storage, "_backend", trial.storage)  # behind Optuna's cache
    if not isinstance(backend, StudyStorage):
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        return
    backend.set_trial_user_attrs(trial._trial_id, attributes)
    trial._cached_frozen_trial.user_attrs.update(attributes)


def finite_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with None in place of numbers that are not finite, which JSON does not have.

    >>> finite_row({"step": 25, "val_loss": math.nan})
    {'step': 25, 'val_loss': None}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
