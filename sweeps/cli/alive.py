"""Signs of life while something takes long and says nothing: preparing data, starting Ray, measuring.

On a terminal it is one line that changes and then goes away; elsewhere it is a plain line every few seconds.
"""

import threading
import time

from rich.console import Console
from rich.status import Status
from rich.text import Text

EVERY_S = 10.0
"""Longest silence where the output is not a terminal."""
MB = 1e6


class Alive:
    """A block during which the user sees that the process works, and what it is at.

    >>> with Alive(Console(), "preparing the data") as alive:  # doctest: +SKIP
    ...     tokens = prepare_tokens(config, report=alive.report)

    The text may change while the block runs: `alive.text = "waiting for a node"`.
    """

    def __init__(self, console: Console, text: str, first_s: float | None = None) -> None:
        """`first_s`: seconds until the first line, where nothing was said before and the output is no terminal."""
        self.text = text
        """What is going on, without a full stop."""
        self._step, self._step_began = "", time.monotonic()
        self._console = console
        self._pause_s = EVERY_S if first_s is None else first_s
        self._status: Status | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="alive", daemon=True)

    def __enter__(self) -> "Alive":
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._status, self._pause_s = self._console.status(self._line()), 1.0
            self._status.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._status is not None:
            self._status.stop()

    def report(self, what: str, done: float, total: float) -> None:
        """Say how far a step is: `tokenizing: 120 of 800 MB, 14 MB/s, about 48 s left`."""
        now = time.monotonic()
        if what != self._step:
            self._step, self._step_began = what, now
        self.text = f"{what}: {progress(done, total, now - self._step_began)}"

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _line(self) -> Text:
        return Text(f"{self.text} ({self._seconds:.0f} s)")

    def _live(self) -> None:
        while not self._over.wait(self._pause_s):
            if self._status is None:
                self._console.print(self._line(), highlight=False, soft_wrap=True)
                self._pause_s = EVERY_S
            else:
                self._status.update(self._line())


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
    return f"{shown}, {speed / MB:.2g} MB/s{left}"
