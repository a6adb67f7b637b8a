"""Which trial sits where: trials on engines, and on each engine trials in the slots of its trainers.

Bookkeeping only, with no Ray, no torch and no clock of its own: `Placement` is the driver's, `SlotTable` an engine's.

A slot table holds one group of K slots per shape (pack key). A trial waits in line until its group has a free slot; is
*ready* to train an interval; *training*; or *reported*, while the driver decides whether it goes on. Other slots train
meanwhile. What trains next is the oldest ready work. Where a batched interval is cheaper than its slots one after the
other, it waits for missing slots, but no longer than their part of an interval is worth: a late decision then costs at
most twice what the best choice in hindsight would, and a slot that was waited for in vain is not waited for again.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Signature = Hashable
State = Literal["waiting", "ready", "training", "reported"]


class Costs(NamedTuple):
    """Seconds of an interval of one shape."""

    single_s: float
    """Of one slot by itself."""
    batched_s: float
    """Of all slots of the group as one program."""


class Work(NamedTuple):
    """What an engine does next."""

    shape: Signature
    trials: tuple[str, ...]
    batched: bool


@dataclass
class _Group:
    """The slots of one shape."""

    trials: list[str | None]
    costs: Costs
    unexpected: set[int] = field(default_factory=set)
    """Slots that were waited for in vain."""
    rested_since: float | None = None
    """When this group stopped training, and began to wait for its missing slots."""


@dataclass
class _Entry:
    shape: Signature
    state: State = "waiting"
    slot: int | None = None
    since: float = 0.0


class SlotTable:
    """The trials of one engine. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._groups: dict[Signature, _Group] = {}
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, trial: str) -> bool:
        return trial in self._entries

    @property
    def trials(self) -> list[str]:
        """All trials, in order of arrival."""
        return list(self._entries)

    @property
    def shapes(self) -> list[Signature]:
        """Shapes that have slots."""
        return list(self._groups)

    def state(self, trial: str) -> State:
        """What the trial is doing."""
        return self._entries[trial].state

    def slot(self, trial: str) -> int | None:
        """The trial's slot in its group, None while it waits in line."""
        return self._entries[trial].slot

    def seated(self, shape: Signature) -> list[str]:
        """Trials that have a slot of this shape."""
        return [trial for trial in self._groups[shape].trials if trial is not None]

    def slots(self, shape: Signature) -> int:
        """How many slots a shape has."""
        return len(self._groups[shape].trials)

    def add_group(self, shape: Signature, slots: int, costs: Costs) -> None:
        """Offer `slots` slots of a shape."""
        self._groups[shape] = _Group([None] * slots, costs)

    def remove_group(self, shape: Signature) -> list[str]:
        """Withdraw a shape's slots; its trials go back to the line, where they keep their places."""
        trials = self.seated(shape)
        for trial in trials:
            self._entries[trial] = _Entry(shape)
        del self._groups[shape]
        return trials

    def enter(self, trial: str, shape: Signature) -> None:
        """Put a trial in line; a trial that is here already stays as it is."""
        self._entries.setdefault(trial, _Entry(shape))

    def leave(self, trial: str) -> None:
        """Forget a trial and free its slot; a trial that is not here is none to forget."""
        entry = self._entries.pop(trial, None)
        if entry is not None and entry.slot is not None:
            group = self._groups[entry.shape]
            group.trials[entry.slot] = None
            group.unexpected.discard(entry.slot)  # somebody may well come to refill it

    @property
    def idle_shapes(self) -> list[Signature]:
        """Shapes that have slots and no trial, not even one that waits."""
        used = {entry.shape for entry in self._entries.values()}
        return [shape for shape in self._groups if shape not in used]

    def shape_in_need(self) -> tuple[Signature, str] | None:
        """A shape that somebody waits for and that has no slots yet, and the first who does."""
        return next(
            ((entry.shape, trial) for trial, entry in self._entries.items() if entry.shape not in self._groups), None
        )

    def seat_next(self) -> tuple[str, int] | None:
        """Give the first trial in line whose shape has a free slot that slot; it is `training` until it is loaded."""
        for trial, entry in self._entries.items():
            group = self._groups.get(entry.shape)
            if entry.state == "waiting" and group is not None and None in group.trials:
                entry.slot = group.trials.index(None)
                entry.state = "training"
                group.trials[entry.slot] = trial
                return trial, entry.slot
        return None

    def waiting(self, shape: Signature) -> list[str]:
        """Trials in line for a slot of this shape."""
        return [trial for trial, entry in self._entries.items() if entry.shape == shape and entry.state == "waiting"]

    def unseat(self, trial: str) -> None:
        """Send a trial that has a slot to the end of the line."""
        shape = self._entries[trial].shape
        self.leave(trial)
        self.enter(trial, shape)

    def ready(self, trial: str, now: float) -> None:
        """The trial may train its next interval."""
        entry = self._entries[trial]
        assert entry.slot is not None, f"{trial} has no slot"
        entry.state, entry.since = "ready", now
        self._groups[entry.shape].unexpected.discard(entry.slot)

    def alone(self, trial: str) -> Work:
        """Have a trial that is ready train by itself, whatever would be cheaper."""
        entry = self._entries[trial]
        assert entry.state == "ready", f"{trial} is {entry.state}"
        entry.state = "training"
        return Work(entry.shape, (trial,), batched=False)

    def reported(self, trial: str) -> None:
        """The trial has a row, and waits for what the driver decides."""
        entry = self._entries.get(trial)
        if entry is not None and entry.slot is not None:  # it may have left, or lost its slot, while it trained
            entry.state = "reported"

    def rests(self, shape: Signature, now: float) -> None:
        """An interval of this shape has ended."""
        self._groups[shape].rested_since = now

    def next_work(self, now: float) -> Work | float | None:
        """What to train now, marked as training; or how many seconds to wait for more; or None: nothing is ready."""
        waits: list[float] = []
        works: list[tuple[float, Work]] = []
        for shape, group in self._groups.items():
            ready = [trial for trial in group.trials if trial is not None and self._entries[trial].state == "ready"]
            if not ready:
                continue
            ready.sort(key=lambda trial: self._entries[trial].since)
            oldest = self._entries[ready[0]].since
            patience = self._patience(group, ready, now)
            if patience > 0:
                waits.append(patience)
                continue
            batched = group.costs.batched_s < len(ready) * group.costs.single_s
            works.append((oldest, Work(shape, tuple(ready if batched else ready[:1]), batched)))
        if not works:
            return min(waits, default=None)
        work = min(works, key=lambda w: w[0])[1]
        group = self._groups[work.shape]
        group.unexpected |= self._missing(group)
        for trial in work.trials:
            self._entries[trial].state = "training"
        return work

    def _missing(self, group: _Group) -> set[int]:
        """Slots that are not ready, though they may be soon: free ones too, and those whose row is being saved."""
        ready = {
            slot
            for slot, trial in enumerate(group.trials)
            if trial is not None and self._entries[trial].state == "ready"
        }
        return set(range(len(group.trials))) - ready - group.unexpected

    def _patience(self, group: _Group, ready: Sequence[str], now: float) -> float:
        """Seconds that waiting for the missing slots is still worth."""
        slots = len(group.trials)
        missing = len(self._missing(group))
        if not missing or group.costs.batched_s >= slots * group.costs.single_s:
            return 0.0  # nobody is missing, or nothing is gained by training together
        since = max(group.rested_since or 0.0, self._entries[ready[0]].since)
        return since + group.costs.batched_s * missing / slots - now


class Placement:
    """Which engine each trial is on; an engine has no room when its slots are taken and one more trial is in line.

    The one in line is there when a slot becomes free: its engine does not wait until the driver has told the study how
    the last trial ended and asked it for another. `slots` says how many trials of a size an engine holds, at least 1.
    """

    def __init__(self, engines: int, slots: dict[str, int]) -> None:
        self._slots = slots
        self._engines: list[dict[str, str]] = [{} for _ in range(engines)]  # trial -> size

    @property
    def capacity(self) -> int:
        """Most trials that can train at a time."""
        return len(self._engines) * max(self._slots.values())

    @property
    def in_line(self) -> int:
        """Most trials that can be in line beside those."""
        return len(self._engines)

    def load(self, engine: int) -> float:
        """Part of the engine's slots that are taken; more than 1 where a trial is in line."""
        return self._load(list(self._engines[engine].values()))

    def free_engine(self) -> int | None:
        """Of the engines that have room, the one with the most; None where none has any."""
        room = [n for n, trials in enumerate(self._engines) if self._load(list(trials.values())[:-1]) < 1 - 1e-9]
        return min(room, key=self.load, default=None)

    def _load(self, sizes: Sequence[str]) -> float:
        return sum(1 / self._slots[size] for size in sizes)

    def best_size(self, engine: int, sizes: Sequence[str]) -> str:
        """Of `sizes`, in order of preference, the one that suits the engine: one that it has, else the rarest."""
        here = list(self._engines[engine].values())
        everywhere = [size for trials in self._engines for size in trials.values()]
        return min(sizes, key=lambda size: (-here.count(size), everywhere.count(size)))

    def put(self, trial: str, size: str, engine: int) -> None:
        """Note that the trial is on the engine."""
        self._engines[engine][trial] = size

    def move(self, trial: str, engine: int) -> None:
        """Note that a trial is on this engine, if it is on any."""
        if trial in self._engines[engine]:
            return
        for trials in self._engines:
            if trial in trials:
                self._engines[engine][trial] = trials.pop(trial)
                return

    def remove(self, trial: str) -> int | None:
        """Forget a trial; the engine that it was on."""
        for engine, trials in enumerate(self._engines):
            if trials.pop(trial, None) is not None:
                return engine
        return None
