"""Ctrl-C, SIGTERM and SIGHUP. The first one raises KeyboardInterrupt until the sweep stops; a second one exits at once.

All of them become KeyboardInterrupt, the only exception that Ray lets through its waits unchanged. Ray once swallowed
even that one, so it is raised every second until the block it must end has been left. Exiting at once loses nothing:
all results are already on disk, and Ray's processes end with this one.

The answer to a signal does not wait for the main thread, which runs handlers only between two steps of Python code and
may be inside a call of Ray's. The interpreter writes the signal's number to a pipe at once (`signal.set_wakeup_fd`).
A thread that reads it says what happens now; a second signal ends the process from there, too.

SIGHUP comes when the terminal is closed or the connection to it is lost. Under nohup it is ignored, and stays so.

A sweep that runs in a thread or in a notebook is a guest: the process belongs to somebody else. Its signal handlers
stay as they are (a notebook's interrupt button raises KeyboardInterrupt by itself), and what would exit at once ends
the sweep's thread instead.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lmcore.terminal.width import terminal_width
from sweeps.cli.output import fit_hint

REPEAT_S = 1.0
SHOW_CURSOR = "\x1b[?25h"  # the live table hides it
NOTHING_TO_SAVE = "no trial is being trained"
SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def is_guest() -> bool:
    """Whether this process belongs to somebody else: an interactive Python or notebook, or the program of a thread."""
    return hasattr(sys, "ps1") or threading.current_thread() is not threading.main_thread()


class Interrupts:
    """Handles the signals that ask this process to stop; as a guest (`is_guest`), leaves them to their owner.

    interrupts = Interrupts()
    interrupts.say = print
    interrupts.install()
    interrupts.at_stake = lambda: "saving 4 trials, up to 30 s"
    with interrupts.repeating():
        ...  # Ctrl-C raises KeyboardInterrupt here, again every second until the block is left
    interrupts.restore()
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first signal."""
        self.resume_hint = ""
        """Ends the last line that is printed: `; resume with ...`."""
        self.guest = is_guest()
        """Whether the process goes on after the sweep."""
        self.ended_with: int | None = None
        """Exit code of a guest that `exit_now` ended."""
        self.say: Callable[[str], None] = lambda line: None
        """Prints the answer to the first signal. Called from a thread."""
        self.at_stake: Callable[[], str] = lambda: NOTHING_TO_SAVE
        """What is done about the trials if a signal comes now, in a few words. Called from a thread, so it must not
        wait for anything."""
        self._repeating = False
        self._thread = threading.get_ident()
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_wakeup = -1
        self._watcher: threading.Thread | None = None
        self._announced = threading.Lock()
        self._ending = threading.Lock()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, as in a shell."""
        return self.ended_with if self.ended_with is not None else 128 + (self.received or signal.SIGINT)

    def install(self) -> None:
        """Handle the signals. Call it again after `ray.init`, which replaces the handler of SIGTERM."""
        if self.guest:
            return
        for number in SIGNALS:
            if self._is_hangup(number) and signal.getsignal(number) is signal.SIG_IGN:
                continue
            previous = signal.signal(number, self._stop)
            self._previous.setdefault(number, previous)
        if self._pipe is None:
            self._pipe = read, write = os.pipe()
            os.set_blocking(write, False)
            self._previous_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            self._watcher = threading.Thread(target=self._watch, args=(read,), name="interrupts", daemon=True)
            self._watcher.start()

    def restore(self) -> None:
        """Give the signals back to the handlers that they had before `install`."""
        if self._pipe is not None and self._watcher is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
            read, write = self._pipe
            os.close(write)
            self._watcher.join()
            os.close(read)
            self._pipe = None
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """A block in which a signal raises KeyboardInterrupt every second, until the block is left.

        A KeyboardInterrupt that comes from elsewhere, as in a notebook, counts as received, too.
        """
        self._repeating = True
        try:
            if self.guest:
                yield
            else:
                previous = signal.signal(signal.SIGALRM, self._raise_again)
                try:
                    yield
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    signal.signal(signal.SIGALRM, previous)
        except KeyboardInterrupt:
            self.received = self.received or signal.SIGINT
            if self.guest and self.ended_with is None:
                self._announce(self.received)
            raise
        finally:
            self._repeating = False

    def exit_now(self, message: str, code: int) -> None:
        """Print `message` and end the process without cleaning up, from any thread or signal handler.

        As a guest: end the sweep's thread, which cleans up; the process goes on.
        """
        if not self.guest and not self._ending.acquire(blocking=False):
            while True:  # another thread is ending the process
                time.sleep(REPEAT_S)
        with suppress(OSError):
            cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
            line = f"{cursor}\n{fit_hint(f'{message}{self.resume_hint}', terminal_width(sys.stderr))}\n"
            if self.guest:
                print(line, end="", file=sys.stderr, flush=True)
            else:
                os.write(sys.stderr.fileno(), line.encode())
        if not self.guest:
            os._exit(code)
        self.ended_with = code
        while True:
            _raise_in(self._thread)
            time.sleep(REPEAT_S)
            if not self._repeating:
                return

    @staticmethod
    def _is_hangup(number: int) -> bool:
        return number == getattr(signal, "SIGHUP", None)

    def _watch(self, read: int) -> None:
        """Answer each signal whose number arrives in the pipe, until that is closed. Runs in a thread."""
        first: int | None = None
        while numbers := os.read(read, 64):
            for number in numbers:
                if number not in self._previous:
                    continue  # SIGALRM, for instance
                if first is None:
                    first = number
                    self._announce(number)
                elif not self._is_hangup(number):
                    self.exit_now("stopped at once", 128 + number)

    def _announce(self, number: int) -> None:
        """Say what follows from the first signal, once."""
        if self._announced.acquire(blocking=False):
            again = "" if self.guest or self._is_hangup(number) else f"; {_name(number)} again ends now"
            self.say(f"stopping: {self.at_stake()}{again}")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if self._is_hangup(number):  # a terminal that closes can send several, and Ctrl-C before it is as good
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


def _name(number: int) -> str:
    """What the user calls the signal: `Ctrl-C`, `SIGTERM`."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _raise_in(thread: int) -> None:
    """Raise KeyboardInterrupt in a thread, once it runs Python code again."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
