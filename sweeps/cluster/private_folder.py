"""The temporary folder of a Ray that lmsweep starts: on a short path, and closed to other users of the machine.

Ray lets everybody write to its temporary folder (mode 0777), so another user could put a socket of his own in place of
one of the sweep's. Here that folder lies inside one of mode 0700 with a name that nobody can foresee.
"""

import errno
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
OTHER_PARENTS = ("/var/tmp", "/dev/shm")  # where /tmp is not fit; what is in /dev/shm takes memory
SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107  # what the system allows
MAC_TMPDIR = "/var/folders/"  # where macOS sets TMPDIR to, for every user
LONGEST_SOCKET = f"{PREFIX}12345678/{RAY}/session_2026-01-02_03-04-05_678901_1234567/sockets/dash_MetricsHead"
PARENT_BYTES = SOCKET_PATH_BYTES - len(LONGEST_SOCKET) - 1
ENDING_S = 2.0  # Ray's processes may write a last file while they end


class RayStartError(Exception):
    """Ray did not start. The message is one line: what Ray said, the remedy, and where its logs are if there are any.

    >>> str(RayStartError("Ray did not start (out of memory); free memory"))
    'Ray did not start (out of memory); free memory'
    """

    logs: Path | None = None
    may_pass = True
    """Whether another try may succeed."""

    def __str__(self) -> str:
        return super().__str__() + (f" (Ray's logs are kept in {self.logs})" if self.logs is not None else "")


@contextmanager
def private_folder(remove_later: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """A new folder for Ray's `_temp_dir`, in RAY_TMPDIR, TMPDIR or /tmp; it is deleted when the block is left.

    After an error Ray's logs are kept in it, and one line says where. Raises RayStartError if no place is safe.

    Args:
        remove_later: called with the folder to delete if this process is killed (`sweeps.cluster.reaper.reaped`).

    Example:
        with private_folder() as folder:
            ray.init(address="local", _temp_dir=str(folder))
    """
    folder = _make(_parent())
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
    """RAY_TMPDIR, TMPDIR, /tmp or another: the first that is fit. One line says why the user's is not used."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if given := os.environ.get(name):
            reason = why_unfit(given)
            if reason is None:
                return os.path.realpath(given)
            if not given.startswith(MAC_TMPDIR):  # which is too long, and nobody's choice
                print(f"Note: {name} is not used for Ray, because {reason} (got {given}).", file=sys.stderr)
    reasons = {parent: why_unfit(parent) for parent in (DEFAULT_PARENT, *OTHER_PARENTS)}
    for parent, reason in reasons.items():
        if reason is None:
            if parent != DEFAULT_PARENT:
                why = f"{DEFAULT_PARENT} is not used for Ray, because {reasons[DEFAULT_PARENT]}"
                print(f"Note: {why}; its files are in {parent}.", file=sys.stderr)
            return os.path.realpath(parent)
    rule = f"its files must be where only you can rename what is yours, but of {DEFAULT_PARENT}"
    raise _no_place(f"{rule}: {reasons[DEFAULT_PARENT]}")


def _make(parent: str) -> Path:
    """A new folder in `parent` that only this user can open."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700, and perhaps the setgid bit of `parent`
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # `sweeps.rundir.disk_full` says it
        raise _no_place(f"{parent} cannot be written to: {error.strerror}") from None
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        folder.rmdir()
        raise _no_place(f"others can open what you make in {parent}")
    return folder


def _no_place(reason: str) -> RayStartError:
    error = RayStartError(f"Ray did not start ({reason}); set RAY_TMPDIR to a folder of yours with a short path")
    error.may_pass = False
    return error


def _remove(folder: Path) -> None:
    end = time.monotonic() + ENDING_S
    while True:
        with suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists() or time.monotonic() > end:
            return
        time.sleep(0.1)
