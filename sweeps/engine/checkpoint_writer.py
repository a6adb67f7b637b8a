"""Writes a worker's checkpoints in a thread of its own, beside the one that trains.

A full disk is no trial's fault, so the writer waits for space; meanwhile the heartbeat tells the driver, which ends the
sweep (`sweeps.engine.watchdog`).
"""

import asyncio
from collections.abc import Callable

from sweeps.engine.timed_thread import P, R, TimedThread
from sweeps.rundir.disk_full import full_line, is_full
from sweeps.rundir.folder import RunFolder

RETRY_S = 1.0
"""Pause before another attempt to write to a full disk."""


class CheckpointWriter:
    """Writes to a run's folder, one file after the other.

    >>> writer = CheckpointWriter(RunFolder(path))  # doctest: +SKIP
    >>> await writer.write(Trainers.save, trial_folder, snapshot)  # doctest: +SKIP
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = TimedThread("writer")
        self.disk_full: str | None = None
        """Message for the user while the disk is full."""
        self.stopping = False
        """If true, a full disk is an error instead of being waited for."""

    @property
    def busy_since(self) -> float | None:
        """When the write that is under way began (time.monotonic)."""
        return self._thread.busy_since

    async def write(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function`, which writes, in the thread and return its result.

        Raises:
            OSError: or whatever else the function raises; a full disk only while stopping.
        """
        while True:
            try:
                written = await self._thread.run(function, *args, **kwargs)
            except OSError as error:
                if self.stopping or not is_full(error):
                    raise
                self.disk_full = full_line(self._folder.path)
            else:
                self.disk_full = None
                return written
            await asyncio.sleep(RETRY_S)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
