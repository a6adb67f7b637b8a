"""The tables at the end of a sweep, from a process of their own: they need pandas, which the driver does without.

Its imports take as long as the tables, so it is started before the sweep has ended, and then waits.
"""

import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from lmcore.columns import STORAGE_VARIABLE
from sweeps.cli.alive import Alive
from sweeps.cli.options import SCRIPT
from sweeps.rundir.folder import RunFolder

LOWEST = 19
"""Niceness of the process, so that it takes next to nothing from the training processes."""


class FinalTables:
    """Prints and saves the tables of the report.

    Args:
        folder: the run's folder.
        prog: the command as the user typed it.
        storage: address of the studies' database. No file has its password, so the process gets it in its environment,
            which nobody but the user can read.
        console: a terminal shows that the tables are being made.

    Example:
        with FinalTables(folder, prog, spec.search.storage, console) as tables:
            run_sweep(spec, folder, ..., on_last_trials=tables.prepare)
            tables.print()
    """

    def __init__(self, folder: RunFolder, prog: str, storage: str | None, console: Console | None = None) -> None:
        root = Path(__file__).resolve().parents[2]
        if prog == SCRIPT:
            self._report, command = "python analysis/report.py", [f"{root}/analysis/report.py"]
        else:
            self._report, command = "lmsweep report", [f"{root}/lmsweep.py", "report"]
        self._folder = folder.display
        self._command = [sys.executable, *command, "--brief", "--standby", self._folder]
        self._interactive = console is not None and console.is_interactive
        self._console = console
        self._environment = dict(os.environ) if storage is None else os.environ | {STORAGE_VARIABLE: storage}
        if self._interactive:
            self._environment["TTY_COMPATIBLE"] = "1"  # rich then writes into the pipe as if it were the terminal
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "FinalTables":
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process, which was not needed or was interrupted."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def prepare(self) -> None:
        """Start the process, once. It imports what it needs and waits.

        It has a session of its own: Ctrl-C goes to this process alone, which ends it.
        """
        with suppress(OSError, AttributeError):  # `print` tries again; Windows has no niceness
            if self._process is None:
                self._start()
                os.setpriority(os.PRIO_PROCESS, self._started.pid, LOWEST)

    def print(self) -> None:
        """Print and save the tables, or say what to try if that fails."""
        if self._process is None:
            self._start()
        if self._finish():
            print(f"The table could not be made; try {self._report} {shlex.quote(self._folder)}", file=sys.stderr)

    @property
    def _started(self) -> "subprocess.Popen[str]":
        assert self._process is not None
        return self._process

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self._interactive else None,
            text=True,
            start_new_session=True,
        )

    def _finish(self) -> int:
        """Have the process go on, and return its exit code. Until it prints, it is shown to run."""
        process, size = self._started, {}
        if self._interactive and self._console is not None:
            size = {"COLUMNS": str(self._console.width), "LINES": str(self._console.height)}
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed, which its exit code says
            process.stdin.write(json.dumps(size) + "\n")
            process.stdin.close()
        if self._console is not None and process.stdout is not None:
            with Alive(self._console, "making the tables"):
                first = process.stdout.read(1)
            sys.stdout.write(first + process.stdout.read())
            sys.stdout.flush()
        return process.wait()
