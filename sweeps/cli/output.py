"""Standard output that may go away: a terminal that was closed, a pipe that nobody reads any more.

Writing to it then raises, in the middle of whatever was being said, and a sweep would end because of a line of text.
"""

import errno
import functools
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console

RESUME = "; resume with "
"""What stands before the command that resumes a sweep."""
LEAST_WIDTH = 20
"""Columns of the narrowest terminal that commands are fitted to."""
GONE = (errno.EIO, errno.EPIPE)  # a terminal, a pipe


class LastingOutput:
    """A text file whose writes and flushes are dropped once its terminal or pipe has gone; else the file itself.

    >>> LastingOutput(sys.stdout).write("seen by nobody, perhaps")  # doctest: +SKIP
    23
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._unless_gone(lambda: self._file.write(text)) or len(text)

    def flush(self) -> None:
        self._unless_gone(self._file.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _unless_gone(self, action: Callable[[], int | None]) -> int | None:
        try:
            return action()
        except OSError as error:
            if error.errno not in GONE:
                raise
            # What is buffered goes nowhere now: otherwise the interpreter fails to flush it at the end (exit code 120).
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())
            os.close(nowhere)
            return None


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let this process go on when its standard output or error has gone. Also a decorator, for entry points."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, LastingOutput(file)) for file in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def plain_lines(console: Console, soft_wrap: bool | None = None) -> Callable[[str], None]:
    """A function that prints lines as they are. Rich would drop a path's `[old]` as markup, and draw its `:x:`.

    >>> plain_lines(Console())("everything goes to /data/[old]/runs")
    everything goes to /data/[old]/runs
    """
    return functools.partial(console.print, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def fit_hint(line: str, width: int | None) -> str:
    """A line that ends in RESUME and a command, for a terminal: if it is too long, the command has lines of its own.

    They are continued by backslashes, so what is copied from the terminal still is the command.

    >>> print(fit_hint("stopped; resume with lmsweep run --resume runs/quick --no-dashboard", width=40))
    stopped; resume with
      lmsweep run --resume runs/quick \\
      --no-dashboard
    """
    said, marker, command = line.partition(RESUME)
    if width is None or width < LEAST_WIDTH or not marker or len(line) <= width:
        return line
    words = " ".join(map(shlex.quote, shlex.split(command)))
    if words != command:
        return line
    lines = textwrap.wrap(command, width - 4, break_long_words=False, break_on_hyphens=False)
    quoted = any("'" in one for one in lines)  # a word with spaces must not be cut
    return line if quoted else f"{said}{RESUME.rstrip()}\n  " + " \\\n  ".join(lines)
