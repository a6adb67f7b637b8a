"""How well a sweep used its devices, computed from the report rows alone."""

from lmcore.columns import Row
from sweeps.callbacks.base import Callback
from sweeps.study.study_state import TrialHandle


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
        self._started: dict[str, float] = {}
        # End and filled share of the slots of each interval, by engine and start.
        self._intervals: dict[tuple[int, float], tuple[float, float]] = {}

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        trial_id, interval = row["trial"], (row["engine"], row["began_at"])
        self._started[trial_id] = min(row["began_at"], self._started.get(trial_id, row["began_at"]))
        _, filled = self._intervals.get(interval, (0.0, 0.0))
        self._intervals[interval] = (row["reported_at"], filled + 1 / row["width"])

    @property
    def share(self) -> float | None:
        """The share, from 0 to 1; None if all trials started at the same time."""
        if len(set(self._started.values())) < 2:
            return None
        first, last = min(self._started.values()), max(self._started.values())
        # A clock that is set back shortens an interval, but never below zero.
        used = sum(max(0.0, min(end, last) - start) * filled for (_, start), (end, filled) in self._intervals.items())
        later: dict[int, float] = {}
        for engine, began in self._intervals:
            if engine >= self._engines:
                later[engine] = min(began, later.get(engine, last))
        return used / (self._engines * (last - first) + sum(last - began for began in later.values()))
