"""Where text goes: a terminal with its width and colours, or a file or pipe with a stable width and no control codes.

Rich is imported here and in the modules beside this one, which are imported only by what prints.
"""

import io
import os
import re
import sys
import textwrap
from typing import TextIO

from rich.console import Console, RenderableType

from lmcore.terminal.width import terminal_width

MIN_WIDTH, MAX_WIDTH = 60, 200  # characters
PIPE_WIDTH = 120
PROSE_WIDTH = 120  # longer lines of prose are hard to read
OPTION = re.compile(r"(--[\w-]+) (?!-)")
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b")


def output_width(file: TextIO | None = None) -> int:
    """Characters in a line of `file` (default: stdout), from 60 to 200.

    That is COLUMNS if it is set, else the width of the terminal, else 120: what is piped does not depend on the window.
    """
    file = file or sys.stdout
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else PIPE_WIDTH
    if not columns.isdecimal():
        width = terminal_width(file) or PIPE_WIDTH
    return max(MIN_WIDTH, min(MAX_WIDTH, width))


def prose_width(file: TextIO | None = None) -> int:
    """Characters in a line of prose: `output_width`, but at most 120."""
    return min(PROSE_WIDTH, output_width(file))


def output_console(file: TextIO | None = None, width: int | None = None) -> Console:
    """A console that prints text as it is: no markup, emoji or highlighting. NO_COLOR turns its colours off."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.width = width or output_width(file)
    return console


def print_out(shown: RenderableType, file: TextIO | None = None, width: int | None = None) -> None:
    """Print to `file` (default: stdout), with colours on a terminal, and without trailing spaces elsewhere."""
    console = output_console(file, width)
    if console.is_terminal:
        console.print(shown, crop=False)
    else:
        print(as_text(shown, console.width), file=file)


def as_text(shown: RenderableType, width: int) -> str:
    """What would be printed in `width` characters, without colours, trailing spaces and the last line break."""
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        color_system=None,
        _environ={},  # FORCE_COLOR, COLUMNS and the like have no say
    )
    with console.capture() as capture:
        console.print(shown, crop=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def wrapped(text: str, width: int, hanging: str = "") -> str:
    """Prose in lines of at most `width` characters, broken at spaces only; `hanging` indents all lines but the first.

    >>> print(wrapped("a sentence of six short words", 12, "  "))
    a sentence
      of six
      short
      words
    """
    lines = textwrap.wrap(text, width, subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)


def wrapped_command(command: str, width: int, indent: int = 2) -> str:
    """A command to copy: where it is longer than `width`, its lines are joined by backslashes, as a shell reads them.

    >>> print(wrapped_command("lmsweep run --resume runs/quick", 26))
      lmsweep run --resume \\
          runs/quick
    """
    first, rest = " " * indent, " " * (indent + 4)
    lines = textwrap.wrap(
        OPTION.sub("\\1\0", command),  # an option stays beside its value
        width - 2,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return first + command if len(first + command) <= width else " \\\n".join(lines).replace("\0", " ")


def print_prose(text: str, hanging: str = "") -> None:
    """Print a line: broken at spaces on a terminal, in one piece to a file or pipe."""
    width = prose_width()
    print(wrapped(text, width, hanging) if sys.stdout.isatty() else text)


def short_digests(text: str) -> str:
    """The text with its fingerprints and commits cut to the first 12 digits.

    >>> short_digests("commit 57dccc5f4bb5033427b8c5c5928d6d9f1a71c2d8.")
    'commit 57dccc5f4bb5.'
    """
    return DIGEST.sub(r"\1", text)
