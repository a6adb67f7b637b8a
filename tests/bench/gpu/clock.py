"""The time that a run has, shared out among its groups; a group that overruns is interrupted."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):  # noqa: N818 -- nothing is wrong
    """The group's time is over."""


class Clock:
    """Counts down from `seconds`.

    Example::

        clock = Clock(540)
        with clock.limit(120):  # or what is left, if that is less
            measure()  # is interrupted by OutOfTime
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._end - time.perf_counter()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[float]:
        """The time, of `time.perf_counter`, at which the body should be done. OutOfTime is raised in it a little later.

        Only the main thread can be interrupted, and only between two lines of Python.
        """
        share = max(1.0, min(seconds, self.left_s))
        before = signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 1.1 * share, 5.0)  # again, in case something swallows the exception
        try:
            yield time.perf_counter() + share
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
