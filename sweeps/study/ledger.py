"""The ledger of a sweep: its Optuna studies, one per size, and the only code that reads or writes them.

The studies are the sweep's only memory. What Optuna is told about a trial:

| status   | Optuna state | value                                                                     |
|----------|--------------|---------------------------------------------------------------------------|
| running  | RUNNING      | none yet; a trial that was interrupted stays RUNNING and is resumed       |
| complete | COMPLETE     | the last validation loss                                                  |
| pruned   | PRUNED       | none is told; Optuna shows the last intermediate value                    |
| diverged | COMPLETE     | +inf, with the constraint `diverged` violated: samplers learn to stay away |
| failed   | FAIL         | none; the error message is an attribute                                   |
"""

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import training_flops
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from lmcore.reports import comparable_step
from sweeps.spec.cost import costliest
from sweeps.spec.duration import show_duration
from sweeps.spec.space import distributions
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.deadline import Deadline
from sweeps.study.divergence import divergence
from sweeps.study.open_study import open_study
from sweeps.study.samplers import complete_suggestion, sampler_for
from sweeps.study.schedulers import EarlyStopping, step_in_study
from sweeps.study.storage import running_trial


@dataclass
class TrialHandle:
    """A live trial: the ledger has handed it out and not yet told the study how it ended.

    Example:
        trial = ledger.ask("xs")
        trial.id, trial.run.optim.lr, trial.status  # ("xs-0003", 0.0071, "running")
    """

    id: str
    size: str
    experiment: str | None
    run: RunSpec
    trial: optuna.Trial
    last_row: Row | None = None
    status: str = col.RUNNING
    message: str | None = None  # why it diverged or failed, in one line
    error: str | None = None  # the whole text of the error that it failed with
    requeues: int = 0  # how often it went back to the queue

    @property
    def name(self) -> str:
        """The id, followed by the experiment's name if there is one."""
        return self.id if self.experiment is None else f"{self.id} {self.experiment}"


@dataclass
class Ledger:
    """The studies of `spec` in the Optuna storage `storage`.

    Example:
        trial = ledger.ask("xs")
        while ledger.report(trial.id, train_one_interval(trial.run)) == "running":
            pass
        ledger.end(trial.id)
    """

    spec: SweepSpec
    storage: optuna.storages.BaseStorage
    last_rows: Mapping[str, Row] = field(default_factory=dict)  # on resume: each trial's last row from metrics.jsonl
    live: dict[str, TrialHandle] = field(default_factory=dict)
    deadline: Deadline = field(default_factory=lambda: Deadline(None))

    def __post_init__(self) -> None:
        # Experiments search nothing: their overrides are in the config, under the experiment's name.
        self._space = {} if self.spec.search.method == "experiments" else distributions(self.spec.space)
        self.studies = {size: open_study(self.spec, size, self.storage) for size in self.spec.size_names}
        trials = {size: study.get_trials(deepcopy=False) for size, study in self.studies.items()}
        # Counts and ranking are kept here, because listing a study's trials takes longer as it grows.
        self._total = {size: self.spec.trials_of(size) for size in self.studies}
        self._asked = {size: sum(t.state is not TrialState.WAITING for t in trials[size]) for size in trials}
        self._complete = {size: _complete_trials(trials[size]) for size in trials}
        self._trial_flops = {size: training_flops(costliest(self.spec, size)) for size in self.studies}
        self._early_stopping: dict[str, EarlyStopping] = {}
        self._unfinished: dict[str, list[TrialHandle]] = {size: [] for size in self.studies}
        for size, study in self.studies.items():
            last_steps = {
                t.number: step_in_study(t, self._last_row(size, t.number).get(col.STEP, 0)) for t in trials[size]
            }
            self._early_stopping[size] = EarlyStopping(study, last_steps)
            for frozen in trials[size]:
                if frozen.state is TrialState.RUNNING:
                    self._resume_trial(size, frozen)

    def _resume_trial(self, size: str, frozen: FrozenTrial) -> None:
        """Put a trial that an earlier driver left RUNNING in the queue, or end it if its last row has ended it."""
        trial = running_trial(self._study_with_sampler(size, frozen.number), self.storage, frozen.number)
        complete_suggestion(trial, self._space)
        handle = self._handle(size, trial)
        handle.last_row = self._last_row(size, frozen.number) or None
        handle.status = frozen.user_attrs.get(col.STATUS, (handle.last_row or {}).get(col.STATUS, col.RUNNING))
        if handle.status == col.RUNNING:
            self._unfinished[size].append(handle)
            return
        handle.message = frozen.user_attrs.get(col.MESSAGE)
        if handle.message is None and handle.last_row is not None:
            handle.message = divergence(handle.last_row, handle.run.model.vocab_size)
        self.live[handle.id] = handle
        self.end(handle.id)

    def _study_with_sampler(self, size: str, number: int) -> optuna.Study:
        """The study of `size`, with the sampler for the trial of this number."""
        self.studies[size].sampler = sampler_for(self.spec.search, size, number, self.spec.startup_trials(size))
        return self.studies[size]

    def _last_row(self, size: str, number: int) -> Row:
        return self.last_rows.get(col.trial_id(size, number), {})

    def _handle(self, size: str, trial: optuna.Trial) -> TrialHandle:
        """The handle of a trial. Writes its id, run and parameter counts to the study."""
        experiment = trial.user_attrs.get(col.EXPERIMENT)
        overrides = self.spec.experiment(experiment) if experiment else dict(trial.params)
        run = self.spec.run_for(size, overrides)
        handle = TrialHandle(col.trial_id(size, trial.number), size, experiment, run, trial)
        if col.COUNTS not in trial.user_attrs:
            # Few and large attributes: each is a transaction of its own, some milliseconds with SQLite.
            trial.set_user_attr(col.TRIAL, handle.id)
            trial.set_user_attr(col.RUN, run.model_dump())
            counts = count_parameters(run.model)
            values = estimate_parameters(run.model), counts.total, counts.non_embedding, flops_per_token(run.model)
            trial.set_user_attr(col.COUNTS, dict(zip(col.COUNT_COLUMNS, values, strict=True)))
        return handle

    @property
    def sizes_left(self) -> list[str]:
        """Sizes with trials left to ask for: those with unfinished trials, or else all, least asked first."""
        unfinished = [size for size, trials in self._unfinished.items() if trials]
        if unfinished:
            return unfinished
        left = [size for size, asked in self._asked.items() if asked < self._total[size] and not self._reached(size)]
        if left and self.spec.search.time is not None:
            running = [_flops_left(handle) for handle in self.live.values()]
            left = [size for size in left if self.deadline.fits(self._trial_flops[size], running)]
        return sorted(left, key=self._asked.__getitem__)

    def _reached(self, size: str) -> bool:
        """Whether a complete trial of `size` has reached search.stop_at."""
        target, complete = self.spec.search.stop_at, self._complete[size]
        return target is not None and bool(complete) and complete[0][0] <= target

    def why_stopped(self) -> list[str]:
        """Why studies got fewer trials than search.trials says, a line each; to be asked once no size is left."""
        lines = [
            f"{size}: the target was reached, search.stop_at {self.spec.search.stop_at:g}"
            for size in self.studies
            if self._reached(size) and self._asked[size] < self._total[size]
        ]
        if self.deadline.refused:
            lines.append(
                f"One more trial would not have finished within search.time, {show_duration(self.deadline.seconds)}"
            )
        return lines

    def ask(self, size: str) -> TrialHandle:
        """The next trial of a size in `sizes_left`; unfinished trials come first."""
        if self._unfinished[size]:
            handle = self._unfinished[size].pop(0)
        else:
            handle = self._handle(size, self._study_with_sampler(size, self._asked[size]).ask(self._space))
            self._early_stopping[size].start(handle.trial)
            self._asked[size] += 1
        self.live[handle.id] = handle
        return handle

    def report(self, trial_id: str, row: Row) -> str:
        """Take a trial's report row and return its status from now on; anything but running means: stop it."""
        handle = self.live[trial_id]
        known = handle.last_row or {col.STEP: 0, col.ELAPSED_S: 0.0}
        flops = training_flops(handle.run) * (row[col.STEP] - known[col.STEP]) / handle.run.steps
        self.deadline.add_training(flops, row[col.ELAPSED_S] - known[col.ELAPSED_S])
        handle.last_row = row
        loss, step = row[col.VAL_LOSS], comparable_step(handle.run, row[col.STEP])
        early_stopping = self._early_stopping[handle.size]
        if math.isfinite(loss):
            early_stopping.report(handle.trial, loss, step)
        handle.message = divergence(row, handle.run.model.vocab_size)
        if handle.message is not None:
            handle.status = col.DIVERGED
        elif row[col.STEP] >= handle.run.steps:
            handle.status = col.COMPLETE
        elif early_stopping.should_stop(handle.trial, step):
            handle.status = col.PRUNED
        if math.isfinite(loss):
            handle.trial.report(loss, step)
        return handle.status

    def requeue(self, trial_id: str) -> None:
        """Put a running trial that lost its place at the head of the queue."""
        handle = self.live.pop(trial_id)
        handle.requeues += 1
        self._unfinished[handle.size].insert(0, handle)

    def fail(self, trial_id: str, message: str, error: str) -> None:
        """Note that a trial raised `error`, of which `message` is the line that names it; `end` tells the study."""
        handle = self.live[trial_id]
        handle.status, handle.message, handle.error = col.FAILED, message, error

    def end(self, trial_id: str) -> TrialHandle:
        """Tell the study how the trial ended, once. A trial that is still running was interrupted: nothing is told."""
        handle = self.live.pop(trial_id)
        if handle.status == col.RUNNING:
            return handle
        trial = handle.trial
        if handle.last_row is not None:
            last = {name: value for name, value in handle.last_row.items() if name in col.LAST_COLUMNS}
            trial.set_user_attr(col.LAST, finite_row(last))
        if handle.message is not None:
            trial.set_user_attr(col.MESSAGE, handle.message)
        trial.set_user_attr(col.STATUS, handle.status)
        if handle.status != col.FAILED:
            trial.set_constraint("diverged", 1.0 if handle.status == col.DIVERGED else 0.0)
        value = math.inf if handle.status == col.DIVERGED else None
        if handle.status == col.COMPLETE:
            assert handle.last_row is not None
            value = handle.last_row[col.VAL_LOSS]
            bisect.insort(self._complete[handle.size], (value, trial.number, handle.id))
        state = {col.FAILED: TrialState.FAIL, col.PRUNED: TrialState.PRUNED}.get(handle.status, TrialState.COMPLETE)
        self.studies[handle.size].tell(trial, value, state)
        self._early_stopping[handle.size].tell(trial, value, state)
        return handle

    def ranking(self, size: str) -> list[str]:
        """Ids of the complete trials of `size`, best first, without diverged ones."""
        return [trial_id for _, _, trial_id in self._complete[size]]

    @property
    def unfinished(self) -> int:
        """Trials in the queue that were handed out before, by this driver or an earlier one."""
        return sum(len(trials) for trials in self._unfinished.values())

    @property
    def best_losses(self) -> dict[str, tuple[float, str]]:
        """Lowest loss and its trial's id by size, for sizes with a complete trial."""
        return {size: (trials[0][0], trials[0][2]) for size, trials in self._complete.items() if trials}

    def best_run(self, size: str) -> RunSpec | None:
        """The run of the best complete trial of `size`, or None if there is none."""
        if not self._complete[size]:
            return None
        best = self.studies[size].get_trials(deepcopy=False)[self._complete[size][0][1]]
        return RunSpec.model_validate(best.user_attrs[col.RUN])

    def statuses(self) -> dict[str, str]:
        """Status by trial id of every trial that was handed out."""
        return {
            t.user_attrs[col.TRIAL]: t.user_attrs.get(col.STATUS, col.RUNNING)
            for study in self.studies.values()
            for t in study.get_trials(deepcopy=False)
            if col.TRIAL in t.user_attrs
        }


def _flops_left(handle: TrialHandle) -> float:
    """FLOPs of the updates that the trial has not reported yet."""
    step = 0 if handle.last_row is None else handle.last_row[col.STEP]
    return training_flops(handle.run) * (1 - step / handle.run.steps)


def finite_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with None in place of numbers that are not finite, which JSON does not have.

    >>> finite_row({"step": 25, "val_loss": math.nan})
    {'step': 25, 'val_loss': None}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _complete_trials(trials: list[FrozenTrial]) -> list[tuple[float, int, str]]:
    """Loss, number and id of the complete trials, best first; ties go to the earlier one."""
    return sorted(
        (t.values[0], t.number, t.user_attrs[col.TRIAL])
        for t in trials
        if t.state is TrialState.COMPLETE and t.user_attrs[col.STATUS] == col.COMPLETE
    )
