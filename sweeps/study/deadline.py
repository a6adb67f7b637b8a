"""search.time: whether one more trial could finish in time. Knows neither studies nor Ray, and takes its clock."""

import math
import time
from collections.abc import Callable, Sequence


class Deadline:
    """Learns how fast a sweep trains, in FLOP/s of all its engines together, and answers whether a trial `fits`.

    Time counts from the creation of this object, which is at each start of the command. Speed is measured from when the
    first interval of training began, so that starting Ray does not count. What is being trained but not yet reported is
    not counted, so answers are careful rather than bold.

    >>> now = iter([0.0, 20.0, 20.0]).__next__
    >>> deadline = Deadline(60.0, clock=now)
    >>> deadline.add_training(3e12, seconds=10.0)  # 3e11 FLOP/s
    >>> deadline.fits(1e13, running=[])  # needs 33 of 40 s
    True
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds` of wall time from now on; None for no limit, and everything fits."""
        self.seconds = math.inf if seconds is None else seconds
        self._clock = clock
        self._began = clock()
        self._training_since: float | None = None
        self._reported_at: float | None = None
        self._flops = 0.0
        self._reports = 0
        self._peak = 1

    @property
    def flops_per_s(self) -> float | None:
        """Training FLOPs per second of wall time so far; None before as many reports as trials run side by side."""
        if (
            self._reports < self._peak
            or self._training_since is None
            or self._reported_at is None
            or self._reported_at <= self._training_since
        ):
            return None
        return self._flops / (self._reported_at - self._training_since)

    @property
    def seconds_left(self) -> float:
        """Seconds of wall time that are left; infinite without a limit."""
        return max(0.0, self.seconds - (self._clock() - self._began))

    def add_training(self, flops: float, seconds: float) -> None:
        """Note that a trial has reported: since its previous report it has trained with so many FLOPs for `seconds`."""
        self._flops += flops
        self._reports += 1
        self._reported_at = self._clock()
        if self._training_since is None:
            self._training_since = self._reported_at - seconds

    def fits(self, flops: float, running: Sequence[float] = (), reserved_flops: float = 0.0) -> bool:
        """Whether a trial of `flops` could be asked for now and still finish in time.

        Until the speed is known, everything fits in time that is left at all.

        Args:
            flops: FLOPs of the whole trial.
            running: FLOPs that each trial that was handed out still has to do.
            reserved_flops: FLOPs of what must be trained afterwards, also in time.
        """
        if math.isinf(self.seconds):
            return True
        left = self.seconds - (self._clock() - self._began)
        # As many trials share the engines as ever did: a trial by itself does not get the speed of all of them.
        self._peak = max(self._peak, len(running) + 1)
        speed = self.flops_per_s
        needed = 0.0
        if speed is not None:
            needed = (max(flops * self._peak, flops + sum(running)) + reserved_flops) / speed
        return left > 0 and needed <= left
