"""An error is one line for programs; a terminal that is too narrow for it breaks it between words."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "import lmsweep; raise SystemExit(lmsweep.main())"]
MISTAKES = {
    "an option that does not exist": ["run", "--lr", "1e-3"],
    "a value that does not exist": ["run", "--search", "bayes"],
    "a folder that is none": ["status", "a/folder/that/does/not/exist/and/has/a/long/name"],
    "a value that is not possible": ["run", "--set", "optim.lr=-1", "--dry-run"],
}


def on_terminal(arguments, width):
    """What the command shows on a terminal of this width, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return shown.decode().replace("\r\n", "\n"), process.wait()


@pytest.mark.parametrize("case", MISTAKES)
def test_a_narrow_terminal_breaks_an_error_between_words(case):
    piped = subprocess.run([*COMMAND, *MISTAKES[case]], cwd=ROOT, capture_output=True, text=True)
    assert piped.returncode == 2
    assert piped.stderr.count("\n") == 1
    shown, code = on_terminal(MISTAKES[case], width=50)
    assert code == 2
    assert shown.split() == piped.stderr.split()
    assert len(piped.stderr) > 51
    assert max(map(len, shown.split("\n"))) <= 50
