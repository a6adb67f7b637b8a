"""Something small that is done again and again beside the sweep, in a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LAST_S = 5.0
"""How long the end of a block waits for an act that is under way, which a file system may hold up for long."""


@contextmanager
def repeating(act: Callable[[], object], period_s: float, name: str) -> Iterator[None]:
    """A block during which `act` is called every `period_s` seconds, first after one period, until it returns True.

    `act` handles its own errors: one that it raises ends the thread, and the block goes on.

    Example:
        with repeating(lambda: os.utime(path), 10.0, "heartbeat"):
            train()
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(period_s):
            if act() is True:
                return

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LAST_S)
