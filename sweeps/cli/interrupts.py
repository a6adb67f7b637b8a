"""Ctrl-C, SIGTERM and SIGHUP. The first one raises KeyboardInterrupt until the sweep stops; a second one exits at once.

All of them become KeyboardInterrupt, the only exception that Ray lets through its waits unchanged. Ray once swallowed
even that one, so it is raised every second until the block it must end has been left. Exiting at once loses nothing:
all results are already on disk, and Ray's processes end with this one.

SIGHUP comes when the terminal is closed or the connection to it is lost. Under nohup it is ignored, and stays so.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REPEAT_S = 1.0
SHOW_CURSOR = "\x1b[?25h"  # the live table hides it


class Interrupts:
    """Handles the signals that ask this process to stop.

    interrupts = Interrupts()
    interrupts.install()
    with interrupts.repeating():
        ...  # Ctrl-C raises KeyboardInterrupt here, again every second until the block is left
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first signal."""
        self.resume_hint = ""
        """Ends the last line that is printed: `; resume with ...`."""
        self._repeating = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, as in a shell."""
        return 128 + (self.received or signal.SIGINT)

    def install(self) -> None:
        """Handle the signals. Call it again after `ray.init`, which replaces the handler of SIGTERM."""
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._stop)

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """A block in which a signal raises KeyboardInterrupt every second, until the block is left."""
        previous = signal.signal(signal.SIGALRM, self._raise_again)
        self._repeating = True
        try:
            yield
        finally:
            self._repeating = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def exit_now(self, message: str, code: int) -> None:
        """Print `message` and end the process without cleaning up, from any thread or signal handler."""
        with suppress(OSError):
            cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
            os.write(sys.stderr.fileno(), f"{cursor}\n{message}{self.resume_hint}\n".encode())
        os._exit(code)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGHUP:  # a terminal that closes can send several, and Ctrl-C before it is as good
                return
            self.exit_now("stopped at once", 128 + number)
        self.received = number
        if self._repeating:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        raise KeyboardInterrupt

    def _raise_again(self, number: int, frame: FrameType | None) -> None:
        if self._repeating:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
            raise KeyboardInterrupt
