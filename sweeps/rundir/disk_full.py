"""Full disks: recognised wherever they show, named for the user, and never taken for the fault of a trial.

What a sweep learns can no longer be written down: a disk is full, a database is locked or gone. The sweep ends.

Not the fault of a trial, and not for Tune to hear of: it would take an exception for the failure of one.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class UnwritableError(BaseException):
    """The sweep cannot go on. Not an Exception: Tune catches those."""

    def __init__(self, reason: str | None, place: Path | None) -> None:
        super().__init__(reason)
        self.reason = reason
        """In one line; None for a full disk."""
        self.place = place
        """What could not be written, where that is known."""

    def line(self, folder: Path) -> str:
        """What to tell the user of a sweep in this folder."""
        place = self.place or folder
        return full_line(place) if self.reason is None else f"the sweep's results cannot be written ({self.reason})"


@contextmanager
def end_sweep_if_unwritable(full_disks_only: bool = False) -> Iterator[None]:
    """Raise UnwritableError in place of an error of a disk or of the studies' database. Also a decorator.

    With `full_disks_only` other errors stay what they are: for blocks that do more than write.
    """
    try:
        yield
    except Exception as error:
        full = is_full(error)
        if not full and (full_disks_only or not _is_of_storage(error)):
            raise
        name = getattr(error, "filename", None)
        cause = error.__cause__ or error
        said = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
        reason = None if full else said.splitlines()[0]
        raise UnwritableError(reason, Path(name) if isinstance(name, str) else None) from error


def _is_of_storage(error: Exception) -> bool:
    from optuna.exceptions import StorageInternalError  # loaded by now, or the error is not theirs
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, OSError | StorageInternalError | SQLAlchemyError)
