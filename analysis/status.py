"""How far a sweep is: `lmsweep status RUN`, or `python analysis/status.py RUN`. With `--json`, the same as JSON.

The folder is only read, so this works while the sweep runs, after a crash, and from any machine that sees the folder.
`--watch` shows it again and again until no process runs the sweep. Exit codes: 0; 2 with one line on stderr when the
folder is not a sweep's, or no trial has started yet.
"""

import argparse
import itertools
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started as a script: see report.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from analysis.document.status_text import status_text
from analysis.runs.driver import driver_of
from analysis.runs.manifest import RunError
from analysis.tables.sweep_status import SweepStatus, sweep_status
from lmcore.errors import OneLineParser, print_error
from lmcore.study_database import STORAGE_HELP
from lmcore.terminal.console import output_console, output_width, print_out

__all__ = ["SweepStatus", "main", "sweep_status"]

SCRIPT = "python analysis/status.py"
DESCRIPTION = """\
Show how far a sweep is, while it runs or afterwards. The folder is only read, so any machine that sees it will do.
"""
EXAMPLES = """\
examples:
  {prog} runs/quick
      trials by status, the best setting, failures, time left and the cost so far
  {prog} runs/quick --watch
      the same, again and again until the sweep ends
  {prog} runs/quick --json
      all of it, for a program
"""
WATCH_S = 5.0
PIPE_LINES = 50
LEAST_LINES = 8
BUSY_SHARE = 0.01
"""Largest share of a core that --watch uses on average: a folder of many trials takes long to read."""


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Print the status of a sweep, and return the exit code. `prog` is the command as the user typed it."""
    parser = OneLineParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLES.format(prog=prog), allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="the sweep's folder: runs/<name>")
    parser.add_argument("--storage", metavar="URL", help=STORAGE_HELP)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON instead of tables")
    how.add_argument("--watch", action="store_true", help="show it again and again until no process runs the sweep")
    parser.add_argument(
        "--interval",
        type=_seconds,
        metavar="S",
        help=f"seconds between two readings with --watch (default {WATCH_S:g})",
    )
    options = parser.parse_args(argv)
    if options.interval is not None and not options.watch:
        parser.error("--interval is for --watch; add --watch, or leave it out")
    resume = "python sweeps/run.py --resume" if prog == SCRIPT else "lmsweep run --resume"
    console = output_console()
    try:
        if options.watch:
            with suppress(KeyboardInterrupt):
                watch(options.run, console, resume, options.interval or WATCH_S, options.storage)
            return 0
        status = sweep_status(options.run, options.storage)
    except RunError as error:
        print_error(error)
        return 2
    if options.json:
        print(json.dumps(asdict(status), indent=2, allow_nan=False))
    else:
        print_out(status_text(status, resume, width=console.width))
    return 0


def watch(folder: Path, console: Console, resume: str, interval_s: float, storage: str | None = None) -> None:
    """Show the status every `interval_s` seconds until no process runs the sweep, and leave the last one there.

    On a terminal it is redrawn in place; elsewhere it is printed below the one before. RunError as `sweep_status`.
    """
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        pause_s = interval_s  # after the first reading, most of whose time goes into imports
        for number in itertools.count():
            began = time.process_time()
            lines = max(LEAST_LINES, console.height - 2) if console.is_terminal else PIPE_LINES
            width = output_width() if console.is_terminal else console.width  # the window may change
            shown, over = _look(folder, storage, resume, lines, width)
            if number:
                pause_s = max(interval_s, (time.process_time() - began) / BUSY_SHARE)
            if not over:
                shown = Group(shown, Text(f"{time.strftime('%H:%M:%S')}, again in {pause_s:.0f} s", style="dim"))
            if console.is_terminal:
                console.width = width
                live.update(shown, refresh=True)
            else:
                print_out(shown)
            if over:
                return
            time.sleep(pause_s)


def _look(folder: Path, storage: str | None, resume: str, lines: int, width: int) -> tuple[RenderableType, bool]:
    """What to show now, and whether it is the last. A sweep that has only begun is waited for."""
    try:
        status = sweep_status(folder, storage)
    except RunError as error:
        if not driver_of(folder).alive:
            raise
        return Text(f"waiting for the first trial: {error}"), False
    return status_text(status, resume, lines if status.driver else PIPE_LINES, width), not status.driver


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 (got {text})")
    return seconds


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `status.py RUN | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
