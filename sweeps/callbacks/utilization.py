"""How well a sweep used its devices, computed from the report rows alone."""

import math
from collections.abc import Iterable

from lmcore.columns import Row
from sweeps.callbacks.base import Callback
from sweeps.study.trial_handle import TrialHandle


class Utilization(Callback):
    """Callback that measures the share of the engines' time in which they trained slots of trials.

    An interval that trained n trials in a program of `width` slots counts for n / width of its time. Only the time from
    the first interval until the last trial started counts, because later there are fewer trials than slots. An engine
    that joined later counts from its first interval.

    >>> utilization = Utilization(engines=1)
    >>> interval = {"engine": 0, "width": 2, "began_at": 0.0, "reported_at": 10.0}
    >>> utilization.on_report(None, {"trial": "xs-0000", **interval})
    >>> utilization.on_report(None, {"trial": "xs-0001", **interval, "began_at": 10.0, "reported_at": 20.0})
    >>> utilization.share
    0.5
    """

    def __init__(self, engines: int) -> None:
        """`engines` is how many the sweep began with; their numbers come first."""
        self._engines = engines
        self._started: set[str] = set()  # trials that run
        self._first_start, self._last_start = math.inf, -math.inf
        self._joined: dict[int, float] = {}  # first start on each engine that joined later
        self._used_s = 0.0  # of intervals that had ended when the last trial started
        self._newer: list[tuple[float, float, float]] = []  # the others' start, end and share of the slots, per row

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        trial_id, start = row["trial"], row["began_at"]
        if trial_id not in self._started:
            self._started.add(trial_id)
            self._first_start, self._last_start = min(self._first_start, start), max(self._last_start, start)
            # Later starts do not change what these count for.
            self._used_s += self._used_by(interval for interval in self._newer if interval[1] <= self._last_start)
            self._newer = [interval for interval in self._newer if interval[1] > self._last_start]
        if row["engine"] >= self._engines:
            self._joined.setdefault(row["engine"], start)
        self._newer.append((start, row["reported_at"], 1 / row["width"]))

    def on_trial_end(self, trial: TrialHandle) -> None:
        self._started.discard(trial.id)

    @property
    def share(self) -> float | None:
        """The share, from 0 to 1; None if all trials started at the same time."""
        if self._first_start >= self._last_start:
            return None
        used_s = self._used_s + self._used_by(self._newer)
        later_s = sum(max(0.0, self._last_start - joined) for joined in self._joined.values())
        return used_s / (self._engines * (self._last_start - self._first_start) + later_s)

    def _used_by(self, intervals: Iterable[tuple[float, float, float]]) -> float:
        """Seconds of an engine until the last start. A clock that is set back shortens them, but never below zero."""
        return sum(max(0.0, min(end, self._last_start) - start) * share for start, end, share in intervals)
