"""Full disks: recognised wherever they show, named for the user, and never taken for the fault of a trial."""

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, is that of a full disk or quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def full_line(path: Path) -> str:
    """What to tell the user of the full disk that `path` is on: `/mnt (tmpfs, 8.4 MB) is full; free space there`."""
    while not path.exists():
        path = path.parent
    path = path.resolve()
    mount = next(place for place in (path, *path.parents) if os.path.ismount(place))
    size = os.statvfs(mount)
    details = [*_type_of(mount), decimal(size.f_blocks * size.f_frsize)]
    return f"{mount} ({', '.join(details)}) is full; free space there"


def _type_of(mount: Path) -> list[str]:
    """The type of the file system, where the system tells; of several that were mounted there, the last."""
    types: list[str] = []
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split()
            if place.encode().decode("unicode_escape") == str(mount):
                types = [kind]
    return types
