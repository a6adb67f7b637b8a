"""The ledger of a sweep: its Optuna studies, and the only code that reads or writes them.

The studies are the sweep's only memory. Each size and arm has one for its search (`sweeps.study.study_state`) and, if
the sweep confirms its results, one for that (`sweeps.study.confirmation`). What Optuna is told about a trial:

| status   | Optuna state | value                                                                     |
|----------|--------------|---------------------------------------------------------------------------|
| running  | RUNNING      | none yet; a trial that was interrupted stays RUNNING and is resumed       |
| paused   | RUNNING      | none yet; the attribute `paused_at` is the step at which the trial waits  |
| complete | COMPLETE     | the final validation loss (`lmcore.columns.quoted_loss`)                  |
| pruned   | PRUNED       | none is told; Optuna shows the last intermediate value                    |
| diverged | COMPLETE     | +inf, with the constraint `diverged` violated: samplers learn to stay away |
| failed   | FAIL         | none; the error message is an attribute                                   |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import spent_flops
from lmcore.reports import comparable_step
from lmcore.runfile.paths import FieldError
from sweeps.spec.arms import StudyPlan
from sweeps.spec.duration import show_duration
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.attributes import end_attributes, note_branches, set_attributes
from sweeps.study.confirmation import Confirmation
from sweeps.study.deadline import Deadline
from sweeps.study.divergence import divergence, set_constraint
from sweeps.study.next_size import NextRun
from sweeps.study.study_state import StudyState
from sweeps.study.transfer import ENOUGH, describe_transfer
from sweeps.study.trial_handle import TrialHandle


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
    on_given_up: Callable[[TrialHandle], None] = lambda trial: None
    """Called for each paused trial that will not go on, before the study is told that it is pruned."""

    on_transfer: Callable[[str], None] = lambda line: None
    """Called with a line about what a size takes over from smaller ones, when it begins."""

    def __post_init__(self) -> None:
        spec = self.spec
        self._no_next = False  # whether it was said that there is no next size
        self._interrupted = False  # a trial that was interrupted is neither live nor left, and its search not over
        self._opened = False
        self.studies: dict[str, StudyState] = {}
        """By id of the study: those of the search, then those of the confirmation."""
        for plan in spec.studies:
            self.studies[plan.id] = StudyState(spec, plan, self.storage, self.last_rows)
        for plan in spec.confirmations:
            search = self.studies[plan.group]
            self.studies[plan.id] = StudyState(spec, plan, self.storage, self.last_rows, search)
        self._confirmations: dict[str, Confirmation] = {}
        if spec.confirm.top:
            for size in spec.size_names:
                pairs = [(self._of(plan), self._of(plan.confirmation)) for plan in spec.studies if plan.size == size]
                searches, confirms = zip(*pairs, strict=True)
                experiments = spec.search.method == "experiments"
                self._confirmations[size] = Confirmation(
                    searches, confirms, spec.confirm.top, spec.confirm_seeds, experiments
                )
        if spec.transfers:
            for plan in spec.studies:
                same_arm = [one for one in spec.studies if one.arm == plan.arm]
                self._of(plan).smaller = [self._of(one) for one in same_arm[: same_arm.index(plan)]]
                self._of(plan).on_transfer = lambda study, entry: self.on_transfer(describe_transfer(study, entry))
        for state in self.studies.values():
            state.fits = self._fits
            for handle in state.ended:
                if handle.message is None and handle.last_row is not None:
                    handle.message = divergence(handle.last_row, handle.run.model.vocab_size)
                self.live[handle.id] = handle
        for trial_id in tuple(self.live):
            self.end(trial_id)
        for size, confirmation in self._confirmations.items():
            if any(state.left or state.paused for state in self._states(size, col.SEARCH)):
                confirmation.reopen()
            self._confirm(size)
        self._opened = True

    def _of(self, plan: StudyPlan) -> StudyState:
        return self.studies[plan.id]

    def _states(self, size: str, phase: str) -> list[StudyState]:
        return [state for state in self.studies.values() if (state.plan.size, state.plan.phase) == (size, phase)]

    def _confirm(self, size: str) -> None:
        """Once the search of a size is over, enqueue the confirmation runs that its results ask for."""
        if (
            self._interrupted
            or size not in self._confirmations
            or any(state.left or state.paused for state in self._states(size, col.SEARCH))
        ):
            return
        if not any(live.size == size and live.plan.phase == col.SEARCH for live in self.live.values()):
            self._confirmations[size].advance()

    def _close_studies(self) -> None:
        """End the search of studies that reached search.stop_at, or that have no time left for another trial."""
        search = self.spec.search
        if search.time is None and search.stop_at is None:
            return
        for plan in self.spec.studies:
            state = self._of(plan)
            if state.has_reached(search.stop_at):
                state.promotes = False
            if state.unfinished or state.asked >= state.total:
                continue
            if state.has_reached(search.stop_at):
                state.close(f"{plan.id}: the target was reached, search.stop_at {search.stop_at:g}")
            elif not self.deadline.fits(state.trial_flops, self._live_flops(), self._reserved()):
                limit = show_duration(search.time or 0)
                state.close(f"{plan.id}: one more trial would not have finished within search.time, {limit}")
            else:
                continue
            self._confirm(plan.size)

    def _fits(self, handle: TrialHandle) -> bool:
        """Whether the rest of a paused trial could be trained within search.time."""
        return self.deadline.fits(handle.flops_left, self._live_flops(), self._reserved())

    def _live_flops(self) -> list[float]:
        return [handle.flops_left for handle in self.live.values()]

    def _end_searches(self) -> None:
        """Give up the paused trials of each study whose search is over: they are pruned."""
        for plan in self.spec.studies:
            state = self._of(plan)
            live = any(handle.plan == plan for handle in self.live.values())
            if not state.paused or not self._opened or self._interrupted or live or state.left:
                continue
            # The least promising first: if the driver is killed meanwhile, what is left still has no place in the
            # budget, and the next driver decides the same.
            for handle in reversed(state.in_order_of_promise()):
                handle.status = col.PRUNED
                self.on_given_up(handle)
                del state.paused[handle.trial.number]
                self._tell(handle)
            self._confirm(plan.size)

    def _reserved(self) -> float:
        """FLOPs that the confirmation still needs at most, beside its runs that are live."""
        flops = 0.0
        for plan in self.spec.confirmations:
            state, search = self._of(plan), self._of(StudyPlan(plan.size, plan.arm))
            runs = self.spec.confirm.seeds * (
                search.asked + 1 if self.spec.search.method == "experiments" else self.spec.confirm.top
            )
            flops += max(0, runs - (state.asked - state.excluded)) * search.trial_flops
        return flops

    def why_stopped(self) -> list[str]:
        """Why studies trained fewer trials than search.trials says, a line each."""
        return [line for state in self.studies.values() for line in (state.closed, state.repeated) if line]

    @property
    def sizes_left(self) -> list[str]:
        """Sizes with trials to ask for now: those with unfinished trials, or else all, least asked first.

        Where sizes learn from smaller ones, smaller ones come first, and those that know too little yet are left out.
        """
        self._close_studies()
        self._end_searches()
        sizes = {
            size: [s for s in self.studies.values() if s.plan.size == size and s.left] for size in self.spec.size_names
        }
        unfinished = [size for size, states in sizes.items() if any(state.unfinished for state in states)]
        left = [size for size, states in sizes.items() if states]
        if self.spec.transfers:
            return unfinished or [size for size in left if self._may_begin(size)]
        return unfinished or sorted(left, key=self._asked)

    def _may_begin(self, size: str) -> bool:
        """Whether all smaller sizes have handed out their trials, and have enough results to learn from.

        So slots that the last trials of a size leave free are not idle.
        """
        for plan in self.spec.studies[: len(self.spec.arms) * self.spec.size_names.index(size)]:
            state = self._of(plan)
            trains = state.left or state.paused or any(live.plan == plan for live in self.live.values())
            if trains and (state.asks_for_more or not state.complete or state.settled < ENOUGH):
                return False
        return True

    def _waiting_sizes(self) -> bool:
        """Whether there are sizes that wait for results of smaller ones."""
        return self.spec.transfers and any(
            self._of(plan).left and not self._may_begin(plan.size) for plan in self.spec.studies
        )

    def _asked(self, size: str) -> int:
        return sum(state.asked for state in self.studies.values() if state.plan.size == size)

    @property
    def more_may_come(self) -> bool:
        """Whether the trials that are running may be followed by others: a search that pauses trials or waits
        for results to repeat, or the confirmation, is not over."""
        pausing = [state for state in self.studies.values() if state.promotion is not None]
        waiting = any(state.waits for state in self.studies.values())
        if (
            waiting
            or (self.live and self._waiting_sizes())
            or any(state.paused or any(live.plan == state.plan for live in self.live.values()) for state in pausing)
        ):
            return True
        return not all(confirmation.over for confirmation in self._confirmations.values())

    @property
    def over(self) -> bool:
        """Whether all trials have ended, and no others will follow."""
        return not self.sizes_left and not self.live and not self.more_may_come

    def ask(self, size: str) -> TrialHandle:
        """The next trial of a size in `sizes_left`: unfinished trials first, then paused ones, then arms by turns."""

        def rank(state: StudyState) -> tuple[bool, bool, bool, int]:
            return not state.unfinished, state.plan.phase == col.CONFIRM, state.asks_for_new, state.asked

        left = [state for state in self.studies.values() if state.plan.size == size and state.left]
        state = min(left, key=rank)
        handle = state.ask()
        self.live[handle.id] = handle
        return handle

    def report(self, trial_id: str, row: Row) -> str:
        """Take a trial's report row and return its status from now on; anything but running means: stop it."""
        handle = self.live[trial_id]
        known = handle.last_row or {col.STEP: 0, col.ELAPSED_S: 0.0}
        flops = spent_flops(handle.run, row[col.STEP]) - spent_flops(handle.run, known[col.STEP])
        self.deadline.add_training(flops, row[col.ELAPSED_S] - known[col.ELAPSED_S])
        handle.last_row = row
        if row.get(col.BRANCHES):
            note_branches(handle.trial, row[col.BRANCHES])
        handle.message = divergence(row, handle.run.model.vocab_size)
        if handle.message is not None:
            handle.status = col.DIVERGED
        elif row[col.STEP] >= handle.run.steps:
            handle.status = col.COMPLETE
        ended = handle.status != col.RUNNING
        decided = self._of(handle.plan).decide(handle, row, ended)
        handle.status = handle.status if ended else decided
        if math.isfinite(row[col.VAL_LOSS]):
            handle.trial.report(row[col.VAL_LOSS], comparable_step(handle.run, row[col.STEP]))
        return handle.status

    def decides_at(self, trial_id: str, before: int, step: int) -> bool:
        """Whether the scheduler may stop or pause a live trial at its report after update `step`, the one after that
        of `before`. Trials that diverge or are complete are not the scheduler's."""
        handle = self.live[trial_id]
        return self._of(handle.plan).decides_at(handle, before, step)

    def status(self, trial_id: str) -> str | None:
        """A live trial's status; None once it has ended."""
        return self.live[trial_id].status if trial_id in self.live else None

    def requeue(self, trial_id: str) -> None:
        """Put a running trial that lost its place at the head of the queue."""
        handle = self.live.pop(trial_id)
        handle.requeues += 1
        self._of(handle.plan).unfinished.insert(0, handle)

    def fail(self, trial_id: str, message: str, error: str) -> None:
        """Note that a trial raised `error`, of which `message` is the line that names it; `end` tells the study."""
        handle = self.live[trial_id]
        handle.status, handle.message, handle.error = col.FAILED, message, error

    def end(self, trial_id: str) -> TrialHandle:
        """Tell the study how the trial ended, once. A paused trial has left its slot and waits: nothing is told.

        A trial that is still running was interrupted: nothing is told, either.
        """
        handle = self.live.pop(trial_id)
        if handle.status == col.RUNNING:
            self._interrupted = True
            return handle
        if handle.status == col.PAUSED:
            self._of(handle.plan).pause(handle)
        else:
            self._tell(handle)
        self._close_studies()
        self._end_searches()
        self._confirm(handle.size)
        return handle

    def _tell(self, handle: TrialHandle) -> None:
        """Tell the study how a trial ended."""
        trial = handle.trial
        set_attributes(trial, end_attributes(handle.status, handle.message, handle.last_row, handle.run))
        if handle.status != col.FAILED:
            set_constraint(trial, handle.status == col.DIVERGED)
        value = math.inf if handle.status == col.DIVERGED else None
        if handle.status == col.COMPLETE:
            assert handle.last_row is not None
            value = col.quoted_loss(handle.last_row)
        state = {col.FAILED: TrialState.FAIL, col.PRUNED: TrialState.PRUNED}.get(handle.status, TrialState.COMPLETE)
        self._of(handle.plan).tell(handle, value, state)

    def ranking(self, study: str) -> list[str]:
        """Ids of the complete trials of a study, best first, without diverged ones."""
        return [trial_id for _, _, trial_id in self.studies[study].complete]

    @property
    def unfinished(self) -> int:
        """Trials in the queue that were handed out before, by this driver or an earlier one."""
        return sum(len(state.unfinished) for state in self.studies.values())

    @property
    def paused(self) -> int:
        """Trials that wait at a rung."""
        return sum(len(state.paused) for state in self.studies.values())

    @property
    def planned(self) -> int | None:
        """Number of trials that the sweep has, as far as is known: confirmation runs that may be left out count.

        None if there are as many as fit in search.time, and there is time left.
        """
        if self.spec.as_many_as_fit and not all(self._of(plan).closed for plan in self.spec.studies):
            return None
        total = 0
        for size in self.spec.size_names:
            total += sum(state.total for state in self._states(size, col.SEARCH))
            confirms = self._states(size, col.CONFIRM)
            total += sum(state.total for state in confirms)
            total += self._confirmations_to_come(size)
        return total

    def _confirmations_to_come(self, size: str) -> int:
        """Number of confirmation runs of a size that are not enqueued yet, if none is left out."""
        if size not in self._confirmations or self._confirmations[size].over:
            return 0
        confirms = self._states(size, col.CONFIRM)
        most: int = self.spec.confirm_runs_of(size) + sum(state.excluded for state in confirms)
        confirmed: int = sum(state.total for state in confirms)
        return max(0, most - confirmed)

    def confirmations_left(self, plan: StudyPlan) -> float:
        """Number of runs of a confirmation study that were not asked for yet, if none is left out.

        It is a fraction where the arms of a size share the runs that are not enqueued yet.
        """
        state, arms = self._of(plan), len(self._states(plan.size, col.CONFIRM))
        return state.total - state.asked + self._confirmations_to_come(plan.size) / arms

    @property
    def excluded_confirmations(self) -> int:
        """Number of excluded confirmation runs. They count in `planned`, beside the runs that take their place."""
        return sum(state.excluded for state in self.studies.values() if state.plan.phase == col.CONFIRM)

    @property
    def best_losses(self) -> dict[str, tuple[float, str]]:
        """Lowest loss of the search and its trial's id, by size and arm, where there is a complete trial."""
        searches = [state for state in self.studies.values() if state.plan.phase == col.SEARCH]
        return {s.plan.id: (s.complete[0][0], s.complete[0][2]) for s in searches if s.complete}

    @property
    def best_experiments(self) -> dict[str, str]:
        """The experiment of the trial in `best_losses`, by size and arm, where it has one."""
        found = {study: self.studies[study].experiment_of(trial) for study, (_, trial) in self.best_losses.items()}
        return {study: name for study, name in found.items() if name is not None}

    def winners(self, size: str) -> dict[str, RunSpec]:
        """The runs that the search of a size ends in, by size and arm: those that lead, or else the best complete ones.

        Of several arms, the best one's is also there under the name of the size.
        """
        found: dict[str, tuple[float, RunSpec]] = {}
        confirmation = self._confirmations.get(size)
        for state in self._states(size, col.SEARCH):
            leader = confirmation.leaders.get(state.plan.id) if confirmation is not None else None
            if confirmation is not None and leader is not None:
                found[state.plan.id] = confirmation.loss_of(leader), state.run_of(leader)
            elif state.complete and (confirmation is None or not confirmation.over or confirmation.experiments):
                found[state.plan.id] = state.complete[0][0], state.run_of(state.complete[0][2])
        if found and size not in self.studies:
            found[size] = min(found.values(), key=lambda pair: pair[0])
        return {name: run for name, (_, run) in found.items()}

    def next_runs(self) -> dict[str, NextRun]:
        """What the law of optima predicts for the size after the last, by arm; "" if there are no arms.

        Empty unless sizes learn from each other, and more than one has trials that are complete.
        """
        last = self.spec.size_names[-1]
        if not self.spec.transfers or not any(state.complete for state in self._states(last, col.SEARCH)):
            return {}
        found = {}
        for state in self._states(last, col.SEARCH):
            try:
                following = state.next_run()
            except FieldError as error:  # a by-product, which must not end the sweep
                if not self._no_next:
                    self.on_transfer(f"best/next.yaml is not written, as the next size would not be valid: {error}")
                self._no_next = True
                continue
            if following is not None:
                found[state.plan.arm.name or ""] = following
        return found

    def statuses(self) -> dict[str, str]:
        """Status by trial id of every trial that was handed out."""
        return {
            t.user_attrs[col.TRIAL]: t.user_attrs.get(col.STATUS, _unfinished_status(t))
            for state in self.studies.values()
            for t in state.study.get_trials(deepcopy=False)
            if col.TRIAL in t.user_attrs
        }


def _unfinished_status(trial: FrozenTrial) -> str:
    return col.RUNNING if trial.user_attrs.get(col.PAUSED_AT) is None else col.PAUSED
