"""How fast a sweep trains, and how long it still takes: what is left, over what is done in a second."""

import math
from collections import deque


class Speed:
    """Speed of all engines together, from the reports of the last `window_s` seconds.

    Until as many reports have come as trials train at a time, each of the others is taken to be as fast as those that
    have reported.

    >>> speed = Speed(window_s=900.0)
    >>> speed.add(now=20.0, amount=1000.0, seconds=10.0)  # one of two trials has reported
    >>> speed.per_s(training=2)
    200.0
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._reports: deque[tuple[float, float, float]] = deque()

    def add(self, now: float, amount: float, seconds: float) -> None:
        """Note that a trial has reported: since its previous report it has done `amount` in so many seconds."""
        self._reports.append((now, amount, seconds))
        while self._reports[0][0] <= now - self._window_s:
            self._reports.popleft()

    def per_s(self, training: int) -> float | None:
        """Amount per second while `training` trials train at a time; None before the first report."""
        if not self._reports:
            return None
        first, last = self._reports[0], self._reports[-1]
        span = last[0] - (first[0] - first[2])
        if len(self._reports) >= training and span > 0:
            return sum(amount for _, amount, _ in self._reports) / span
        speeds = [amount / seconds for _, amount, seconds in self._reports if seconds > 0]
        return training * sum(speeds) / len(speeds) if speeds else None

    def since_report(self, now: float) -> float:
        """Seconds since the last report, at most as many as it took."""
        if not self._reports:
            return 0.0
        last, _, seconds = self._reports[-1]
        return min(now - last, seconds)


def seconds_left(
    flops: float | None, flops_per_s: float | None, since_report: float = 0.0, limit: float = math.inf
) -> float | None:
    """Seconds until `flops` will have been trained, at most `limit`; None if that is not known.

    `since_report` are seconds in which some of them were trained already. If `flops` is None, there are as many trials
    as fit in `limit`.

    >>> seconds_left(6e13, 2e12), seconds_left(6e13, 2e12, since_report=4.0), seconds_left(6e13, 2e12, limit=20.0)
    (30.0, 26.0, 20.0)
    """
    if flops is None:
        return limit if math.isfinite(limit) else None
    return min(max(0.0, flops / flops_per_s - since_report), limit) if flops_per_s else None
