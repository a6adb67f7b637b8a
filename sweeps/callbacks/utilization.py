"""How well a sweep used its devices: the share of their time in which slots were trained, from the rows alone."""

from collections.abc import Sequence

from lmcore.columns import Row
from sweeps.callbacks.base import Callback
from sweeps.study.ledger import TrialHandle


class Utilization(Callback):
    """Callback that records which engine trained each row, and when.

    Example::

        utilization = Utilization(engines=2)
        callbacks = Callbacks([utilization])
        ...
        print(f"{utilization.share:.0%}")
    """

    def __init__(self, engines: int) -> None:
        self._engines = engines
        self._rows: list[Row] = []

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Record the row's engine, width and times."""
        self._rows.append(
            {
                "trial": row["trial"],
                "engine": row["engine"],
                "width": row["width"],
                "began_at": row["began_at"],
                "reported_at": row["reported_at"],
            }
        )

    @property
    def share(self) -> float | None:
        """See `useful_share`."""
        return useful_share(self._rows, self._engines)


def useful_share(rows: Sequence[Row], engines: int) -> float | None:
    """Share of the engines' time, from the first interval until the last trial started, that trained slots of trials.

    An interval that trained n trials in a program of `width` slots counts for n / width of its time. Time after the
    start of the last trial is left out, because there are then fewer trials than slots. None if all trials started at
    the same time.

    >>> interval = {"trial": "xs-0000", "engine": 0, "width": 2, "began_at": 0.0, "reported_at": 10.0}
    >>> later = {"trial": "xs-0001", "engine": 0, "width": 2, "began_at": 10.0, "reported_at": 20.0}
    >>> useful_share([interval, later], engines=1)
    0.5
    """
    started: dict[str, float] = {}
    intervals: dict[tuple[int, float], tuple[float, float]] = {}
    for row in rows:
        engine, began_at = row["engine"], row["began_at"]
        started[row["trial"]] = min(began_at, started.get(row["trial"], began_at))
        _, share = intervals.get((engine, began_at), (0.0, 0.0))
        intervals[engine, began_at] = (row["reported_at"], share + 1 / row["width"])
    if not rows or min(started.values()) == max(started.values()):
        return None
    end = max(started.values())
    # A clock that is set back shortens an interval, but never below zero.
    used = sum(max(0.0, min(until, end) - began_at) * share for (_, began_at), (until, share) in intervals.items())
    return used / (engines * (end - min(started.values())))
