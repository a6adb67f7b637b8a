"""metrics.jsonl: every report row of every trial, one JSON line each, appended and synced as it arrives."""

import json
import os
from pathlib import Path
from typing import Any

from lmcore import columns as col
from sweeps.ledger import LiveTrial, finite_row


class RowFile:
    """Watcher that appends rows; the last row of a trial carries its final status.

    A line is one `write`, so readers see whole lines, but for the last one of a writer that was killed.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def began(self, live: LiveTrial) -> None:
        """Nothing to write yet."""

    def reported(self, live: LiveTrial, row: dict[str, Any]) -> None:
        """Append the row."""
        values = {**row, col.SIZE: live.size, col.STATUS: live.status}
        line = json.dumps(finite_row({name: values[name] for name in col.ROW_COLUMNS}), allow_nan=False)
        os.write(self._file, f"{line}\n".encode())
        os.fsync(self._file)

    def ended(self, live: LiveTrial) -> None:
        """The last row has said it."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
