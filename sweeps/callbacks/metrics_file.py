"""metrics.jsonl: every report row of every trial, one JSON line each, appended and synced as it arrives.

Rows of a trial are ordered by their step, never by time: clocks may be set back. The rows of its branches have their
fraction in the column `branch`. They are no part of its curve, and stand before the row that tells of them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.durable import append
from lmcore.errors import InputError
from sweeps.callbacks.base import Callback
from sweeps.study.attributes import finite_row
from sweeps.study.trial_handle import TrialHandle


class RowFile(Callback):
    """Callback that appends each report row to a file. A trial's last row carries its final status.

    The last row of a paused trial that will not go on is repeated with its final status.

    A writer that is killed may leave half a line at the end; opening the file again removes it.

    Example:
        callbacks = Callbacks([RowFile(folder.metrics)])
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Append the row, after those of the branches that ended since the row before.

        A row that an older version made, and that is repeated from a checkpoint, has no final loss and no branches.
        """
        place = {name: row[name] for name in (col.TRIAL, *col.PLACE_COLUMNS) if name in row}  # type: ignore[literal-required]
        lines = [row_line(trial, {**branch, **place}, col.RUNNING) for branch in row.get(col.BRANCHES, ())]
        older: dict[str, None] = dict.fromkeys((*col.FINAL_COLUMNS, col.BRANCH))
        self._append(b"".join([*lines, row_line(trial, {**older, **row})]))

    def on_trial_end(self, trial: TrialHandle) -> None:
        if trial.status == col.PRUNED and trial.paused_at is not None and trial.last_row is not None:
            self.on_report(trial, {**trial.last_row, col.TRIAL: trial.id, col.BRANCHES: []})

    def close(self) -> None:
        self._file.close()

    def _append(self, line: bytes) -> None:
        append(self._file, line)


def row_line(trial: TrialHandle, row: Mapping[str, object], status: str | None = None) -> bytes:
    """The line of a trial's row: columns in the order of ROW_COLUMNS, null for numbers that are not finite.

    `status` is that of the trial by default. Raises KeyError if a column is missing.
    """
    values = {**row, col.SIZE: trial.size, col.STATUS: status or trial.status}
    line = json.dumps(finite_row({name: values[name] for name in col.ROW_COLUMNS}), allow_nan=False)
    return f"{line}\n".encode()


def last_rows(path: Path) -> dict[str, Row]:
    """The last row of each trial, by trial id, in a file that nobody writes to. Half a line at the end is ignored.

    Rows of branches are left out: what they say is in the study. Losses that were not finite are read as NaN. Raises
    InputError if a line is damaged.
    """
    rows: dict[str, Row] = {}
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row: Row = json.loads(line)
            if row.get("branch") is not None:
                continue
            if row["train_loss"] is None:
                row["train_loss"] = math.nan
            if row["val_loss"] is None:
                row["val_loss"] = math.nan
            if row.get("final_windows") is not None and row["final_val_loss"] is None:
                row["final_val_loss"] = math.nan
            rows[row["trial"]] = row
        except (ValueError, TypeError, KeyError) as error:
            rule = f"must be a report row, but is damaged ({error!r})"
            raise InputError(f"{path}:{number}: {rule}; restore the file from a copy") from None
    return rows
