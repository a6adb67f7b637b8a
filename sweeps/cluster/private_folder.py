"""The temporary folder of a Ray that lmsweep starts: on a short path, and closed to other users of the machine.

Ray lets everybody write to its temporary folder (mode 0777), so another user could put a socket of his own in place of
one of the sweep's. Here that folder lies inside one of mode 0700 with a name that nobody can foresee.
"""

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcore.errors import InputError
from sweeps.cluster.reaper import keep_logs

PREFIX = "lmsweep-"
RAY = "r"  # short, and not the private folder itself, whose mode Ray would change to 0777
DEFAULT_PARENT = "/tmp"
SOCKET_PATH_BYTES = 107  # what Linux allows
LONGEST_SOCKET = f"{PREFIX}12345678/{RAY}/session_2026-01-02_03-04-05_678901_1234567/sockets/dash_MetricsHead"
PARENT_BYTES = SOCKET_PATH_BYTES - len(LONGEST_SOCKET) - 1
ENDING_S = 2.0  # Ray's processes may write a last file while they end


class RayStartError(Exception):
    """Ray did not start. The message is one line: what Ray said, the remedy, and where its logs are if there are any.

    >>> str(RayStartError("Ray did not start (out of memory); free memory"))
    'Ray did not start (out of memory); free memory'
    """

    logs: Path | None = None

    def __str__(self) -> str:
        return super().__str__() + (f" (Ray's logs are kept in {self.logs})" if self.logs is not None else "")


@contextmanager
def private_folder(remove_later: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """A new folder for Ray's `_temp_dir`, in RAY_TMPDIR, TMPDIR or /tmp; it is deleted when the block is left.

    After an error Ray's logs are kept in it, and one line says where. Raises InputError if no place is safe.

    Args:
        remove_later: called with the folder to delete if this process is killed (`sweeps.cluster.reaper.reaped`).

    Example:
        with private_folder() as folder:
            ray.init(address="local", _temp_dir=str(folder))
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))  # mode 0700
    found = folder.lstat()
    assert found.st_uid == os.geteuid(), f"{folder} belongs to user {found.st_uid}"
    assert stat.S_IMODE(found.st_mode) == 0o700, f"{folder} has mode {stat.S_IMODE(found.st_mode):o}"
    remove_later(folder)
    try:
        yield folder / RAY
    except Exception as error:
        logs = folder / RAY / "session_latest" / "logs"
        if isinstance(error, InputError) or not keep_logs(folder):
            _remove(folder)
        elif isinstance(error, RayStartError):
            error.logs = logs
        else:
            print(f"Ray's logs are kept in {logs}", file=sys.stderr)
        raise
    except BaseException:  # interrupted
        _remove(folder)
        raise
    else:
        _remove(folder)


def why_unfit(parent: str) -> str | None:
    """Why Ray's folder must not be made in `parent`; None if it may.

    >>> why_unfit("/tmp")
    """
    path = Path(os.path.realpath(parent))
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return "it is not a folder that you can write to"
    if len(os.fsencode(path)) > PARENT_BYTES:
        return f"its path has {len(os.fsencode(path))} bytes, and Ray's sockets leave room for {PARENT_BYTES}"
    for folder in (path, *path.parents):
        found = folder.stat()
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            return f"other users can rename what is in {folder}"
        if found.st_uid not in (0, os.geteuid()) and folder != folder.parent:
            return f"{folder} belongs to another user"
    return None


def _parent() -> str:
    """RAY_TMPDIR, TMPDIR or /tmp: the first that is fit. One line says which of the user's is not used, and why."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if given := os.environ.get(name):
            reason = why_unfit(given)
            if reason is None:
                return os.path.realpath(given)
            print(f"Note: {name} is not used for Ray, because {reason} (got {given}).", file=sys.stderr)
    if reason := why_unfit(DEFAULT_PARENT):
        rule = f"must be a folder in which only you can rename what is yours, but {reason}"
        raise InputError(f"{DEFAULT_PARENT}: {rule}; set RAY_TMPDIR to a short path of one")
    return os.path.realpath(DEFAULT_PARENT)


def _remove(folder: Path) -> None:
    end = time.monotonic() + ENDING_S
    while True:
        with suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists() or time.monotonic() > end:
            return
        time.sleep(0.1)
