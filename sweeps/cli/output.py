"""Standard output that may go away: a terminal that was closed, a pipe that nobody reads any more.

Writing to it then raises, in the middle of whatever was being said, and a sweep would end because of a line of text.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console

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
