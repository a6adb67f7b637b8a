"""The thread of an engine that writes checkpoints, beside the one that trains.

Where the disk is full it waits for space: that is no trial's fault, and the driver ends the sweep anyway.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sweeps.rundir.disk_full import full_line, is_full
from sweeps.rundir.folder import RunFolder

FULL_PAUSE_S = 1.0
"""Before the next try to write to a full disk."""


class CheckpointWriter:
    """Writes to a run's folder, one thing after the other."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "writer")
        self.full: str | None = None
        """What to say of the disk, while it is full."""
        self.busy_since: float | None = None
        """When what is being written was begun, on a monotonic clock."""
        self.stopping = False
        """Then a full disk is not waited for."""

    async def write(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns, which it does in the thread.

        Raises:
            OSError: among others, what the function raises; a full disk only while stopping.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                written = await loop.run_in_executor(self._thread, self._timed, function, *arguments)
            except OSError as error:
                if self.stopping or not is_full(error):
                    raise
                self.full = full_line(self._folder.path)
            else:
                self.full = None
                return written
            await asyncio.sleep(FULL_PAUSE_S)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.busy_since = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self.busy_since = None
