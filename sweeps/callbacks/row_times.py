"""When a sweep trained for the first and for the last time."""

import math

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.callbacks.base import Callback
from sweeps.study.trial_handle import TrialHandle


class RowTimes(Callback):
    """The earliest update and the earliest and latest report of the rows that it is told of, in Unix seconds.

    Example:
        times = RowTimes()
        tune_all(order, pool, Callbacks([times]), folder, concurrent=4)
        print(times.last_report - times.first_update)
    """

    def __init__(self) -> None:
        self.first_update = self.first_report = math.inf
        self.last_report = -math.inf

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        self.first_update = min(self.first_update, row[col.BEGAN_AT])
        self.first_report = min(self.first_report, row[col.REPORTED_AT])
        self.last_report = max(self.last_report, row[col.REPORTED_AT])

    @property
    def stages(self) -> dict[str, float]:
        """The three by name; empty if there was no row."""
        if math.isinf(self.first_update):
            return {}
        return {
            "first_update": self.first_update,
            "first_report": self.first_report,
            "last_report": self.last_report,
        }
