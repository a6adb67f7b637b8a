"""The width of the terminal that a file is. Loads nothing but the standard library."""

import os
from typing import TextIO


def terminal_width(file: TextIO) -> int | None:
    """Columns of the terminal that a file is; None if it is none, or has no size.

    >>> terminal_width(open(os.devnull)) is None
    True
    """
    try:
        return os.get_terminal_size(file.fileno()).columns or None if file.isatty() else None
    except (OSError, ValueError):
        return None
