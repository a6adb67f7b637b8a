"""What ends a sweep when its results cannot be written: a full disk, a database or a folder that is locked or gone.

This is never the fault of a trial. Ray Tune, however, would take any Exception for the failure of a trial, so
`end_sweep_if_unwritable` raises an `UnwritableError`, a BaseException, in its place; `sweeps.run` prints its one line.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.filesize import decimal

FULL = (errno.ENOSPC, errno.EDQUOT)


class UnwritableError(BaseException):
    """The sweep must end because its results cannot be written. Not an Exception, because Ray Tune catches those."""

    resumable = True
    """Whether the same command with `--resume` may work later."""

    def __init__(self, reason: str | None, path: Path | None) -> None:
        super().__init__(reason)
        self.reason = reason  # the error in one line; None for a full disk
        self.path = path  # the file that could not be written, if known

    def line(self, folder: Path) -> str:
        """The message for the user, in one line; `folder` is the run's folder."""
        if self.reason is None:
            return full_line(self.path or folder)
        return f"the sweep's results cannot be written ({self.reason})"


class MovedError(UnwritableError):
    """The run's folder is not where it was; the reason is the whole message."""

    resumable = False

    def line(self, folder: Path) -> str:
        """The message for the user, in one line."""
        return str(self.reason)


@contextmanager
def end_sweep_if_unwritable(full_disks_only: bool = False) -> Iterator[None]:
    """Replace errors of writing, to disk or to the studies' database, by UnwritableError. Also a decorator.

    With `full_disks_only` all other errors pass unchanged; use it around code that does more than write.

    Example:
        with end_sweep_if_unwritable():
            study.tell(trial, loss)
    """
    try:
        yield
    except Exception as error:
        full = is_full(error)
        if not full and (full_disks_only or not _is_storage_error(error)):
            raise
        name = getattr(error, "filename", None)
        path = Path(name) if isinstance(name, str) else None
        if full:
            raise UnwritableError(None, path) from error
        # Optuna and SQLAlchemy wrap the error of the database.
        cause = error.__cause__ or error
        text = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
        raise UnwritableError(text.splitlines()[0], path) from error


def _is_storage_error(error: Exception) -> bool:
    # Imported here, because most uses of this module need neither.
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, OSError | StorageInternalError | SQLAlchemyError)


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota caused the error, directly or through the errors that led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def full_line(path: Path) -> str:
    """The message for the full disk that holds `path`: `/mnt (tmpfs, 8.4 MB) is full; free space there`."""
    path = next(parent for parent in (path, *path.parents) if parent.exists()).resolve()
    mount = next(parent for parent in (path, *path.parents) if os.path.ismount(parent))
    details: list[str] = []
    with suppress(OSError):  # a system without /proc
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount_point, file_system, *_ = line.split()
            # A later mount at the same point hides the earlier ones.
            if mount_point.encode().decode("unicode_escape") == str(mount):
                details = [file_system]
    size = os.statvfs(mount)
    details.append(decimal(size.f_blocks * size.f_frsize))
    return f"{mount} ({', '.join(details)}) is full; free space there"
