"""Those who look on: the rows' file, the terminal. They are told what happened and decide nothing."""

from collections.abc import Sequence
from typing import Any, Protocol

from sweeps.study.ledger import TrialHandle


class Callback(Protocol):
    """Told of every trial's beginning, report rows and end, in the driver's process."""

    def began(self, live: TrialHandle) -> None:
        """A trial was handed out."""

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """A trial reported `row`; `live.status` says what follows from it."""

    def ended(self, live: TrialHandle) -> None:
        """The study has been told how the trial ended."""


class Callbacks:
    """Passes each event on to all callbacks, in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def began(self, live: TrialHandle) -> None:
        """See `Callback.began`."""
        for watcher in self._callbacks:
            watcher.began(live)

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """See `Callback.reported`."""
        for watcher in self._callbacks:
            watcher.reported(live, row)

    def ended(self, live: TrialHandle) -> None:
        """See `Callback.ended`."""
        for watcher in self._callbacks:
            watcher.ended(live)
