"""How much a sweep still has to train, in FLOPs: the basis of the time left that is shown while it runs.

Trials that were not asked for yet count, too, with the early stopping that is expected of them:

- A scheduler that pauses and promotes trials (asha, hyperband) trains a fixed number of updates per study, its budget
  (`sweeps.study.promotion`). What is left of it is what is left to do.
- One that stops trials (asha-stop, median) trains a share of each trial. The share is that of the trials that have
  ended, to which what is expected beforehand is added as if it were EXPECTED_COUNTS trials.
- Confirmation runs count in full, also those that may be left out because their setting is beaten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.device import spent_flops
from sweeps.study.ledger import Ledger
from sweeps.study.rungs import expected_rest, rung_steps
from sweeps.study.study_state import StudyState
from sweeps.study.trial_handle import TrialHandle

EXPECTED_COUNTS = 4
"""As many ended trials as the share that is expected beforehand weighs."""


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1


class WorkLeft:
    """Counts what a sweep still has to train.

    >>> work = WorkLeft(ledger)  # doctest: +SKIP
    >>> work.start(trial)  # doctest: +SKIP
    >>> work.flops  # doctest: +SKIP
    3.2e+15
    """

    def __init__(self, ledger: Ledger) -> None:
        """`ledger` may hold trials that an earlier driver trained."""
        self._ledger = ledger
        self._costs: dict[str, _Mean] = {}  # FLOPs of a whole trial, by study
        self._shares: dict[str, _Mean] = {}  # which share of a trial those that ended have trained, by study
        self._known: set[str] = set()
        self.done_flops = 0.0
        """FLOPs that were trained so far; for the owner to add to."""
        self._grace = {size: ledger.spec.grace_steps(size) for size in ledger.spec.size_names}
        self._steps = {plan.id: ledger.spec.arm_run(plan).steps for plan in ledger.spec.studies}
        for state in ledger.studies.values():
            self._costs[state.plan.id], self._shares[state.plan.id] = _Mean(), _Mean()
            for trial in state.study.get_trials(deepcopy=False):
                attributes = trial.user_attrs
                ended = attributes.get(col.STATUS) in (col.COMPLETE, col.PRUNED, col.DIVERGED)
                if ended and col.LAST in attributes and col.SAME_AS not in attributes:
                    steps = attributes[col.RUN]["train"]["steps"]
                    self._shares[state.plan.id].add(attributes[col.LAST][col.STEP] / steps)
                    self.done_flops += _spent(attributes)
            begun = [*state.unfinished, *state.paused.values()]
            self.done_flops += sum(spent_flops(handle.run) - handle.flops_left for handle in begun)

    def start(self, trial: TrialHandle) -> None:
        """Note that a trial was handed out; twice is the same."""
        if trial.id not in self._known:
            self._known.add(trial.id)
            self._costs[trial.plan.id].add(spent_flops(trial.run))

    def end(self, trial: TrialHandle) -> None:
        """Note that a trial has ended for good."""
        if trial.last_row is not None:
            self._shares[trial.plan.id].add(trial.last_row[col.STEP] / trial.run.steps)

    @property
    def flops(self) -> float | None:
        """FLOPs that are left; None if there are as many trials as fit in search.time, and there is time left."""
        if self._ledger.planned is None:
            return None
        live: dict[str, list[TrialHandle]] = {study: [] for study in self._ledger.studies}
        for handle in self._ledger.live.values():
            live[handle.plan.id].append(handle)
        left = 0.0
        for study, state in self._ledger.studies.items():
            # What an interrupted driver left waits in the queue, as good as running.
            unfinished = [*live[study], *state.unfinished]
            if state.plan.phase == col.CONFIRM:
                new = self._ledger.confirmations_left(state.plan)
                left += new * self._whole(state) + sum(handle.flops_left for handle in unfinished)
            elif unfinished or state.left:
                left += self._search(state, unfinished)
        return left

    def _search(self, state: StudyState, unfinished: Sequence[TrialHandle]) -> float:
        whole = self._whole(state)
        new = range(state.asked, state.asked if state.waits else state.total)  # those that wait repeat a result
        if state.promotion is not None:
            return state.promotion.steps_left(new) / state.promotion.steps * whole
        rests = sum(self._rest(state, handle) * spent_flops(handle.run) for handle in unfinished)
        return rests + len(new) * self._new(state) * whole

    def _whole(self, state: StudyState) -> float:
        """FLOPs of a whole trial: the mean of those that were handed out, or else of the most expensive one."""
        cost = self._costs[state.plan.id]
        return cost.total / cost.count if cost.count else state.trial_flops

    def _new(self, state: StudyState) -> float:
        """Share of a new trial that is expected to be trained."""
        ended = self._shares[state.plan.id]
        expected = self._expected_share(state, 0, self._steps[state.plan.id])
        return (EXPECTED_COUNTS * expected + ended.total) / (EXPECTED_COUNTS + ended.count)

    def _rest(self, state: StudyState, handle: TrialHandle) -> float:
        """Share of a trial that has begun that is expected to be trained yet."""
        step = 0 if handle.last_row is None else handle.last_row[col.STEP]
        return self._expected_share(state, step, handle.run.steps)

    def _expected_share(self, state: StudyState, step: int, steps: int) -> float:
        """What successive halving leaves of the updates after `step`; nothing is known of other schedulers."""
        search = self._ledger.spec.search
        rungs: tuple[int, ...] = ()
        if search.scheduler == "asha-stop":
            rungs = rung_steps(self._grace[state.plan.size], steps, search.reduction_factor)
        return expected_rest(step, (*rungs, steps), search.reduction_factor) / steps


def _spent(attributes: Mapping[str, Any]) -> float:
    """FLOPs that an ended trial has cost, by its attributes."""
    if attributes[col.RUN]["train"].get("branches"):
        return spent_flops(RunSpec.model_validate(attributes[col.RUN]), attributes[col.LAST][col.STEP])
    return float(attributes[col.LAST][col.TOKENS] * attributes[col.COUNTS][col.FLOPS_PER_TOKEN])
