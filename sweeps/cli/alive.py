"""Signs of life while something takes long and says nothing: preparing data, starting Ray, measuring.

On a terminal it is one line that moves and then goes away, with a bar where it is known how much there is to do;
elsewhere it is a plain line every few seconds.
"""

import threading
import time

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

EVERY_S = 10.0
"""Longest silence where the output is not a terminal."""
PER_S = 10
"""How often the line moves on a terminal."""
BAR_WIDTH = 20
MB = 1e6


class Alive:
    """A block during which the user sees that the process works, and what it is at.

    >>> with Alive(Console(), "preparing the data") as alive:  # doctest: +SKIP
    ...     tokens = prepare_tokens(config, report=alive.report)
    ...     alive.text = "waiting for a node"
    """

    def __init__(self, console: Console, text: str, first_s: float | None = None) -> None:
        """`first_s`: seconds until the first line, where nothing was said before and the output is no terminal."""
        self._console = console
        self._pause_s = EVERY_S if first_s is None else first_s
        self._step = ""
        self.text = text
        self._spinner = Spinner("dots", style="green")
        self._live: Live | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, name="alive", daemon=True)

    @property
    def text(self) -> str:
        """What is going on, without a full stop. Setting it restarts the clock that is shown."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        self._text, self._began = text, time.monotonic()
        self._share: float | None = None

    def __enter__(self) -> "Alive":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin the block."""
        self._began = time.monotonic()
        if self._console.is_interactive:
            self._live = Live(
                console=self._console, get_renderable=self._line, refresh_per_second=PER_S, transient=True
            )
            self._live.start(refresh=True)
        else:
            self._thread.start()

    def stop(self) -> None:
        """End the block, if it has begun."""
        self._over.set()
        if self._live is not None:
            self._live.stop()
        elif self._thread.is_alive():
            self._thread.join()

    def report(self, what: str, done: float, total: float) -> None:
        """Say how far a step is: `tokenizing: 120 of 800 MB, 14 MB/s, about 48 s left`. `total` 0 is not known."""
        now = time.monotonic()
        if what != self._step:
            self._step, self._began = what, now
        self._text = f"{what}: {progress(done, total, now - self._began)}"
        self._share = min(1.0, done / total) if total else None

    def _plain(self) -> str:
        return f"{self._text} ({time.monotonic() - self._began:.0f} s)"

    def _line(self) -> RenderableType:
        """The spinner, the bar if there is one, and the text, which is cut off where the terminal ends."""
        grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        text = Text(self._plain(), no_wrap=True, overflow="ellipsis")
        if self._share is None:
            grid.add_row(self._spinner, text)
        else:
            grid.add_row(self._spinner, ProgressBar(total=1.0, completed=self._share, width=BAR_WIDTH), text)
        return grid

    def _print_lines(self) -> None:
        while not self._over.wait(self._pause_s):
            self._console.print(Text(self._plain()), highlight=False, soft_wrap=True)
            self._pause_s = EVERY_S


def progress(done_bytes: float, total_bytes: float, seconds: float) -> str:
    """How far something is after so many seconds, at what speed, and how long it still takes.

    `total_bytes` is 0 if it is not known.

    >>> progress(120e6, 800e6, 8.5)
    '120 of 800 MB, 14 MB/s, about 48 s left'
    """
    shown = f"{done_bytes / MB:.0f} of {total_bytes / MB:.0f} MB" if total_bytes else f"{done_bytes / MB:.0f} MB"
    if not done_bytes or not seconds:
        return shown
    speed = done_bytes / seconds
    left = f", about {max(0.0, total_bytes - done_bytes) / speed:.0f} s left" if total_bytes >= done_bytes else ""
    return f"{shown}, {speed / MB:.{0 if speed >= 10 * MB else 1}f} MB/s{left}"
