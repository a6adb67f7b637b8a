"""Ends the processes that a killed driver leaves behind, and deletes its temporary folders.

Two of Ray's agents would otherwise stay for most of a minute.

The reaper is a process of its own that uses only the standard library and /proc (Linux; elsewhere it only deletes the
folders). Once a second it records the driver's descendants. Its standard input, on which the driver names the folders,
is closed when the driver ends; a few seconds later it kills those still left, and workers of their Ray session that had
begun since they were last recorded.
"""

import os
import re
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

SESSION = re.compile(rb"/session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+/")
PERIOD_S = 1.0
GRACE_S = 4.0  # for processes to end by themselves, and for wandb's to write what is left


@contextmanager
def reaped(guest: bool = False) -> Iterator[Callable[[Path], None]]:
    """Kill the processes started in this block if it raises or this process dies, and none started before.

    Yields a function: folders that it is given are then deleted too, except for Ray's logs. As a `guest` in a process
    that goes on and may have started other processes, only those of Ray are killed.

    Example:
        with reaped() as remove_later, private_folder(remove_later) as folder:
            ray.init(address="local", _temp_dir=str(folder))
    """
    before = (f"{pid}:{start_time}" for pid, start_time in descendants(os.getpid()).items())
    command = [sys.executable, "-I", "-S", __file__, "guest" if guest else "owner", *before]
    # If the reaper held our output open, a program that reads our output to its end would wait for the reaper.
    reaper = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)

    def remove_later(folder: Path) -> None:
        assert reaper.stdin is not None
        reaper.stdin.write(os.fsencode(folder) + b"\0")
        reaper.stdin.flush()

    try:
        yield remove_later
    except BaseException:
        # The reaper lives on and kills what is left: when this process has ended, or soon if that is to go on.
        if guest and reaper.stdin is not None:
            reaper.stdin.close()
        raise
    reaper.kill()
    reaper.communicate()


def descendants(pid: int) -> dict[int, str]:
    """All processes started by `pid`, directly or indirectly: start time by pid."""
    table = _processes()
    return {child: table[child][1] for child in _family({pid}, table) - {pid}}


def of_ray(pid: int) -> dict[int, str]:
    """The processes started by `pid` that a Ray session of its has started, or is made of: start time by pid."""
    table = _processes()
    members = {child for child in _family({pid}, table) - {pid} if sessions([child])}
    return {child: table[child][1] for child in _family(members, table)}


def _family(roots: set[int], table: dict[int, tuple[int, str]]) -> set[int]:
    """These processes and all that they have started, directly or indirectly."""
    family = set(roots)
    while more := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return family


def sessions(pids: Iterable[int]) -> set[bytes]:
    """The Ray sessions that the command lines of these processes name."""
    found: set[bytes] = set()
    for pid in pids:
        with suppress(OSError):  # the process has ended
            found.update(SESSION.findall(Path(f"/proc/{pid}/cmdline").read_bytes()))
    return found


def processes_of(folder: Path, program: bytes = b"") -> list[int]:
    """The processes whose command line names a file in `folder`, and `program`."""
    found = []
    for pid in _processes():
        with suppress(OSError):  # the process has ended
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if os.fsencode(folder) + b"/" in line and program in line:
                found.append(pid)
    return found


def kill_processes_of(folder: Path, program: bytes = b"") -> None:
    """Kill the processes whose command line names a file in `folder`, and `program`, and all that they have started."""
    for pid in _family(set(processes_of(folder, program)), _processes()):
        _kill(pid)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process on the machine, by pid."""
    table = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # the process has ended
            # The second field is the name in brackets, which may itself contain brackets and spaces.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            table[int(folder.name)] = int(fields[1]), fields[19]
    return table


def keep_logs(folder: Path) -> bool:
    """Delete all of a private folder of Ray's but the logs of its sessions; returns whether there are any.

    Does nothing, and returns False, if the folder is not one that this user alone can write to.
    """
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return False
    logs = [session / "logs" for session in folder.glob("*/session_2*") if any(session.glob("logs/*.*"))]
    if not logs:
        shutil.rmtree(folder, ignore_errors=True)
        return False
    for log in logs:
        for path in log.parent.iterdir():
            if path != log:
                _delete(path)
    for path in (path for log in logs for path in log.parent.parent.iterdir()):
        if path not in {log.parent for log in logs} and path.name != "session_latest":
            _delete(path)
    return True


def _delete(path: Path) -> None:
    """Delete a file, a link or a whole folder."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def main() -> None:
    """Watch the process that started this one; after it has ended, kill its descendants and delete its folders."""
    driver = os.getppid()
    found_by = of_ray if sys.argv[1] == "guest" else descendants
    before = {int(pid): start_time for pid, _, start_time in (argument.partition(":") for argument in sys.argv[2:])}
    recorded: dict[int, str] = {}
    of_driver: set[bytes] = set()
    named = b""
    while True:
        if select.select([0], [], [], PERIOD_S)[0]:
            if not (part := os.read(0, 4096)):
                break
            named += part
        table = _processes()
        others = _family(
            {pid for pid, start_time in before.items() if pid in table and table[pid][1] == start_time}, table
        )
        found = {pid: start_time for pid, start_time in found_by(driver).items() if pid not in others}
        of_driver |= sessions(found.keys() - recorded.keys())
        recorded |= found
    time.sleep(GRACE_S)
    table = _processes()
    for pid, start_time in recorded.items():
        # The start time tells a process from a later one with the same pid.
        if pid in table and table[pid][1] == start_time:
            _kill(pid)
    for pid in table:
        if not of_driver.isdisjoint(sessions([pid])):
            _kill(pid)
    for folder in named.split(b"\0")[:-1]:
        keep_logs(Path(os.fsdecode(folder)))


def _kill(pid: int) -> None:
    if pid != os.getpid():
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
