"""curves.arrow: the training curve of every trial, about 200 points each, appended with its reports.

`lmcore.curve_batches` describes the format, and `lmcore.columns.POINT_COLUMNS` what a point is.
"""

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.curve_batches import HEADER, encode_batch, read_batches
from lmcore.durable import append
from sweeps.callbacks.base import Callback
from sweeps.rundir.folder import RunFolder
from sweeps.study.trial_handle import TrialHandle


class CurveFile(Callback):
    """Callback that appends the points of each report, before its row is written.

    A writer that is killed may leave a part of a batch at the end; opening the file again removes it. Until the first
    point comes, the file is empty. It is synced when a trial stops: a power cut may cost running trials the points of
    the last seconds, which is less than a sync per report would cost every sweep.

    Example:
        callbacks = Callbacks([CurveFile(folder), RowFile(folder.metrics)])
    """

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.curves.open("ab", buffering=0)
        self._end = 0
        for batch in read_batches(folder.curves.read_bytes()):
            self._end = batch.end
        self._file.truncate(self._end)

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Append the points of the row, if it has any. Rows from older checkpoints have none."""
        if not (points := row.get(col.POINTS)):
            return
        content = (b"" if self._end else HEADER) + encode_batch(trial.id, points)
        append(self._file, content, sync=trial.status != col.RUNNING)
        self._end += len(content)

    def close(self) -> None:
        self._file.close()
