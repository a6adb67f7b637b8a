"""Virtual slots: they take trials from the ledger as real ones do, and report losses of a `Source` in virtual time.

A slot trains with a given speed, so an interval takes the time of its FLOPs. Evaluation, checkpoints and starts take
none. Events happen in the order of (virtual time, slot), so a replay follows from the sweep, the source, the number of
slots and their speed alone. The ledger decides everything: what is asked, stopped, paused, promoted, confirmed.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.recorded.source import Curve, Source
from sweeps.study.ledger import Ledger
from sweeps.study.trial_handle import TrialHandle
from sweeps.study.virtual_order import interval_flops

OnRow = Callable[[TrialHandle, Row], None]


@dataclass
class Clock:
    """Virtual seconds since the start. It is called like `time.monotonic`.

    >>> clock = Clock()
    >>> clock.now = 2.5
    >>> clock()
    2.5
    """

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class VirtualSlots:
    """`count` slots, each of which makes `flops_per_s`.

    Example:
        ledger = Ledger(spec, optuna.storages.InMemoryStorage())
        for handle in VirtualSlots(ledger, source, count=8, flops_per_s=1e12).run():
            print(handle.id, handle.status)
    """

    ledger: Ledger
    source: Source
    count: int
    flops_per_s: float
    clock: Clock = field(default_factory=Clock)
    on_row: OnRow = lambda handle, row: None
    """Called with each row once the ledger has decided on it."""
    flops: float = 0.0
    """FLOPs trained so far."""

    def __post_init__(self) -> None:
        self._now = 0  # FLOPs of one slot since the start, an exact integer: the clock in seconds is rounded
        self.curves: dict[str, Curve] = {}
        """The curve of each trial that was handed out, by id."""
        self.order: dict[str, int] = {}
        """The place of each trial in the order in which they were handed out."""

    def run(self) -> Iterator[TrialHandle]:
        """Run all trials; yields each when it leaves its slot, as it is then: paused ones may come back."""
        free = list(range(self.count))  # a heap
        events: list[tuple[int, int, TrialHandle, float]] = []
        while True:
            while free and (sizes := self.ledger.sizes_left):
                slot = heapq.heappop(free)
                handle = self.ledger.ask(sizes[0])
                if handle.id not in self.curves:
                    self.order[handle.id] = len(self.order)
                    self.curves[handle.id] = self.source.curve(handle.size, handle.run)
                heapq.heappush(events, self._next_report(handle, slot))
            if not events:
                return
            self._now, slot, handle, began_at = heapq.heappop(events)
            self.clock.now = self._now / self.flops_per_s
            row = self._row(handle, slot, began_at)
            status = self.ledger.report(handle.id, row)
            self.on_row(handle, row)
            if status == col.RUNNING:
                heapq.heappush(events, self._next_report(handle, slot))
                continue
            heapq.heappush(free, slot)
            yield self.ledger.end(handle.id)

    def _next_report(self, handle: TrialHandle, slot: int) -> tuple[int, int, TrialHandle, float]:
        """When, in FLOPs, and in which slot the trial reports next, and since when it trains."""
        return self._now + self._interval(handle)[1], slot, handle, self.clock.now

    def _interval(self, handle: TrialHandle) -> tuple[int, int]:
        """The step of the trial's next report, and the FLOPs until then."""
        known = _step(handle)
        step = self.source.next_report(handle.run, known)
        return step, interval_flops(handle.run, known, step)

    def _row(self, handle: TrialHandle, slot: int, began_at: float) -> Row:
        """The row that the trial reports now. What the source does not tell is missing."""
        run, curve, now = handle.run, self.curves[handle.id], self.clock.now
        step, flops = self._interval(handle)
        seconds = flops / self.flops_per_s
        self.flops += flops
        loss = curve.at(step / run.steps)
        elapsed = 0.0 if handle.last_row is None else handle.last_row[col.ELAPSED_S]
        row: Row = {
            "trial": handle.id,
            "slot": slot,
            "step": step,
            "tokens": step * run.tokens_per_step,
            "val_loss": loss,
            "tokens_per_s": (step - _step(handle)) * run.tokens_per_step / seconds,
            "elapsed_s": elapsed + seconds,
            "engine": 0,
            "width": 1,
            "began_at": began_at,
            "reported_at": now,
            "decided_at": now,
            "retries": 0,
        }
        if step >= run.steps and curve.final is not None and math.isfinite(loss):
            row["final_val_loss"] = curve.final
        return row


def _step(handle: TrialHandle) -> int:
    """The last step that the trial has reported."""
    return 0 if handle.last_row is None else handle.last_row[col.STEP]
