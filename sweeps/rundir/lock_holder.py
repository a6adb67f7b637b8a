"""`.lock-holder`: which process holds a run's folder, and whether it is alive, for readers on other machines.

A lock does not always show through a network file system, and a process id means nothing on another machine. So the
holder touches the file every `BEAT_S` seconds, and removes it when it lets go.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeps.rundir.repeating import repeating

BEAT_S = 10.0
"""`analysis.runs.driver` takes a holder on another machine that has missed a few beats for dead."""


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Write the file, keep it fresh during the block, and remove it afterwards.

    Example:
        with holding(folder / ".lock-holder"):
            train()
    """
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    path.write_text(json.dumps(holder) + "\n")

    def beat() -> None:
        with suppress(OSError):  # the folder is out of reach for now
            os.utime(path)

    try:
        with repeating(beat, BEAT_S, "heartbeat"):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def holder_of(path: Path) -> str:
    """Who holds the folder, in words: `process 4711 on node7`.

    >>> holder_of(Path("nowhere"))
    'an unknown process'
    """
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # of an older version, or not written yet
        return "an unknown process"
