"""A sweep whose terminal is closed saves what it has and ends; under nohup it goes on."""

import os
import pty
import signal
import time

import pytest
from sweeping import count_rows, descendants, remedy, rows_of, running, start, sweep_command, wait_until

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.rundir.checkpoints import checkpoint_files

SLOWER = {"train__steps": "2000", "train__checkpoint_every": "1000"}
"""Checkpoints come rarely enough for the stop to have to write some."""


def in_a_terminal(command, cwd):
    """The pid of the command, which has a terminal of its own, and the terminal's other end."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execv(command[0], command)
    os.set_blocking(master, False)
    return pid, master


def drain(master):
    """Read what was written to the terminal, so that writing does not block."""
    try:
        while os.read(master, 1 << 16):
            pass
    except OSError:
        pass


@pytest.mark.ray
def test_a_sweep_whose_terminal_is_closed_loses_nothing_and_leaves_no_process(tiny, fault):
    quiet = ("--no-dashboard", "--wandb", "offline")
    pid, master = in_a_terminal(sweep_command("stopped", quiet=quiet, slots=1, trials=5, **SLOWER), tiny)
    folder = tiny / "runs" / "stopped"
    wait_until(lambda: drain(master) or count_rows(folder) >= 12, 240, "no 12 rows")
    family = descendants(pid)
    assert len(family) > 5
    record = fault("terminal closed (SIGHUP), with wandb")
    record.injected()
    began = time.monotonic()
    os.close(master)
    wait_until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG), 30, "the sweep has not ended")
    seconds = time.monotonic() - began
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    wait_until(lambda: not running(family), 10, "processes are still running")
    unfinished = {trial: rows for trial, rows in rows_of(folder).items() if rows[-1][col.STATUS] == col.RUNNING}
    assert unfinished
    for trial, rows in unfinished.items():
        saved = read_checkpoint(checkpoint_files(folder / "trials" / trial)[-1])[1]["step"]
        assert saved >= rows[-1][col.STEP], trial
    record.survived(seconds=seconds)


@pytest.mark.ray
def test_a_sweep_under_nohup_goes_on_when_its_terminal_is_closed(tiny, fault):
    command = ["/usr/bin/nohup", *sweep_command("kept")]
    pid, master = in_a_terminal(command, tiny)
    folder = tiny / "runs" / "kept"
    wait_until(lambda: drain(master) or count_rows(folder) >= 3, 240, "no 3 rows")
    record = fault("terminal closed under nohup")
    record.injected()
    os.close(master)
    wait_until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG), 240, "it has not ended")
    said = (tiny / "nohup.out").read_text()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert [len(rows) for rows in rows_of(folder).values()] == [10] * 6
    assert "6 trials in" in said
    record.survived()


@pytest.mark.ray
def test_a_hangup_without_a_closed_terminal_says_how_to_resume(tiny, fault):
    process = start(sweep_command("stopped"), tiny)
    folder = tiny / "runs" / "stopped"
    wait_until(lambda: count_rows(folder) >= 3 or process.poll() is not None, 240, "no 3 rows")
    record = fault("SIGHUP to the whole process group")
    record.injected()
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGHUP)
    out, error = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert process.returncode == 129, out + error
    assert error == f"\nstopped; {remedy('stopped')}\n"
    record.survived(seconds=seconds)
