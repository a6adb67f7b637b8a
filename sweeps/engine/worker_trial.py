"""What a training worker knows about one of its trials, and the heartbeat it sends. Needs neither torch nor Ray."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec


class Heartbeat(NamedTuple):
    """How a worker is doing."""

    busy_s: float
    """Seconds since the device, or the disk, began what it is doing now; 0 while both are idle."""
    notes: list[str]
    """News for the user, a line each."""
    disk_full: str | None
    """Message about the disk, while checkpoints no longer fit on it."""
    unfit: str | None = None
    """Why this machine can train no trials, and the remedy."""


@dataclass
class WorkerTrial:
    """A trial that was submitted to a worker.

    >>> trial = WorkerTrial(run, "xs-0003")  # doctest: +SKIP
    """

    run: RunSpec
    title: str
    """Its name in Ray's dashboard."""
    known_step: int = 0
    """Step of the newest row that the driver has; 0 before the first one."""
    row: Row | None = None
    """The newest row."""
    error: Exception | None = None
    """Why the trial failed."""
    out_of_memory: int = 0
    """How often memory ran out when there was nothing left to free."""
    proxy: Any = None
    """Actor handle of the trial proxy that asked last."""
    asking: int = 0
    """Number of calls that wait for the next row; more than one only if a proxy was restarted."""
    asked_at: float = field(default_factory=time.monotonic)
    """When the last of them stopped waiting."""
    ended: bool = False
    """The trial has ended; discard any checkpoint that is still being written."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is a new row or an error, or the trial was released."""
    unreported_s: float = 0.0
    """Seconds of the intervals that were trained since the newest row, without one of their own."""
    saved_step: int = 0
    """Step of the newest checkpoint that was written here."""
    saving: asyncio.Task[None] | None = None
    """Reports the newest row and writes its checkpoint."""

    @property
    def row_is_known(self) -> bool:
        """Whether the driver has the newest row, which lets the trial continue."""
        return self.row is not None and self.row[col.STEP] <= self.known_step

    @property
    def finished(self) -> bool:
        """Whether the newest row is the last one."""
        return self.row is not None and self.row[col.STEP] >= self.run.steps

    def unasked_s(self, now: float) -> float:
        """Seconds since a proxy last waited for this trial's next row."""
        return 0.0 if self.asking else now - self.asked_at

    async def wait(self) -> None:
        """Wait, as a call of the trial's proxy, until something changes."""
        self.changed.clear()
        self.asking += 1
        try:
            await self.changed.wait()
        finally:
            self.asking -= 1
            self.asked_at = time.monotonic()
