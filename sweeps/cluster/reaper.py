"""Ends the processes that a killed driver leaves behind. Two of Ray's agents would otherwise stay for most of a minute.

The reaper is a process of its own that uses only the standard library and /proc (Linux). Once a second it records the
driver's descendants. Its standard input is closed when the driver ends; a few seconds later it kills those still left,
and workers of their Ray session that had begun since they were last recorded.
"""

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

SESSION = re.compile(rb"/session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+/")
PERIOD_S = 1.0
GRACE_S = 4.0  # for processes to end by themselves, and for wandb's to write what is left


@contextmanager
def reaped() -> Iterator[None]:
    """Kill the processes started in this block (`with reaped(): ...`) if it raises or this process dies."""
    command = [sys.executable, "-I", "-S", __file__]
    # If the reaper held our output open, a program that reads our output to its end would wait for the reaper.
    reaper = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    yield
    # After an exception this is not reached: the reaper lives on and kills what is left when this process has ended.
    reaper.kill()
    reaper.communicate()


def descendants(pid: int) -> dict[int, str]:
    """All processes started by `pid`, directly or indirectly: start time by pid."""
    table = _processes()
    family = {pid}
    while more := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return {child: table[child][1] for child in family - {pid}}


def sessions(pids: Iterable[int]) -> set[bytes]:
    """The Ray sessions that the command lines of these processes name."""
    found: set[bytes] = set()
    for pid in pids:
        with suppress(OSError):  # the process has ended
            found.update(SESSION.findall(Path(f"/proc/{pid}/cmdline").read_bytes()))
    return found


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process on the machine, by pid."""
    table = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # the process has ended
            # The second field is the name in brackets, which may itself contain brackets and spaces.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            table[int(folder.name)] = int(fields[1]), fields[19]
    return table


def main() -> None:
    """Watch the process that started this one, and kill its descendants after it has ended."""
    driver = os.getppid()
    recorded: dict[int, str] = {}
    of_driver: set[bytes] = set()
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        found = descendants(driver)
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


def _kill(pid: int) -> None:
    if pid != os.getpid():
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
