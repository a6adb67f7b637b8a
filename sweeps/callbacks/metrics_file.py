"""metrics.jsonl: every report row of every trial, one JSON line each, appended and synced as it arrives.

A trial's rows are ordered by their step, which is their sequence number: clocks may be set back.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.study.ledger import TrialHandle, finite_row


class RowFile:
    """Callback that appends rows; the last row of a trial carries its final status.

    Readers see whole lines, but for the last one of a writer that was killed; that one is cut off here, so that the
    next row does not run into it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        content = path.read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)

    def began(self, live: TrialHandle) -> None:
        """Nothing to write yet."""

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """Append the row."""
        values = {**row, col.SIZE: live.size, col.STATUS: live.status}
        line = json.dumps(finite_row({name: values[name] for name in col.ROW_COLUMNS}), allow_nan=False)
        self._append(f"{line}\n".encode())

    def ended(self, live: TrialHandle) -> None:
        """The last row has said it."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        """All of the line or, where the disk refuses, nothing of it."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):  # a disk that runs full takes a part first
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise


def last_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The last row of each trial in a file of rows that nobody writes; a line that was cut off is none.

    Losses that were not finite are NaN. Raises InputError if a line is damaged.
    """
    rows = {}
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            losses = {name: math.nan for name in (col.TRAIN_LOSS, col.VAL_LOSS) if row[name] is None}
            rows[row[col.TRIAL]] = {**row, **losses}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}:{number}: must be a report row, but is damaged ({error!r}); restore the file from a copy"
            ) from None
    return rows
