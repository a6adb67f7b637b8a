"""Processes that a driver leaves running, when it is killed or fails, are killed after it."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from sweeps.cluster import reaper

SCRIPT = """
import subprocess, sys, time
from sweeps.cluster.reaper import reaped
with reaped():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(child.pid, flush=True)
    time.sleep(1.5)  # the reaper looks once a second
    {end}
print("still running", flush=True)
time.sleep(0.1)
child.kill()
"""


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "import os; os._exit(3)"])
def test_processes_left_by_an_exception_or_a_sudden_exit_are_killed(end):
    script = SCRIPT.format(end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    child = int(done.stdout)
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline, "it outlives the driver by more than 10 s"
        time.sleep(0.1)


BEFORE = """
import subprocess, sys, time
from sweeps.cluster.reaper import GRACE_S, reaped

session = "/tmp/x/session_2026-01-02_03-04-05_678901_23/logs"  # of a Ray cluster that somebody else has started
child = subprocess.Popen([sys.executable, "-c", "input()", session], stdin=subprocess.PIPE)
try:
    with reaped(guest={guest}):
        time.sleep(1.5)  # the reaper looks once a second
        raise ValueError
except ValueError:
    pass
time.sleep(GRACE_S + 1)
print(child.pid, child.poll(), flush=True)
"""


@pytest.mark.parametrize("guest", [True, False])
def test_what_was_started_before_the_block_is_left_alone(guest):
    command = [sys.executable, "-c", BEFORE.format(guest=guest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split()[1:] == ["None"], done.stderr


def test_a_folder_left_by_a_sudden_exit_is_deleted_but_for_rays_logs(tmp_path):
    session = tmp_path / "r" / "session_2026-01-02_03-04-05_678901_23"
    for name in ("sockets", "logs"):
        (session / name).mkdir(parents=True)
    (session / "sockets" / "raylet").touch()
    (session / "logs" / "raylet.out").touch()
    tmp_path.chmod(0o700)
    named = SCRIPT.replace("with reaped():", "from pathlib import Path\nwith reaped() as remove_later:")
    named = named.format(end=f"remove_later(Path({str(tmp_path)!r})); import os; os._exit(9)")
    subprocess.run([sys.executable, "-c", named], capture_output=True, timeout=120, check=False)
    deadline = time.monotonic() + 10
    while (session / "sockets").exists():
        assert time.monotonic() < deadline, "it is still there after 10 s"
        time.sleep(0.1)
    assert [path.name for path in session.rglob("*")] == ["logs", "raylet.out"]


def test_a_block_that_ends_normally_is_not_reaped():
    began = time.monotonic()
    script = SCRIPT.format(end="")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("still running\n")
    assert time.monotonic() - began < 1.5 + reaper.GRACE_S


def alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_sessions_are_read_off_command_lines():
    name = "/session_2026-01-02_03-04-05_678901_23/"
    arguments = (f"--raylet=/tmp/ray{name}sockets/raylet", "/home/me/session_1/runs")
    command = [sys.executable, "-c", "input()"]
    processes = [subprocess.Popen([*command, argument], stdin=subprocess.PIPE) for argument in arguments]
    try:
        pids = [process.pid for process in processes]
        deadline = time.monotonic() + 10
        while not reaper.sessions(pids) and time.monotonic() < deadline:
            time.sleep(0.01)  # a command line is that of the test until the process has been replaced
        assert reaper.sessions([*pids, 2**22 + 1]) == {name.encode()}
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
