"""Tells when the end of a sweep may be near."""

from collections.abc import Callable

from sweeps.callbacks.base import Callback


class LastTrials(Callback):
    """Calls `tell` once, when a slot is idle for the first time because no trial can be handed out.

    Args:
        tell: must not raise.

    >>> last = LastTrials(lambda: print("nearly over"))
    >>> last.on_idle()
    nearly over
    >>> last.on_idle()
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._told = False

    def on_idle(self) -> None:
        if not self._told:
            self._told = True
            self._tell()
