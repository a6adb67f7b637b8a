"""Early stopping: an Optuna pruner for each value of `search.scheduler`, and the decisions made with it.

To add a scheduler, enter it in SCHEDULERS and add its name to `Scheduler` in `sweeps.spec.settings`. Schedulers that
pause trials instead of stopping them are in `sweeps.study.promotion`; to Optuna they are pruners that do nothing.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.reports import comparable_step
from sweeps.study.promotion import PAUSING
from sweeps.study.storage import running_trial

DECISION = "early_stopping"
"""User attribute: the newest decision that must survive the driver, `{"step": 50, "stop": true, "memory": {...}}`."""


SCHEDULERS: dict[str, Callable[[int, int, int], BasePruner]] = {
    **dict.fromkeys(PAUSING, lambda grace, steps, factor: NopPruner()),  # they pause trials, and stop none
    "asha-stop": lambda grace, steps, factor: SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor),
    "median": lambda grace, steps, factor: MedianPruner(n_startup_trials=4, n_warmup_steps=grace),
    "none": lambda grace, steps, factor: NopPruner(),
}
"""A pruner by name, from the grace steps, the steps of a trial, and the reduction factor."""


def pruner_for(scheduler: str, grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    """The pruner of a study whose trials make `steps` updates and are not stopped within the first `grace_steps`.

    >>> type(pruner_for("median", grace_steps=50, steps=200, reduction_factor=3)).__name__
    'MedianPruner'
    """
    return SCHEDULERS[scheduler](grace_steps, steps, reduction_factor)


def rules_of(pruner: BasePruner) -> str:
    """The kind of a pruner and its numbers, to tell whether a decision was made by the same rules.

    >>> rules_of(pruner_for("median", grace_steps=50, steps=200, reduction_factor=3)).partition("(")[0]
    'MedianPruner'
    """
    numbers = {name: value for name, value in vars(pruner).items() if isinstance(value, (int, float, str))}
    return f"{type(pruner).__name__}({', '.join(f'{name}={value}' for name, value in sorted(numbers.items()))})"


def notes_rungs(pruner: BasePruner) -> bool:
    """Whether a pruner notes which rungs a trial has completed."""
    return isinstance(pruner, SuccessiveHalvingPruner)


def decides_between(pruner: BasePruner, before: int, step: int) -> bool:
    """Whether a pruner may stop a trial at its report at `step`, the next one after `before`.

    >>> pruner = pruner_for("asha-stop", grace_steps=50, steps=200, reduction_factor=2)
    >>> [decides_between(pruner, step - 25, step) for step in (25, 50, 75, 100, 125, 150, 175)]
    [False, True, False, True, False, False, False]
    """
    if isinstance(pruner, SuccessiveHalvingPruner):
        assert pruner._min_resource is not None  # `pruner_for` gives it
        rung = pruner._min_resource
        while rung <= before:
            rung *= pruner._reduction_factor
        return rung <= step
    if isinstance(pruner, MedianPruner):
        return step >= pruner._n_warmup_steps
    return not isinstance(pruner, NopPruner)


def step_in_study(trial: FrozenTrial, step: int) -> int:
    """The step under which a study has the loss that the trial reported after update `step`.

    It is `step` itself unless trials have different batches (`lmcore.reports.comparable_step`).
    """
    run = trial.user_attrs.get(col.RUN)
    return step if run is None else comparable_step(RunSpec.model_validate(run), step)


class EarlyStopping:
    """Decides which trials of one study to stop early.

    Some of Optuna's pruners write to the study while they decide: successive halving notes which rungs a trial has
    completed. If a driver were killed right after that, nobody would know whether the trial was stopped there. So the
    pruner works on a copy of the study in memory, and its notes go to the study in one transaction with its decision.

    Example:
        early_stopping.start(trial)
        early_stopping.report(trial, loss=3.2, step=50)
        if early_stopping.should_stop(trial, step=50):
            early_stopping.tell(trial, state=TrialState.PRUNED)
    """

    def __init__(self, study: optuna.Study, known_steps: Mapping[int, int]) -> None:
        """Copy the study, whose pruner decides. All steps here are those of the study (`step_in_study`).

        `known_steps` has the last step in metrics.jsonl by number of a running trial. Its later steps are reported
        again, and are decided on as if for the first time.
        """
        storage = optuna.storages.InMemoryStorage()
        self._copy = optuna.create_study(
            storage=storage, study_name=study.study_name, sampler=RandomSampler(seed=0), pruner=study.pruner
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._rules = rules_of(study.pruner)
        scratch = optuna.create_study(study_name=study.study_name, pruner=study.pruner)
        asked = [trial for trial in study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]
        for place, trial in enumerate(map(copy.copy, asked)):
            decided = trial.user_attrs.get(DECISION, {})
            ours = decided.get("rules", self._rules) == self._rules
            if ours and trial.user_attrs.get(col.STATUS) != col.EXCLUDED:
                trial.system_attrs = {**trial.system_attrs, **decided.get("memory", {})}
            replayed = trial.intermediate_values if not ours or not decided else {}
            if trial.state is TrialState.RUNNING:
                known, losses = known_steps.get(trial.number, 0), trial.intermediate_values
                trial.intermediate_values = {step: loss for step, loss in losses.items() if step <= known}
            if replayed and notes_rungs(study.pruner) and trial.user_attrs.get(col.STATUS) != col.EXCLUDED:
                trial.system_attrs = {**trial.system_attrs, **_notes_on(trial, scratch, place)}
            trial.user_attrs = {}  # pruners read none, and there are many
            self._copy.add_trial(trial)
            if trial.state is TrialState.RUNNING:
                self._trials[trial.number] = running_trial(self._copy, storage, place)

    def start(self, trial: optuna.Trial) -> None:
        """Note that the study was asked for this trial."""
        self._trials[trial.number] = self._copy.ask()

    def report(self, trial: optuna.Trial, loss: float, step: int) -> None:
        """Take a loss of the trial. Call this before `should_stop`."""
        self._trials[trial.number].report(loss, step)

    def should_stop(self, trial: optuna.Trial, step: int) -> bool:
        """Whether to stop the trial after this step, its last report. The decision is in the study on return."""
        decided = trial.user_attrs.get(DECISION, {})
        if decided.get("step") == step:  # by a driver that was killed before it had written the row
            return bool(decided["stop"])
        copied = self._trials[trial.number]
        before = set(self._memory_of(copied))
        stop = bool(copied.should_prune())  # the median pruner returns one of NumPy's, which JSON does not have
        noted = {name: value for name, value in self._memory_of(copied).items() if name not in before}
        if stop or noted:
            same = decided.get("rules", self._rules) == self._rules
            memory = decided.get("memory", {}) | noted if same and decided else self._notes_of(trial, copied)
            trial.set_user_attr(DECISION, {"step": step, "stop": stop, "memory": memory, "rules": self._rules})
        return stop

    def tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> None:
        """Note how the trial ended; takes what `optuna.Study.tell` takes."""
        self._copy.tell(self._trials.pop(trial.number), value, state)

    def _notes_of(self, trial: optuna.Trial, copied: optuna.Trial) -> dict[str, Any]:
        known = trial.storage.get_trial(trial._trial_id).system_attrs
        return {name: value for name, value in self._memory_of(copied).items() if name not in known}

    def _memory_of(self, copied: optuna.Trial) -> dict[str, Any]:
        return self._copy.get_trials(deepcopy=False)[copied.number].system_attrs


def _notes_on(trial: FrozenTrial, scratch: optuna.Study, place: int) -> dict[str, Any]:
    """What the pruner would have noted of a trial on which other rules decided; the decisions themselves stay."""
    while len(scratch.get_trials(deepcopy=False)) < place:  # hyperband draws brackets by number
        scratch.add_trial(optuna.create_trial(state=TrialState.FAIL))
    alone = copy.copy(trial)
    alone.state, alone.values, alone.intermediate_values = TrialState.RUNNING, None, {}
    alone.user_attrs, alone.system_attrs, alone.datetime_complete = {}, {}, None
    scratch.add_trial(alone)
    steps = sorted(trial.intermediate_values)
    if trial.state is TrialState.COMPLETE:
        del steps[-1:]  # nobody decides after the last report
    repeated = running_trial(scratch, scratch._storage, place)
    for step in steps:
        repeated.report(trial.intermediate_values[step], step)
        repeated.should_prune()
    return dict(scratch.get_trials(deepcopy=False)[place].system_attrs)
