"""The process that runs a sweep, as its folder shows it: on which machine, and whether it is alive.

On the machine of the driver its lock on the folder tells. Elsewhere the lock may not show through a network file
system; there the driver counts as alive while it keeps touching `.lock-holder`. The folder is only read.
"""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows, where no sweep runs: what is alive is in WSL or on another machine
    fcntl = None  # type: ignore[assignment]

ALIVE_WITHIN_S = 60.0
"""A driver touches its file every 10 s; the rest is for busy machines, slow file systems and clocks that differ."""


class Driver(NamedTuple):
    """Who runs the sweep, or ran it until it was killed: a driver that ends by itself leaves no trace."""

    alive: bool
    host: str | None = None
    pid: int | None = None  # on that host
    started: float | None = None  # timestamp: it took the folder
    seen_s: float | None = None  # seconds since it last touched its file, by the clock of this machine


def driver_of(folder: Path, now: float | None = None) -> Driver:
    """The driver of the sweep in `folder`, at the timestamp `now` (by default: now).

    >>> driver_of(Path("runs/quick"))
    Driver(alive=True, host='node7', pid=4711, started=1767323045.0, seen_s=3.2)
    """
    host = pid = started = seen_s = None
    with suppress(OSError, ValueError, TypeError, KeyError):
        # Opening the file makes a network file system ask its server; its times are those of the server.
        with (folder / ".lock-holder").open() as file:
            holder = json.load(file)
            seen_s = max(0.0, (time.time() if now is None else now) - os.fstat(file.fileno()).st_mtime)
        if isinstance(holder, int):  # versions up to 0.2 wrote the process id alone
            pid, seen_s = holder, None
        else:
            host, pid, started = str(holder["host"]), int(holder["pid"]), float(holder["started"])
    locked = _is_locked(folder / ".lock")
    elsewhere = host is not None and (host != socket.gethostname() or fcntl is None)
    alive = locked or (elsewhere and seen_s is not None and seen_s <= ALIVE_WITHIN_S)
    return Driver(alive, host, pid if alive or host else None, started, seen_s)


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock. A shared lock, held for an instant, leaves the file as it is."""
    if fcntl is None:
        return False
    try:
        with suppress(FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
