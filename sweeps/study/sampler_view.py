"""What a sampler is shown of a study, so that it also learns from trials that were stopped early.

Optuna's Gaussian process fits complete trials alone, and most trials of a sweep are stopped early. It is shown those as
complete, with the final loss that they would probably have had. What is stored stays as it is.
"""

import copy
import math
import statistics
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from sweeps.study.outlook import final_outlook

CONSTRAINTS = "constraints"


def is_paused(trial: FrozenTrial) -> bool:
    """Whether the trial waits for its promotion."""
    return trial.state is TrialState.RUNNING and trial.user_attrs.get(col.PAUSED_AT) is not None


def with_paused_as_pruned(trials: Sequence[FrozenTrial], number: int) -> list[FrozenTrial]:
    """For TPE, which ranks pruned trials: those that are paused count as pruned. Leaves trial `number` out.

    Trials that run stay as they are, for TPE's constant liar.
    """
    others = [trial for trial in trials if trial.number != number]
    return [_as(trial, TrialState.PRUNED, None) if is_paused(trial) else trial for trial in others]


def with_outlook(trials: Sequence[FrozenTrial], number: int) -> list[FrozenTrial]:
    """For a Gaussian process, which fits complete trials: the study as trial `number` is shown it.

    Trials that were stopped early, or are paused, are complete with their `final_outlook`; without one they are pruned.
    Trials that run are complete with the mean of the losses of all others, so that several trials asked for at once
    differ. Failed and waiting trials are left out.
    """
    others = [trial for trial in trials if trial.number != number]
    complete = [trial for trial in others if trial.state is TrialState.COMPLETE]
    shown, running = [], []
    for trial in others:
        if trial.state is TrialState.COMPLETE:
            shown.append(_as(trial, trial.state, trial.values[0]))
        elif trial.state is TrialState.PRUNED or is_paused(trial):
            loss = final_outlook(trial, complete)
            shown.append(_as(trial, *((TrialState.PRUNED, None) if loss is None else (TrialState.COMPLETE, loss))))
        elif trial.state is TrialState.RUNNING:
            running.append(trial)
    known = [trial.values[0] for trial in shown if trial.state is TrialState.COMPLETE]
    if losses := [loss for loss in known if math.isfinite(loss)]:
        mean = statistics.fmean(losses)
        shown += [_as(trial, TrialState.COMPLETE, mean) for trial in running]
    # The process models a constraint if any trial has one: a second fit that is for nothing if none is violated.
    if any(violation > 0 for trial in complete for violation in trial.constraints.values()):
        for trial in shown:
            trial.system_attrs = {CONSTRAINTS: [max(trial.constraints.values(), default=0.0)]}
    else:
        for trial in shown:
            trial.system_attrs = {}
    return sorted(shown, key=lambda trial: trial.number)


def _as(trial: FrozenTrial, state: TrialState, value: float | None) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state, seen.value = state, value
    return seen
