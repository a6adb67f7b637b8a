"""`VirtualOrder`: rows are decided on in the order of virtual time, so that no timing changes what is decided.

A fixed number of virtual slots train the trials. An interval takes its training FLOPs, and nothing else takes time.
Events are processed in the order of (virtual time, virtual slot): a trial reports; if it leaves its slot, the ledger is
asked for the next trials. `sweeps.recorded.virtual_slots` has the same clock. So the study follows from the sweep and
the losses, whatever the number of real slots, their speed, and restarts.

Real slots train what the virtual ones have been given, the trial that is due first before others. Three things may
become of a trial when a row arrives:

- its turn has come: it is decided on at once, and so are all rows of other trials that wait for it alone;
- its turn has not come, but the scheduler decides nothing at this step: the trial trains ahead;
- its turn has not come, and the scheduler decides: the trial leaves its slot with a checkpoint, and waits.

The study keeps, as the attribute `virtual` of each trial, when and in which virtual slot it began last and at which
step. With the last row of each trial in metrics.jsonl, the next driver knows the state of all virtual slots. Rows that
have not been decided on are in early.jsonl.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optuna.trial import FrozenTrial

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.params import flops_per_token
from lmcore.reports import next_report
from sweeps.study.divergence import divergence
from sweeps.study.early_rows import Early, Failure
from sweeps.study.order import Order
from sweeps.study.trial_handle import TrialHandle

VIRTUAL = "virtual"
"""User attribute of a trial: virtual time, virtual slot and step at which it was handed out last."""


class Journal(Protocol):
    """Keeps what has arrived before its turn (`sweeps.study.early_rows.EarlyRows`)."""

    def append(self, trial_id: str, early: Early) -> None:
        """Keep it; it must survive the driver."""


def interval_flops(run: RunSpec, begin: int, end: int) -> int:
    """FLOPs of training a run from update `begin` to update `end`: an integer, so that sums of them are exact.

    >>> interval_flops(RunSpec(), 0, 30) == 3 * interval_flops(RunSpec(), 20, 30)
    True
    """
    return flops_per_token(run.model) * run.tokens_per_step * (end - begin)


@dataclass
class VirtualOrder(Order):
    """Decides in virtual time.

    Example:
        order = VirtualOrder(ledger, count=8, journal=early, arrived=early.read())
    """

    count: int = 8
    """Number of virtual slots."""
    journal: Journal | None = None
    arrived: Mapping[str, Sequence[Early]] = field(default_factory=dict)
    """On resume: what the journal has, by trial."""

    def __post_init__(self) -> None:
        self._now = 0  # virtual FLOPs
        self._free = list(range(self.count))  # a heap
        self._events: list[tuple[int, int, str]] = []  # a heap of (virtual time, virtual slot, trial)
        self._due: dict[str, tuple[int, int]] = {}  # the events by trial
        self._ahead: dict[str, deque[Early]] = defaultdict(deque)  # what was not decided on yet
        self._queued: set[str] = set()  # trials that a real slot could train now
        self._training: set[str] = set()  # trials that have a real slot
        self._begun = self._interrupted = False

    @property
    def sizes(self) -> list[str]:
        if not self._begun:
            self._begun = True
            self._resume()
            self._advance()
        return list(dict.fromkeys(self.ledger.live[trial_id].size for trial_id in self._in_order))

    @property
    def _in_order(self) -> list[str]:
        """The queued trials, the one that is due first before others."""
        return sorted(self._queued, key=self._due.__getitem__)

    @property
    def more_may_come(self) -> bool:
        return not self.ledger.over

    def start(self, size: str) -> TrialHandle:
        trial_id = next(one for one in self._in_order if self.ledger.live[one].size == size)
        self._queued.discard(trial_id)
        self._training.add(trial_id)
        return self.ledger.live[trial_id]

    def trains(self, trial_id: str) -> bool:
        return trial_id in self._training

    def known_step(self, trial_id: str) -> int:
        ahead = self._ahead[trial_id]
        return _step_of(ahead[-1]) if ahead else _step(self.ledger.live[trial_id])

    def report(self, trial_id: str, row: Row) -> bool:
        self._take(trial_id, row)
        if trial_id in self._training and self._waits(trial_id):
            self._training.discard(trial_id)
            self.on_wait(self.ledger.live[trial_id], self._ends(trial_id))
        return trial_id in self._training

    def fail(self, trial_id: str, message: str, error: str) -> None:
        self._training.discard(trial_id)
        self._take(trial_id, Failure(self.known_step(trial_id), message, error))

    def requeue(self, trial_id: str) -> None:
        self._training.discard(trial_id)
        self._queued.add(trial_id)
        self.ledger.live[trial_id].requeues += 1

    def leave(self, trial_id: str) -> None:
        if trial_id in self._training:
            self._training.discard(trial_id)
            self._interrupted = True
            self.on_end(self.ledger.end(trial_id))

    def _take(self, trial_id: str, early: Early) -> None:
        """Keep what has arrived, and decide on all whose turn has come."""
        is_due = not self._ahead[trial_id] and self._events[0][2] == trial_id
        if self.journal is not None and not is_due:
            self.journal.append(trial_id, early)
        self._ahead[trial_id].append(early)
        self._advance()

    def _ends(self, trial_id: str) -> bool:
        """Whether a trial that waits will not go on, whatever is decided: it is complete, has diverged or failed."""
        handle, last = self.ledger.live[trial_id], self._ahead[trial_id][-1]
        if isinstance(last, Failure):
            return True
        return last[col.STEP] >= handle.run.steps or divergence(last, handle.run.model.vocab_size) is not None

    def _waits(self, trial_id: str) -> bool:
        """Whether a live trial may not train on before something is decided."""
        ahead = self._ahead[trial_id]
        if not ahead:
            return False
        before = _step_of(ahead[-2]) if len(ahead) > 1 else _step(self.ledger.live[trial_id])
        return self._ends(trial_id) or self.ledger.decides_at(trial_id, before, _step_of(ahead[-1]))

    def _advance(self) -> None:
        """Process events until a row is missing."""
        while not self._interrupted:
            while self._free and (sizes := self.ledger.sizes_left):
                self._begin(self.ledger.ask(sizes[0]))
            if not self._events or not self._ahead[self._events[0][2]]:
                return
            self._now, slot, trial_id = heapq.heappop(self._events)
            early = self._ahead[trial_id].popleft()
            handle = self.ledger.live[trial_id]
            if isinstance(early, Failure):
                self.ledger.fail(trial_id, early.message, early.error)
            else:
                self.ledger.report(trial_id, early)
                self.on_row(handle, early)
            if handle.status == col.RUNNING:
                self._schedule(handle, self._now, slot)
            else:
                self._end(handle, slot)

    def _begin(self, handle: TrialHandle) -> None:
        """Put a trial that the ledger has handed out into the first free virtual slot."""
        slot = heapq.heappop(self._free)
        handle.trial.set_user_attr(VIRTUAL, [self._now, slot, _step(handle)])
        self._schedule(handle, self._now, slot)
        self.on_start(handle)

    def _schedule(self, handle: TrialHandle, now: int, slot: int) -> None:
        """Note when the trial reports next, and let a real slot train it unless it waits."""
        step = _step(handle)
        self._due[handle.id] = now + interval_flops(handle.run, step, next_report(handle.run, step)), slot
        heapq.heappush(self._events, (*self._due[handle.id], handle.id))
        if handle.id not in self._training and not self._waits(handle.id):
            self._queued.add(handle.id)

    def _end(self, handle: TrialHandle, slot: int) -> None:
        """End the trial in the ledger, or let it wait at its rung."""
        self._training.discard(handle.id)
        self._queued.discard(handle.id)
        del self._ahead[handle.id], self._due[handle.id]
        heapq.heappush(self._free, slot)
        self.on_end(self.ledger.end(handle.id))

    def _resume(self) -> None:
        """Restore the virtual slots as an earlier driver left them."""
        for state in self.ledger.studies.values():
            for trial in state.study.get_trials(deepcopy=False):
                if VIRTUAL in trial.user_attrs:
                    self._now = max(self._now, self._last_event(trial))
        handles = []
        while self.ledger.unfinished:
            handles.append(self.ledger.ask(self.ledger.sizes_left[0]))
        interrupted = None
        for handle in handles:
            step, arrived = _step(handle), self.arrived.get(handle.id, ())
            self._ahead[handle.id].extend(one for one in _without_repeats(arrived, step))
            if (began := handle.trial.user_attrs.get(VIRTUAL)) is None or _was_promoted(handle, began[2]):
                assert interrupted is None, "a driver hands out one trial at a time"
                interrupted = handle
                continue
            time, slot, begin = began
            self._free.remove(slot)
            self._schedule(handle, time + interval_flops(handle.run, begin, step), slot)
            self.on_start(handle)
        heapq.heapify(self._free)
        if interrupted is not None:  # before its slot was noted
            self._begin(interrupted)

    def _last_event(self, trial: FrozenTrial) -> int:
        """The virtual time of the last event of a trial that was decided on."""
        time, _, begin = trial.user_attrs[VIRTUAL]
        run = RunSpec.model_validate(trial.user_attrs[col.RUN])
        step: int = self.ledger.last_rows.get(trial.user_attrs[col.TRIAL], {}).get(col.STEP, begin)
        if trial.user_attrs.get(col.STATUS) == col.FAILED:
            step = next_report(run, step)
        return int(time) + interval_flops(run, begin, max(step, begin))


def _was_promoted(handle: TrialHandle, began_at_step: int) -> bool:
    """Whether the trial is not the one that was noted to begin at this step: it was paused and promoted since then."""
    row = handle.last_row
    return row is not None and row.get(col.STATUS) == col.PAUSED and began_at_step < row[col.STEP]


def _without_repeats(arrived: Sequence[Early], known: int) -> list[Early]:
    """Those after the step that the trial has reported, in order, each step once."""
    kept: list[Early] = []
    for early in arrived:
        step = _step_of(early)
        if isinstance(early, Failure):
            if step >= known and not (kept and isinstance(kept[-1], Failure)):
                kept.append(early)
        elif step > known:
            kept.append(early)
            known = step
    return kept


def _step(handle: TrialHandle) -> int:
    """The last step of the trial that was decided on."""
    return 0 if handle.last_row is None else handle.last_row[col.STEP]


def _step_of(early: Early) -> int:
    return early.step if isinstance(early, Failure) else early[col.STEP]
