"""window_losses.bin: the loss of every validation window in a trial's last evaluation, its best one, and its branches'.

`lmcore.window_records` defines the format. Damaged records are skipped, and what a killed writer left at the end is
ignored.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmcore import columns as col
from lmcore.window_records import DOCUMENTS, read_records

NAME = "window_losses.bin"
LAST, BEST, BRANCH = "last", "best", "branch"


class WindowLosses(NamedTuple):
    """The contents of the file."""

    losses: dict[str, dict[str, NDArray[Any]]]
    """By evaluation (`last`, `best`), then by trial: float32 [n], losses in nats per token."""
    branches: dict[tuple[str, float], NDArray[Any]]
    """By trial and fraction: float32 [n], losses of the final windows of a branch."""
    documents: dict[tuple[int, int], NDArray[Any]]
    """By context length and number of windows n: int32 [n], numbers of documents."""


def read_window_losses(path: Path) -> WindowLosses:
    """Every intact record of the file, the later of two for the same trial and evaluation; none if there is no file.

    >>> read_window_losses(Path("runs/quick/window_losses.bin")).losses["last"]["xs-0003"].mean()
    """
    found = WindowLosses({LAST: {}, BEST: {}}, {}, {})
    for header, values, _ in read_records(path.read_bytes() if path.exists() else b""):
        if DOCUMENTS in header:
            found.documents[header["context_length"], len(values)] = np.asarray(values)
        elif header.get("evaluation") == BRANCH:
            found.branches[header[col.TRIAL], header[col.BRANCH]] = np.asarray(values)
        elif (evaluation := header.get("evaluation")) in found.losses:
            found.losses[evaluation][header[col.TRIAL]] = np.asarray(values)
    return found
