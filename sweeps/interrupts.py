"""Ctrl-C and SIGTERM: one exception for both, raised until it is heard.

Both become KeyboardInterrupt, the one exception that Ray lets out of its waits as what it is. Even that one was seen to
have no effect once, and the sweep went on; where it was lost is not known. So it is raised again every second until the
block that it is to end has been left.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT_S = 1.0


class Interrupts:
    """The signals that ask this process to stop."""

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the last one."""
        self._insisting = False

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

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._insisting:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        raise KeyboardInterrupt

    def _again(self, number: int, frame: FrameType | None) -> None:
        if self._insisting:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
            raise KeyboardInterrupt
