"""Ends what a driver leaves running when it is killed: two of Ray's agents would stay for most of a minute.

A process of its own, standard library only, which notes the driver's descendants while it lives. When its standard
input ends, the driver has; those that are still there some seconds later are killed. It needs /proc (Linux).
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PERIOD_S = 1.0
GRACE_S = 4.0
"""For processes that end by themselves, wandb's with what it has still to write."""


@contextmanager
def reaped() -> Iterator[None]:
    """A block whose processes end with this process, however it ends."""
    command = [sys.executable, "-I", "-S", __file__]
    # Not our output: whoever reads that waits for all who hold it.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
    yield
    # Not where the block was left by an exception: what it had no time to end is ended when this process has.
    reaper.kill()
    reaper.communicate()


def descendants(pid: int) -> dict[int, str]:
    """The processes that `pid` has started, and those that they have: when each began, by pid."""
    table = _processes()
    family = {pid}
    while more := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return {child: table[child][1] for child in family - {pid}}


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process."""
    table = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it has ended
            # The name in brackets may hold anything, brackets too.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            table[int(folder.name)] = int(fields[1]), fields[19]
    return table


def main() -> None:
    """Watch the process that started this one."""
    driver = os.getppid()
    noted: dict[int, str] = {}
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        noted |= descendants(driver)
    time.sleep(GRACE_S)
    table = _processes()
    for pid, began in noted.items():
        if pid != os.getpid() and pid in table and table[pid][1] == began:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
