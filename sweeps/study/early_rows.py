"""early.jsonl: rows that have arrived before their turn (`sweeps.study.virtual_order`), one JSON line each.

They cost training and are in no study yet, so a driver that is killed leaves them to the next one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcore.columns import Row
from lmcore.durable import append
from lmcore.errors import InputError


@dataclass(frozen=True)
class Failure:
    """How a trial failed: `message` is the line of `error` that names it.

    >>> Failure(50, "ValueError: boom", "Traceback ...").step
    50
    """

    step: int
    """The step of the last row before the failure."""
    message: str
    error: str


Early = Row | Failure
"""What may arrive before its turn."""


class EarlyRows:
    """The journal, kept in a file.

    A writer that is killed may leave half a line at the end; opening the file again removes it.

    Example:
        early = EarlyRows(folder.early)
        early.append("xs-0003", row)
        early.read()  # {"xs-0003": [row]}
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)

    def append(self, trial_id: str, early: Early) -> None:
        """Add what has arrived; it is on the disk on return."""
        append(self._file, encode(trial_id, early))

    def read(self) -> dict[str, list[Early]]:
        """What has arrived, by trial, in order. InputError if a line is damaged."""
        found: dict[str, list[Early]] = {}
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                trial_id, early = decode(line)
            except (ValueError, TypeError, KeyError) as error:
                rule = f"must be a row that arrived early, but is damaged ({error!r})"
                raise InputError(f"{self._path}:{number}: {rule}; restore the file from a copy, or delete it") from None
            found.setdefault(trial_id, []).append(early)
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file: the sweep is over."""
        self._file.close()
        self._path.unlink()


def encode(trial_id: str, early: Early) -> bytes:
    """A line of the journal. Unlike metrics.jsonl it has NaN where a loss is not finite, as it is read here alone."""
    content: dict[str, Any] = {"failure": vars(early)} if isinstance(early, Failure) else {"row": early}
    return f"{json.dumps({'trial': trial_id, **content})}\n".encode()


def decode(line: bytes) -> tuple[str, Early]:
    """Trial and content of a line.

    >>> decode(encode("xs-0003", {"step": 25, "val_loss": 6.31}))
    ('xs-0003', {'step': 25, 'val_loss': 6.31})
    """
    content = json.loads(line)
    early = Failure(**content["failure"]) if "failure" in content else content["row"]
    return content["trial"], early
