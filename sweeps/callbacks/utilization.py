"""How well a sweep used its devices: the share of their time that trained slots, from the rows alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from lmcore import columns as col
from sweeps.study.ledger import TrialHandle


class Utilization:
    """Callback that keeps where and when each row was made."""

    def __init__(self, engines: int) -> None:
        self._engines = engines
        self._rows: list[Mapping[str, Any]] = []

    def began(self, live: TrialHandle) -> None:
        """Nothing has been trained yet."""

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """Keep the place and times of the row."""
        self._rows.append(
            {name: row[name] for name in (col.TRIAL, col.ENGINE, col.WIDTH, col.BEGAN_AT, col.REPORTED_AT)}
        )

    def ended(self, live: TrialHandle) -> None:
        """Its last row has said it."""

    @property
    def share(self) -> float | None:
        """See `useful_share`."""
        return useful_share(self._rows, self._engines)


def useful_share(rows: Iterable[Mapping[str, Any]], engines: int) -> float | None:
    """Share of the engines' time that trained slots of trials, from the first interval until the last trial started.

    An interval of n trials in a program of `width` slots counts n / width of its time; waiting counts nothing. Later
    there are fewer trials than slots. None where all trials started at the same time.
    """
    rows = list(rows)
    first: dict[str, float] = {}
    intervals: dict[tuple[int, float], tuple[float, float]] = {}
    for row in rows:
        began_at = row[col.BEGAN_AT]
        first[row[col.TRIAL]] = min(began_at, first.get(row[col.TRIAL], began_at))
        _, part = intervals.get((row[col.ENGINE], began_at), (0.0, 0.0))
        intervals[row[col.ENGINE], began_at] = (row[col.REPORTED_AT], part + 1 / row[col.WIDTH])
    if not rows or min(first.values()) == max(first.values()):
        return None
    end = max(first.values())
    # A clock that was set back in the middle makes a time too small, never a negative one.
    used = sum(max(0.0, min(until, end) - began_at) * part for (_, began_at), (until, part) in intervals.items())
    return used / (engines * (end - min(first.values())))
