"""A terminal or pipe that goes away does not end the process that writes to it; other errors are errors."""

import io
import os
import pty
import shlex
import subprocess
import sys
import termios

from rich.console import Console

from lmcore.terminal.width import terminal_width
from sweeps.cli.output import fit_hint, plain_lines

SCRIPT = """
import os, sys, time
from rich.console import Console
from sweeps.cli.output import lasting_output

@lasting_output()
def main():
    console = Console()
    print("ready", flush=True)
    os.read(int(sys.argv[1]), 1)
    for _ in range(3):
        print("gone", flush=True)
        console.print("gone")
        print("gone", file=sys.stderr)
    sys.stdout.write("not flushed")
    open(sys.argv[2], "w").write(f"saved {sys.stdout.isatty()}")
    return 7

sys.exit(main())
"""


def ended(tmp_path, output, close, read):
    """The process's exit code after `close()` and what it saved."""
    go, told = os.pipe()
    command = [sys.executable, "-c", SCRIPT, str(go), str(tmp_path / "saved")]
    process = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[go], start_new_session=True)
    os.close(output)
    assert os.read(read, 5) == b"ready"
    close()
    os.write(told, b"x")
    process.wait(60)
    return process.returncode, (tmp_path / "saved").read_text()


def test_a_closed_terminal_does_not_end_the_process(tmp_path):
    master, terminal = pty.openpty()
    assert ended(tmp_path, terminal, lambda: os.close(master), master) == (7, "saved False")


def test_a_pipe_that_nobody_reads_does_not_end_the_process(tmp_path):
    read, write = os.pipe()
    assert ended(tmp_path, write, lambda: os.close(read), read) == (7, "saved False")


def test_a_full_disk_is_an_error():
    code = (
        "import sys\nfrom sweeps.cli.output import lasting_output\n"
        "with lasting_output():\n"
        "    try: print('x', flush=True)\n"
        "    except OSError as error: print(error.errno, file=sys.stderr)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr.startswith("28\n")


def test_lines_are_printed_as_they_are_whatever_the_paths_in_them():
    console = Console(file=io.StringIO(), width=80)
    plain_lines(console)("everything goes to /data/[old]/[/x]/:smile:/runs")
    assert console.file.getvalue() == "everything goes to /data/[old]/[/x]/:smile:/runs\n"


def test_on_a_narrow_terminal_the_command_that_resumes_keeps_its_words_and_still_is_the_command():
    command = "/home/me/lmsweep/.venv/bin/python /home/me/lmsweep/sweeps/run.py --resume runs/quick --no-dashboard"
    line = f"stopped; resume with {command}"
    assert fit_hint(line, None) == line  # a pipe
    assert fit_hint(line, len(line)) == line
    for width in (50, 60, 80):
        first, _, rest = fit_hint(line, width).partition("\n")
        assert first == "stopped; resume with"
        assert max(map(len, rest.splitlines())) <= width
        script = f"set -- {rest}; printf '%s\\n' \"$@\""
        words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        assert words == shlex.split(command)
    assert fit_hint("stopped", 5) == "stopped"
    assert fit_hint(line, 5) == line


def test_a_terminal_without_a_size_has_no_width():
    master, terminal = pty.openpty()
    with open(terminal, "w") as file:
        assert terminal_width(file) is None
        termios.tcsetwinsize(terminal, (24, 60))
        assert terminal_width(file) == 60
    os.close(master)


def test_a_command_with_quoted_words_stays_in_one_line():
    line = "stopped; resume with lmsweep run --resume 'runs/my sweep'"
    assert fit_hint(line, 30) == line
