"""Ctrl-C is answered at once, whatever the sweep is at: one line says what happens now, before anything is saved."""

import os
import re
import signal
import time

import pytest
from sweeping import count_rows, descendants, rows_of, running, sweep_command, wait_until
from test_hangup import in_a_terminal

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.rundir.checkpoints import checkpoint_files

WITHIN_S = 1.0
"""What is asserted; on a machine that is not busy it takes some milliseconds."""
SLOWER = {"train__steps": "2000", "train__checkpoint_every": "1000"}
"""Checkpoints come rarely enough for the stop to have to write some."""
PHASES = {
    "reading the data": "no trial is being trained",
    "starting Ray": "no trial is being trained",
    "measuring how many trials": "no trial is being trained",
    "training": r"saving [1-5] trials?, up to 30 s",
}
"""What the screen says when the key is pressed (but for training), and what the answer says of the trials."""


class Screen:
    """A sweep in a terminal: what it has written so far."""

    def __init__(self, command, cwd):
        self.pid, self._master = in_a_terminal(command, cwd)
        self.text = ""

    def read(self):
        """What came since, which is also added to `text`."""
        new = b""
        try:
            while part := os.read(self._master, 1 << 16):
                new += part
        except OSError:
            pass
        self.text += new.decode(errors="replace")
        return self.text

    def wait_for(self, pattern, timeout):
        """Seconds until `pattern` is on the screen."""
        began = time.monotonic()
        while not re.search(pattern, self.read()):
            assert time.monotonic() - began < timeout, f"no {pattern} in {self.text[-3000:]}"
            time.sleep(0.002)
        return time.monotonic() - began

    def ended(self):
        self.read()
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)

    def exit_code(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.ray
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_is_answered_at_once_in_every_phase(phase, tiny, fault):
    screen = Screen(sweep_command("stopped", slots=1, trials=5, **SLOWER), tiny)
    folder = tiny / "runs" / "stopped"
    if phase == "training":
        wait_until(lambda: screen.read() and count_rows(folder) >= 6, 240, "no 6 rows")
    else:
        screen.wait_for(phase, 240)
    family = descendants(screen.pid)
    record = fault(f"Ctrl-C while {phase}, until it is answered")
    record.injected()
    os.kill(screen.pid, signal.SIGINT)
    answered = screen.wait_for(r"stopping: ", 30)
    wait_until(screen.ended, 40, "the sweep has not ended")
    assert answered < WITHIN_S
    assert screen.exit_code() == 130, screen.text[-3000:]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text).replace("\r", "\n")
    [line] = [line for line in text.splitlines() if line.startswith("stopping: ")]
    assert re.fullmatch(rf"stopping: {PHASES[phase]}; Ctrl-C again ends now", line), line
    assert "stopped" in text
    wait_until(lambda: not running(family), 10, "processes are still running")
    unfinished = {trial: rows for trial, rows in rows_of(folder).items() if rows[-1][col.STATUS] == col.RUNNING}
    assert bool(unfinished) == (phase == "training")
    for trial, rows in unfinished.items():
        saved = read_checkpoint(checkpoint_files(folder / "trials" / trial)[-1])[1]["step"]
        assert saved >= rows[-1][col.STEP], trial
    record.survived(seconds=answered)
