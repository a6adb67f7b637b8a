"""One study of a sweep while it runs: its trials, what is left to ask for, and how its trials ended.

Counts and ranking are kept here, because listing a study's trials takes longer as it grows.
"""

import bisect
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
from sweeps.spec.arms import SEED_PATHS, StudyPlan
from sweeps.spec.cost import costliest
from sweeps.spec.space import distributions
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.open_study import open_study
from sweeps.study.retry import first_attempts
from sweeps.study.samplers import complete_suggestion, sampler_for, suggest_conditional
from sweeps.study.schedulers import EarlyStopping, step_in_study
from sweeps.study.shared_parts import share_parts
from sweeps.study.storage import running_trial


@dataclass
class TrialHandle:
    """A live trial: the ledger has handed it out and not yet told the study how it ended.

    Example:
        trial = ledger.ask("xs")
        trial.id, trial.run.optim.lr, trial.status  # ("xs-0003", 0.0071, "running")
    """

    id: str
    plan: StudyPlan
    experiment: str | None
    of: str | None  # of a confirmation run: the search trial whose setting it repeats
    run: RunSpec
    trial: optuna.Trial
    last_row: Row | None = None
    status: str = col.RUNNING
    message: str | None = None  # why it diverged or failed, in one line
    error: str | None = None  # the whole text of the error that it failed with
    requeues: int = 0  # how often it went back to the queue

    @property
    def size(self) -> str:
        """Its model size."""
        return self.plan.size

    @property
    def name(self) -> str:
        """The id, followed by the experiment's name, or by the trial that it repeats."""
        note = " ".join(filter(None, (self.experiment, f"of {self.of}" if self.of else None)))
        return f"{self.id} {note}" if note else self.id


@dataclass
class StudyState:
    """A study, opened or created.

    Args:
        spec: the sweep.
        plan: which of its studies.
        last_rows: on resume, each trial's last row from metrics.jsonl.

    Example:
        state = StudyState(spec, spec.studies[0], storage, {})
        handle = state.ask()
    """

    spec: SweepSpec
    plan: StudyPlan
    storage: optuna.storages.BaseStorage
    last_rows: Mapping[str, Row]
    repeats: "StudyState | None" = None
    """The search study whose settings this one repeats; None unless it is a confirmation study."""
    unfinished: list[TrialHandle] = field(default_factory=list)
    """Trials in the queue that were handed out before, by this driver or an earlier one."""
    ended: list[TrialHandle] = field(default_factory=list)
    """Trials whose last row had ended them, but whose study was not told; for the ledger to end."""

    def __post_init__(self) -> None:
        confirms = self.plan.phase == col.CONFIRM
        self.study = open_study(self.spec, self.plan, self.storage)
        # Experiments search nothing: their overrides are in the config, under the experiment's name.
        searches = self.spec.search.method != "experiments" and not confirms
        self._layout = self.spec.study_layout(self.plan)
        self._space = distributions(self.spec.searched) if searches else {}
        self._always = {name: self._space[name] for name in self._layout.searched if name in self._space}
        self._told: list[optuna.Trial] = []  # since Optuna last read the study
        self._model: FrozenTrial | None = None  # an ended trial, which lends its parts to the others
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            self._share_parts(trial)
        self.asked = sum(trial.state is not TrialState.WAITING for trial in trials)
        self.excluded = sum(trial.user_attrs.get(col.STATUS) == col.EXCLUDED for trial in trials)
        """How many of its trials the user has excluded. They count as asked for."""
        attempts = len(trials) - len(first_attempts(trials))
        self.total = len(trials) if confirms else max(self.asked, self.spec.trials_in(self.plan) + attempts)
        self.complete = _complete_trials(trials)
        self.closed = ""
        """Why the study ends before it has all its trials, in a line; empty if it does not."""
        self.trial_flops = training_flops(costliest(self.spec, self.plan.size))
        """FLOPs of its most expensive trial."""
        last_steps = {t.number: step_in_study(t, self._last_row(t.number).get(col.STEP, 0)) for t in trials}
        self.early_stopping = EarlyStopping(self.study, last_steps)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._resume_trial(trial)

    def _resume_trial(self, frozen: FrozenTrial) -> None:
        """Sort a trial that an earlier driver left RUNNING: its last row may have ended it, else it is queued."""
        self._seed_sampler(frozen.number)
        trial = running_trial(self.study, self.storage, frozen.number)
        if self._space:
            complete_suggestion(trial, self._space, self._layout)
        handle = self._handle(trial)
        handle.last_row = self._last_row(frozen.number) or None
        handle.status = frozen.user_attrs.get(col.STATUS, (handle.last_row or {}).get(col.STATUS, col.RUNNING))
        handle.message = frozen.user_attrs.get(col.MESSAGE)
        (self.unfinished if handle.status == col.RUNNING else self.ended).append(handle)

    def _seed_sampler(self, number: int) -> None:
        if self.plan.phase == col.CONFIRM:
            return  # nothing is proposed there
        # Arms of a size have the same seeds, so their random trials have the same settings and compare fairly.
        startup = self.spec.startup_trials(self.plan)
        self.study.sampler = sampler_for(self.spec.search, self.plan.size, number, startup)

    def _last_row(self, number: int) -> Row:
        return self.last_rows.get(col.trial_id(self.plan.id, number), {})

    @property
    def left(self) -> bool:
        """Whether there is a trial to ask for now."""
        return bool(self.unfinished) or self.asked < self.total

    def has_reached(self, target: float | None) -> bool:
        """Whether a complete trial has a loss of at most `target`; False for None."""
        return target is not None and bool(self.complete) and self.complete[0][0] <= target

    def close(self, why: str) -> None:
        """Ask for no more new trials."""
        self.total, self.closed = self.asked, why

    def ask(self) -> TrialHandle:
        """The next trial; unfinished ones come first."""
        if self.unfinished:
            return self.unfinished.pop(0)
        self._seed_sampler(self.asked)
        trial = self.study.ask(self._always)
        if self._space:
            suggest_conditional(trial, self._space, self._layout)
        handle = self._handle(trial)
        while self._told:  # which Optuna has read while it was asked
            told = self._told.pop()
            self._share_parts(told.storage.get_trial(told._trial_id))
        self.early_stopping.start(handle.trial)
        self.asked += 1
        return handle

    def enqueue(self, candidate: str, experiment: str | None, seed: int) -> None:
        """Add a confirmation run: the setting of this search trial under this seed."""
        attributes = {col.OF: candidate, col.CONFIRM_SEED: seed, **({col.EXPERIMENT: experiment} if experiment else {})}
        self.study.enqueue_trial({}, user_attrs=attributes)
        self.total += 1

    def tell(self, handle: TrialHandle, value: float | None, state: TrialState) -> None:
        """Tell the study how a trial ended. `value` is its loss, if it has one."""
        if handle.status == col.COMPLETE:
            assert value is not None
            bisect.insort(self.complete, (value, handle.trial.number, handle.id))
        self.study.tell(handle.trial, value, state)
        self._told.append(handle.trial)
        self.early_stopping.tell(handle.trial, value, state)

    def _share_parts(self, trial: FrozenTrial) -> None:
        if trial.state.is_finished():
            self._model = self._model or trial
            share_parts(trial, self._model)

    def run_of(self, trial_id: str) -> RunSpec:
        """The run of one of this study's trials."""
        return RunSpec.model_validate(self._frozen(trial_id).user_attrs[col.RUN])

    def _frozen(self, trial_id: str) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[int(trial_id.rpartition("-")[2])]

    def _handle(self, trial: optuna.Trial) -> TrialHandle:
        """The handle of a trial. Writes its id, run and parameter counts to the study."""
        of, experiment = trial.user_attrs.get(col.OF), trial.user_attrs.get(col.EXPERIMENT)
        params = dict(trial.params) if of is None or self.repeats is None else self.repeats.params_of(of)
        proposed = self.spec.experiment(experiment) if experiment else self._layout.overrides(params)
        overrides = {**self.plan.arm.overrides, **proposed}
        if of is not None:
            overrides |= dict.fromkeys(SEED_PATHS, trial.user_attrs[col.CONFIRM_SEED])
        run = self.spec.run_for(self.plan.size, overrides)
        handle = TrialHandle(col.trial_id(self.plan.id, trial.number), self.plan, experiment, of, run, trial)
        if col.COUNTS not in trial.user_attrs:
            # Few and large attributes: each is a transaction of its own, some milliseconds with SQLite.
            trial.set_user_attr(col.TRIAL, handle.id)
            trial.set_user_attr(col.RUN, run.model_dump())
            counts = count_parameters(run.model)
            values = estimate_parameters(run.model), counts.total, counts.non_embedding, flops_per_token(run.model)
            trial.set_user_attr(col.COUNTS, dict(zip(col.COUNT_COLUMNS, values, strict=True)))
        return handle

    def params_of(self, trial_id: str) -> dict[str, Any]:
        """What the search proposed for one of its trials, by dotted path."""
        return dict(self._frozen(trial_id).params)


def _complete_trials(trials: list[FrozenTrial]) -> list[tuple[float, int, str]]:
    """Loss, number and id of the complete trials, best first; ties go to the earlier one."""
    return sorted(
        (t.values[0], t.number, t.user_attrs[col.TRIAL])
        for t in trials
        if t.state is TrialState.COMPLETE and t.user_attrs[col.STATUS] == col.COMPLETE
    )
