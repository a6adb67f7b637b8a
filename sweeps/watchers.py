"""Those who look on: the rows' file, the terminal. They are told what happened and decide nothing."""

from collections.abc import Sequence
from typing import Any, Protocol

from sweeps.ledger import LiveTrial


class Watcher(Protocol):
    """Told of every trial's beginning, report rows and end, in the driver's process."""

    def began(self, live: LiveTrial) -> None:
        """A trial was handed out."""

    def reported(self, live: LiveTrial, row: dict[str, Any]) -> None:
        """A trial reported `row`; `live.status` says what follows from it."""

    def ended(self, live: LiveTrial) -> None:
        """The study has been told how the trial ended."""


class Watchers:
    """Passes each event on to all watchers, in their order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    def began(self, live: LiveTrial) -> None:
        """See `Watcher.began`."""
        for watcher in self._watchers:
            watcher.began(live)

    def reported(self, live: LiveTrial, row: dict[str, Any]) -> None:
        """See `Watcher.reported`."""
        for watcher in self._watchers:
            watcher.reported(live, row)

    def ended(self, live: LiveTrial) -> None:
        """See `Watcher.ended`."""
        for watcher in self._watchers:
            watcher.ended(live)
