"""What a sweep learns can no longer be written down: a disk is full, a database is locked or gone. The sweep ends.

Not the fault of a trial, and not for Tune to hear of: it would take an exception for the failure of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.disk import full_line, is_full


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
def what_cannot_be_written_ends_the_sweep(full_disks_only: bool = False) -> Iterator[None]:
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
