"""Which trial has which slot of a training worker, and what trains next.

Bookkeeping only, with no Ray, no torch and no clock: callers pass `now`, in seconds of any monotonic clock.

Slots come in groups, one group of K slots per static signature. Three rules decide what trains next:

1. A trial that is marked *alone* trains first, as the only slot of its interval.
2. Otherwise the group goes next whose oldest ready trial became ready first.
3. Where one batched interval is cheaper than looping over the slots, a group waits for its trials that are not ready
   yet, but no longer than `BATCHING_WINDOW`. Free slots are not waited for.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Signature = Hashable
State = Literal["queued", "loading", "ready", "training", "reported"]
BATCHING_WINDOW = 1.0
"""How long a group waits for missing slots, as a fraction of their share of a batched interval.

The wait begins when the oldest ready trial became ready or the group's last interval ended, whichever is later. With
1.0, waiting costs at most as much as it can save.
"""


class Costs(NamedTuple):
    """Seconds that an interval takes: of one slot by itself, and of all slots of the group as one program."""

    single_s: float
    batched_s: float


class Work(NamedTuple):
    """An interval to train now; `alone` if it is that of a trial marked alone."""

    signature: Signature
    trials: tuple[str, ...]
    batched: bool
    alone: bool = False


@dataclass
class _Group:
    trials: list[str | None]
    costs: Costs
    idle_since: float = 0.0


@dataclass
class _Entry:
    signature: Signature
    alone: bool
    state: State = "queued"
    slot: int | None = None
    ready_since: float = 0.0


class SlotTable:
    """The trials of one worker.

    >>> table = SlotTable()
    >>> table.add_group("small", 2, Costs(single_s=1.0, batched_s=1.2))
    >>> table.submit("xs-0000", "small")
    >>> table.assign_next()
    ('xs-0000', 0)
    >>> table.mark_ready("xs-0000", now=0.0)
    >>> table.next_work(now=0.0)
    Work(signature='small', trials=('xs-0000',), batched=False, alone=False)
    """

    def __init__(self) -> None:
        self._groups: dict[Signature, _Group] = {}
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, trial: str) -> bool:
        return trial in self._entries

    @property
    def trials(self) -> list[str]:
        """All trials, the first in the queue first."""
        return list(self._entries)

    @property
    def signatures(self) -> list[Signature]:
        """Signatures that have slots."""
        return list(self._groups)

    @property
    def unused_signatures(self) -> list[Signature]:
        """Signatures that have slots and no trial, not even a queued one."""
        used = {entry.signature for entry in self._entries.values()}
        return [signature for signature in self._groups if signature not in used]

    def state(self, trial: str) -> State:
        """What the trial is doing."""
        return self._entries[trial].state

    def slot(self, trial: str) -> int | None:
        """The trial's slot in its group; None for queued and unknown trials."""
        return self._entries[trial].slot if trial in self._entries else None

    def slots(self, signature: Signature) -> int:
        """Number of slots of a signature."""
        return len(self._groups[signature].trials)

    def assigned(self, signature: Signature) -> list[str]:
        """Trials that have a slot of this signature."""
        return [trial for trial in self._groups[signature].trials if trial is not None]

    def queued(self, signature: Signature) -> list[str]:
        """Trials that wait for a slot of this signature."""
        return [t for t, entry in self._entries.items() if entry.signature == signature and entry.state == "queued"]

    def add_group(self, signature: Signature, slots: int, costs: Costs) -> None:
        """Add the slots of a signature."""
        self._groups[signature] = _Group([None] * slots, costs)

    def remove_group(self, signature: Signature) -> list[str]:
        """Remove a signature's slots and return the trials that had one; they keep their places in the queue."""
        trials = self.assigned(signature)
        for trial in trials:
            self._entries[trial] = replace(self._entries[trial], state="queued", slot=None)
        del self._groups[signature]
        return trials

    def submit(self, trial: str, signature: Signature, alone: bool = False) -> None:
        """Append a trial to the queue; with `alone` it trains by itself until its first interval has ended.

        A trial that is in the table already stays as it is.
        """
        self._entries.setdefault(trial, _Entry(signature, alone))

    def release(self, trial: str) -> None:
        """Remove a trial and free its slot. Unknown trials are ignored."""
        entry = self._entries.pop(trial, None)
        if entry is not None and entry.slot is not None:
            self._groups[entry.signature].trials[entry.slot] = None

    def requeue(self, trial: str) -> None:
        """Evict a trial from its slot and append it to the queue."""
        entry = self._entries[trial]
        self.release(trial)
        self.submit(trial, entry.signature, entry.alone)

    def signature_without_slots(self) -> tuple[Signature, str] | None:
        """The first queued trial whose signature has no slots yet, as (signature, trial)."""
        missing = ((e.signature, trial) for trial, e in self._entries.items() if e.signature not in self._groups)
        return next(missing, None)

    def assign_next(self) -> tuple[str, int] | None:
        """Give a free slot to the first queued trial that can use it, as (trial, slot); the trial is then loading."""
        for trial, entry in self._entries.items():
            group = self._groups.get(entry.signature)
            if entry.state == "queued" and group is not None and None in group.trials:
                entry.slot = group.trials.index(None)
                entry.state = "loading"
                group.trials[entry.slot] = trial
                return trial, entry.slot
        return None

    def mark_ready(self, trial: str, now: float) -> None:
        """Allow the trial to train its next interval."""
        entry = self._entries[trial]
        assert entry.slot is not None, f"{trial} has no slot"
        entry.state, entry.ready_since = "ready", now

    def mark_reported(self, trial: str) -> None:
        """Note that the trial has a row. Trials that were released or lost their slot meanwhile are ignored."""
        entry = self._entries.get(trial)
        if entry is not None and entry.slot is not None:
            entry.state = "reported"

    def end_interval(self, work: Work, now: float) -> None:
        """Note that the interval has been trained."""
        self._groups[work.signature].idle_since = now
        for trial in work.trials:
            if trial in self._entries:
                self._entries[trial].alone = False

    def next_work(self, now: float) -> Work | float | None:
        """What to train now, or how many seconds to wait for missing slots, or None if no trial is ready."""
        ready = {trial: entry for trial, entry in self._entries.items() if entry.state == "ready"}
        # By the time since which the work is ready; trials that are marked alone come first.
        works = [(-math.inf, Work(e.signature, (t,), batched=False, alone=True)) for t, e in ready.items() if e.alone]
        waits: list[float] = []
        for signature, group in self._groups.items():
            together = [trial for trial in self.assigned(signature) if not self._entries[trial].alone]
            now_ready = sorted((trial for trial in together if trial in ready), key=lambda t: ready[t].ready_since)
            if not now_ready:
                continue
            oldest = ready[now_ready[0]].ready_since
            window = _batching_window(group, len(now_ready), len(together))
            remaining = max(oldest, group.idle_since) + window - now
            if window > 0 and remaining > 0:
                waits.append(remaining)
            else:
                batched = group.costs.batched_s < len(now_ready) * group.costs.single_s
                works.append((oldest, Work(signature, tuple(now_ready if batched else now_ready[:1]), batched)))
        if not works:
            return min(waits, default=None)
        _, work = min(works, key=lambda candidate: candidate[0])
        for trial in work.trials:
            self._entries[trial].state = "training"
        return work


def _batching_window(group: _Group, ready: int, assigned: int) -> float:
    """Seconds to wait for the slots that are assigned and not ready; 0 where batching would not pay anyway."""
    if group.costs.batched_s >= assigned * group.costs.single_s:
        return 0.0
    return BATCHING_WINDOW * group.costs.batched_s * (assigned - ready) / len(group.trials)
