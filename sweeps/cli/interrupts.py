"""Ctrl-C and SIGTERM: one exception for both, raised until it is heard; the second one ends the process at once.

Both become KeyboardInterrupt, the one exception that Ray lets out of its waits as what it is. Even that one was seen to
have no effect once, and the sweep went on; where it was lost is not known. So it is raised again every second until the
block that it is to end has been left. Nothing is lost by an end at once either: what a sweep has learned is on disk
when it is learned, and Ray's processes end with this one.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REPEAT_S = 1.0
SHOW_CURSOR = "\x1b[?25h"  # a table that redraws itself hides it


class Interrupts:
    """The signals that ask this process to stop."""

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first one."""
        self.remedy = ""
        """How to go on, for the last line of all, `; go on with ...`."""
        self._insisting = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, as shells have it."""
        return 128 + (self.received or signal.SIGINT)

    def install(self) -> None:
        """Take both signals; again after `ray.init`, which takes SIGTERM for itself and would abort the process."""
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)

    @contextmanager
    def insisting(self) -> Iterator[None]:
        """While in this block, a signal raises KeyboardInterrupt every second until the block is left."""
        before = signal.signal(signal.SIGALRM, self._again)
        self._insisting = True
        try:
            yield
        finally:
            self._insisting = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def end_at_once(self, line: str, code: int) -> None:
        """End this process from any thread or handler, without any cleaning up, after a last line."""
        with suppress(OSError):
            end = SHOW_CURSOR if sys.stdout.isatty() else ""
            os.write(sys.stderr.fileno(), f"{end}\n{line}{self.remedy}\n".encode())
        os._exit(code)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.end_at_once("stopped at once", 128 + number)
        self.received = number
        if self._insisting:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        raise KeyboardInterrupt

    def _again(self, number: int, frame: FrameType | None) -> None:
        if self._insisting:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
            raise KeyboardInterrupt
