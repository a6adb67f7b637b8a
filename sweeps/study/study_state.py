"""One study of a sweep while it runs: its trials, what is left to ask for, and how its trials ended.

Counts and ranking are kept here, because listing a study's trials takes longer as it grows.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import spent_flops
from lmcore.reports import comparable_step
from lmcore.runfile.paths import apply
from sweeps.spec.arms import SEED_PATHS, StudyPlan
from sweeps.spec.cost import costliest
from sweeps.spec.settings import LISTED
from sweeps.spec.space import distributions
from sweeps.spec.start_with import start_settings
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.attributes import ENDED, run_attributes, set_attributes
from sweeps.study.distinct import TriedSettings
from sweeps.study.divergence import set_constraint
from sweeps.study.expected_share import study_ladder
from sweeps.study.next_size import NextRun, next_run
from sweeps.study.open_study import open_study
from sweeps.study.promotion import Promotion
from sweeps.study.retry import RETRY_OF, first_attempts
from sweeps.study.samplers import AskedTrial, complete_suggestion, sampler_for, suggest_conditional
from sweeps.study.schedulers import EarlyStopping, decides_between, step_in_study
from sweeps.study.shared_parts import share_parts
from sweeps.study.space_view import SpaceView
from sweeps.study.storage import running_trial
from sweeps.study.transfer import KnownTrials, Transfer
from sweeps.study.trial_handle import TrialHandle


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
    paused: dict[int, TrialHandle] = field(default_factory=dict)
    """Trials that wait at a rung, by number."""
    promotes: bool = True
    """Whether paused trials may go on."""
    fits: Callable[[TrialHandle], bool] = lambda handle: True
    """Whether there is time for the rest of a paused trial."""
    smaller: "Sequence[StudyState]" = ()
    """Studies of smaller sizes of the same arm, from which this one learns."""
    on_transfer: Callable[[str, Mapping[str, Any]], None] = lambda study, entry: None
    """Called with the id of the study and what smaller sizes predict, when it begins."""

    def __post_init__(self) -> None:
        confirms = self.plan.phase == col.CONFIRM
        self.study = open_study(self.spec, self.plan, self.storage)
        # Experiments search nothing: their overrides are in the config, under the experiment's name.
        searches = self.spec.search.method != "experiments" and not confirms
        self._layout = self.spec.study_layout(self.plan)
        proposed = distributions(self.spec.searched) if searches else {}
        names = {*self._layout.searched, *self._layout.conditional}  # without those that apply in no trial of the study
        self._space = {name: distribution for name, distribution in proposed.items() if name in names}
        self._always = {name: self._space[name] for name in self._layout.searched if name in self._space}
        self._starts = start_settings(self.spec, self.plan) if searches else []
        self._tried: TriedSettings | None = None
        """What was tried of the space; None if trials are listed and not proposed."""
        if searches and self.spec.search.method not in LISTED:
            reserved = [values for values in self._starts if self._layout.complete(values)]
            self._tried = TriedSettings(self._space, reserved, self._layout)
        self._running: set[int] = set()  # numbers of the trials that have not ended
        self._told: list[optuna.Trial] = []  # since Optuna last read the study
        self._model: FrozenTrial | None = None  # an ended trial, which lends its parts to the others
        trials = self.study.get_trials(deepcopy=False)
        view = SpaceView(self._layout)
        # Only of a study whose space has changed.
        self._view = view if searches and not view.shows_all(trials) else None
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
        self._repeated = sum(col.SAME_AS in trial.user_attrs and trial.state.is_finished() for trial in trials)
        self.trial_flops = spent_flops(costliest(self.spec, self.plan.size))
        """FLOPs of its most expensive trial."""
        last_steps = {t.number: step_in_study(t, self._last_row(t.number).get(col.STEP, 0)) for t in trials}
        self.early_stopping = EarlyStopping(self.study, last_steps)
        self.promotion = self._promotion(trials, last_steps)
        for trial in trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._note_tried(trial.number)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._resume_trial(trial)
        self._repeat_results()

    def _promotion(self, trials: list[FrozenTrial], last_steps: Mapping[int, int]) -> Promotion | None:
        """The rungs of the study; None if its scheduler pauses no trials."""
        ladder = study_ladder(self.spec, self.plan.size)
        if ladder is None or self.plan.phase == col.CONFIRM:
            return None
        trained = [trial for trial in trials if col.SAME_AS not in trial.user_attrs]
        started = [trial for trial in trained if trial.state is not TrialState.WAITING]
        return Promotion(ladder, started, last_steps, [trial.number for trial in started if self._is_paused(trial)])

    def _is_paused(self, trial: FrozenTrial) -> bool:
        """Whether an earlier driver left the trial paused. One whose row was not written reports that step again."""
        paused_at, last_row = trial.user_attrs.get(col.PAUSED_AT), self._last_row(trial.number)
        running = trial.state is TrialState.RUNNING and col.STATUS not in trial.user_attrs
        return running and paused_at is not None and last_row.get(col.STATUS) == col.PAUSED

    def _resume_trial(self, frozen: FrozenTrial) -> None:
        """Sort a trial that an earlier driver left RUNNING: its last row may have paused or ended it; else queue it."""
        self._seed_sampler(frozen.number)
        trial = running_trial(self.study, self.storage, frozen.number)
        # With a run its setting is settled, also if the space has changed since.
        if self._space and col.RUN not in frozen.user_attrs:
            if not self._layout.knows(frozen.params):  # it had not begun, and nobody knows what the label stood for
                self.study.tell(trial, state=TrialState.FAIL)
                return
            complete_suggestion(trial, self._space, self._layout)
        handle = self._handle(trial)
        if self._last_row(frozen.number) == {} and (first := self._first_like(handle)) is not None:
            self._repeat_result(handle, first)  # the earlier driver was killed while it did this
            return
        self._note_running(handle)
        handle.last_row = self._last_row(frozen.number) or None
        handle.status = frozen.user_attrs.get(col.STATUS, (handle.last_row or {}).get(col.STATUS, col.RUNNING))
        handle.message = frozen.user_attrs.get(col.MESSAGE)
        if self.promotion is not None:
            self.promotion.start(trial)
        if self._is_paused(frozen):
            handle.paused_at = frozen.user_attrs[col.PAUSED_AT]
            self.paused[frozen.number] = handle
        elif handle.status in col.UNFINISHED:  # one that was promoted is running, whatever its last row says
            handle.status = col.RUNNING
            self.unfinished.append(handle)
        else:
            self.ended.append(handle)

    def _seed_sampler(self, number: int) -> None:
        if self.plan.phase == col.CONFIRM:
            return  # nothing is proposed there
        # Arms of a size have the same seeds, so their spread trials have the same settings and compare fairly.
        asked = AskedTrial(
            self.plan.size,
            number,
            self.spec.startup_trials(self.plan),
            len(self._starts),
            dynamic=bool(self._layout.conditional),
        )
        sampler = sampler_for(self.spec.search, asked, self._space, self._tried, self._layout)
        self.study.sampler = sampler if self._view is None else self._view.sampler(sampler)

    def _last_row(self, number: int) -> Row:
        return self.last_rows.get(col.trial_id(self.plan.id, number), {})

    @property
    def left(self) -> bool:
        """Whether there is a trial to ask for now."""
        return bool(self.unfinished) or self._next_paused is not None or not self._all_asked

    @property
    def waits(self) -> bool:
        """Whether its next trials get the results of trials that run: every setting of the space was tried."""
        return self.asked < self.total and self._all_tried

    @property
    def repeated(self) -> str:
        """How many trials were not trained, as their setting was tried before, in a line; empty if none."""
        if not self._repeated:
            return ""
        return f"{self.plan.id}: every setting was tried; {self._repeated} trials have the result of an earlier one"

    @property
    def _all_asked(self) -> bool:
        """Whether no new setting is left to ask for."""
        return self.asked >= self.total or self._all_tried

    @property
    def _all_tried(self) -> bool:
        return self._tried is not None and self._tried.exhausted

    @property
    def settled(self) -> int:
        """Number of trials that have ended or are paused."""
        return self.asked - len(self._running) + len(self.paused)

    @property
    def asks_for_more(self) -> bool:
        """Whether it has new settings left to ask for."""
        return not self._all_asked

    @property
    def asks_for_new(self) -> bool:
        """Whether the next trial to ask for is a new one."""
        return not self.unfinished and self._next_paused is None

    @property
    def _next_paused(self) -> TrialHandle | None:
        """The paused trial that is to go on before new ones are asked for, if any is."""
        if self.promotion is None or not self.paused or not self.promotes:
            return None
        numbers = self.promotion.promotable
        if self._all_asked:
            numbers += self.promotion.spare(finished=bool(self.complete))
        return next((handle for number in numbers if self.fits(handle := self.paused[number])), None)

    def has_reached(self, target: float | None) -> bool:
        """Whether a complete trial has a loss of at most `target`; False for None."""
        return target is not None and bool(self.complete) and self.complete[0][0] <= target

    def close(self, why: str) -> None:
        """Ask for no more new trials."""
        self.total, self.closed = self.asked, why

    def in_order_of_promise(self) -> list[TrialHandle]:
        """The paused trials, in the order in which they would go on.

        A scheduler that pauses none, which a resume may choose, leaves those that are paused as they are.
        """
        numbers = sorted(self.paused) if self.promotion is None else self.promotion.paused
        return [self.paused[number] for number in numbers]

    def ask(self) -> TrialHandle:
        """The next trial; unfinished ones come first, then paused ones that are promoted."""
        if self.unfinished:
            return self.unfinished.pop(0)
        if (handle := self._next_paused) is not None:
            return self._promote(handle)
        handle = self._ask()
        self._note_running(handle)
        return handle

    @property
    def known_trials(self) -> KnownTrials:
        """Its trials, for sizes that learn from them."""
        trials = self.study.get_trials(deepcopy=False)
        return KnownTrials.of(self.spec.arm_run(self.plan), trials if self._view is None else self._view.of(trials))

    def _has_tried(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial has this setting; one that leaves something open has not been tried."""
        whole = all(name in values or one.single() for name, one in self._space.items())
        return self._tried is not None and whole and values in self._tried

    def next_run(self) -> NextRun | None:
        """The size after this one, if this is the largest, at the settings that all sizes predict."""
        known = [state.known_trials for state in (*self.smaller, self)]
        return next_run(self.spec, self.plan, self._space, known)

    def _enqueue_transferred(self) -> None:
        """Enqueue the setting that smaller sizes predict for the next trial, if they do."""
        number = self.asked - len(self._starts)
        if not self.smaller or not self._space or number < 0 or self._tried is None:
            return
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return  # retried, or enqueued by a driver that was killed before it asked
        own, smaller = self.known_trials, [state.known_trials for state in self.smaller]
        transfer = Transfer(self._space, self.spec.arm_run(self.plan).model.parametrization == "mup")
        proposal = transfer.propose(number, smaller, own, self._has_tried, self.spec.search.seed)
        if proposal is None:
            return
        if col.TRANSFER not in self.study.user_attrs:
            entry = transfer.described(smaller, own, [state.plan.id for state in self.smaller])
            assert entry is not None  # as there is a proposal
            self.study.set_user_attr(col.TRANSFER, entry)
            self.on_transfer(self.plan.id, entry)
        self.study.enqueue_trial(proposal.values, user_attrs={col.TRANSFER: proposal.kind})

    def _ask(self) -> TrialHandle:
        self._enqueue_transferred()
        self._seed_sampler(self.asked)
        trial = self.study.ask(self._always)
        if self._space:
            suggest_conditional(trial, self._space, self._layout)
        handle = self._handle(trial)
        while self._told:  # which Optuna has read while it was asked
            told = self._told.pop()
            self._share_parts(told.storage.get_trial(told._trial_id))
        self.early_stopping.start(handle.trial)
        if self.promotion is not None:
            self.promotion.start(handle.trial)
        self.asked += 1
        return handle

    def decide(self, handle: TrialHandle, row: Row, ended: bool) -> str:
        """Whether a trial goes on after a row: running, paused or pruned. The decision is in the study on return.

        If the trial has `ended` with the row, nothing is decided, but others are compared with its loss.
        """
        trial, loss, step = handle.trial, row[col.VAL_LOSS], comparable_step(handle.run, row[col.STEP])
        goes_on = self.promotion is None or self.promotion.report(trial.number, loss, step)
        if math.isfinite(loss):
            self.early_stopping.report(trial, loss, step)
        if ended:
            return col.RUNNING
        # It may have been paused here by a driver that was killed before it had written the row.
        paused = self.promotion is not None and trial.user_attrs.get(col.PAUSED_AT) == row[col.STEP]
        if not (goes_on or paused):
            trial.set_user_attr(col.PAUSED_AT, row[col.STEP])
            paused = True
        if paused:
            handle.paused_at = row[col.STEP]
            return col.PAUSED
        return col.PRUNED if self.early_stopping.should_stop(trial, step) else col.RUNNING

    def decides_at(self, handle: TrialHandle, before: int, step: int) -> bool:
        """Whether a trial may not go on after its report at `step`, the one after that at `before`."""
        if handle.trial.user_attrs.get(col.PAUSED_AT) == step:
            return True
        steps = (comparable_step(handle.run, before) if before else 0), comparable_step(handle.run, step)
        if self.promotion is not None and self.promotion.decides_between(handle.trial.number, *steps):
            return True
        return decides_between(self.study.pruner, *steps)

    def pause(self, handle: TrialHandle) -> None:
        """Keep a trial that waits at a rung; its slot is free."""
        assert self.promotion is not None
        self.promotion.pause(handle.trial.number)
        self.paused[handle.trial.number] = handle

    def _promote(self, handle: TrialHandle) -> TrialHandle:
        """Let a paused trial go on."""
        assert self.promotion is not None
        handle.trial.set_user_attr(col.PAUSED_AT, None)
        handle.status, handle.paused_at = col.RUNNING, None
        self.promotion.resume(handle.trial.number)
        return self.paused.pop(handle.trial.number)

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
        self._tell(handle, value, state)
        self._running.discard(handle.trial.number)
        setting = self._setting_of(handle.trial.number) if state is TrialState.FAIL else None
        if self._tried is not None and setting is not None:
            self._tried.remove(handle.trial.number, setting)
        self._repeat_results()

    def _tell(self, handle: TrialHandle, value: float | None, state: TrialState) -> None:
        self.study.tell(handle.trial, value, state)
        self._told.append(handle.trial)
        self.early_stopping.tell(handle.trial, value, state)
        if self.promotion is not None:
            step = 0 if handle.last_row is None else comparable_step(handle.run, handle.last_row[col.STEP])
            self.promotion.end(handle.trial.number, step)

    def _note_running(self, handle: TrialHandle) -> None:
        self._running.add(handle.trial.number)
        self._note_tried(handle.trial.number)

    def _note_tried(self, number: int) -> None:
        if self._tried is not None and (setting := self._setting_of(number)) is not None:
            self._tried.add(number, setting)

    def _setting_of(self, number: int) -> dict[str, Any] | None:
        """The setting of a trial in the present space; None if it does not lie there."""
        trial = self.study.get_trials(deepcopy=False)[number]
        return dict(trial.params) if self._view is None else self._view.params_of(trial)

    def _repeat_results(self) -> None:
        """Once every setting of the space was tried, give the trials that are left the results of those like them."""
        if not self.waits or self._running:
            return
        if self.spec.as_many_as_fit:
            self.close(f"{self.plan.id}: every setting of the space was tried")
            return
        while self.waits:
            handle = self._ask()
            first = self._first_like(handle)
            assert first is not None  # nothing runs, and what failed was not tried
            self._repeat_result(handle, first)

    def _first_like(self, handle: TrialHandle) -> FrozenTrial | None:
        """The first of the ended trials before this one that have its setting; None for a trial that is retried."""
        if self._tried is None or (RETRY_OF in handle.trial.user_attrs and not self._all_tried):
            return None
        setting = self._setting_of(handle.trial.number)
        number = None if setting is None else self._tried.first(setting, before=handle.trial.number)
        if number is None or number in self._running:
            return None
        return self.study.get_trials(deepcopy=False)[number]

    def _repeat_result(self, handle: TrialHandle, first: FrozenTrial) -> None:
        """End a trial, which is not trained, as the one with the same setting and seeds ended."""
        trial = handle.trial
        trial.set_user_attr(col.SAME_AS, first.user_attrs.get(col.SAME_AS, first.user_attrs[col.TRIAL]))
        set_attributes(trial, {name: first.user_attrs[name] for name in ENDED if name in first.user_attrs})
        handle.status = first.user_attrs[col.STATUS]
        set_constraint(trial, handle.status == col.DIVERGED)
        for step, loss in first.intermediate_values.items():
            trial.report(loss, step)
        self._repeated += 1
        self._tell(handle, first.values[0] if first.state is TrialState.COMPLETE else None, first.state)

    def _share_parts(self, trial: FrozenTrial) -> None:
        if trial.state.is_finished():
            self._model = self._model or trial
            share_parts(trial, self._model)

    def run_of(self, trial_id: str) -> RunSpec:
        """The run of one of this study's trials."""
        return RunSpec.model_validate(self._frozen(trial_id).user_attrs[col.RUN])

    def experiment_of(self, trial_id: str) -> str | None:
        """The experiment of one of this study's trials."""
        experiment: str | None = self._frozen(trial_id).user_attrs.get(col.EXPERIMENT)
        return experiment

    def _frozen(self, trial_id: str) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[int(trial_id.rpartition("-")[2])]

    def _handle(self, trial: optuna.Trial) -> TrialHandle:
        """The handle of a trial. Writes its id, run and parameter counts to the study."""
        of, experiment = trial.user_attrs.get(col.OF), trial.user_attrs.get(col.EXPERIMENT)
        if of is not None and self.repeats is not None:
            # The run that was trained, not its proposal: the space may have changed since then.
            run = apply(self.repeats.run_of(of), dict.fromkeys(SEED_PATHS, trial.user_attrs[col.CONFIRM_SEED]))
        elif col.RUN in trial.user_attrs and self._view is not None:
            run = RunSpec.model_validate(trial.user_attrs[col.RUN])  # asked for in another space
        else:
            proposed = self.spec.experiment(experiment) if experiment else self._layout.overrides(trial.params)
            run = self.spec.run_for(self.plan.size, {**self.plan.arm.overrides, **proposed})
        handle = TrialHandle(col.trial_id(self.plan.id, trial.number), self.plan, experiment, of, run, trial)
        known = trial.user_attrs  # of a trial of an earlier driver, whose version may not have written all of them
        attributes = run_attributes(handle.id, self.plan, experiment, run)
        if missing := {name: value for name, value in attributes.items() if name not in known}:
            set_attributes(trial, missing)
        return handle


def _complete_trials(trials: list[FrozenTrial]) -> list[tuple[float, int, str]]:
    """Loss, number and id of the complete trials that were trained, best first; ties go to the earlier one."""
    return sorted(
        (t.values[0], t.number, t.user_attrs[col.TRIAL])
        for t in trials
        if t.state is TrialState.COMPLETE
        and t.user_attrs[col.STATUS] == col.COMPLETE
        and col.SAME_AS not in t.user_attrs
    )
