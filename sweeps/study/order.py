"""In which order rows are decided on: `Order` stands between Ray Tune's searcher and scheduler and the ledger.

`ArrivalOrder` decides on each row when it arrives, which keeps every slot busy. `sweeps.study.virtual_order` decides in
an order that no timing changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.study.ledger import Ledger
from sweeps.study.trial_handle import TrialHandle

OnTrial = Callable[[TrialHandle], None]
OnRow = Callable[[TrialHandle, Row], None]


@dataclass
class Order(ABC):
    """Which trial a free slot gets, and what becomes of a trial after a row.

    Example:
        order = ArrivalOrder(ledger)
        while sizes := order.sizes:
            trial = order.start(sizes[0])
            while order.report(trial.id, train_one_interval(trial)):
                pass
            order.leave(trial.id)
    """

    ledger: Ledger
    on_start: OnTrial = lambda handle: None
    """Called with each trial that the ledger has handed out."""
    on_row: OnRow = lambda handle, row: None
    """Called with each row once the ledger has decided on it, before its trial ends."""
    on_wait: Callable[[TrialHandle, bool], None] = lambda handle, ends: None
    """Called with each trial that leaves its slot until a row of it is decided on, and whether it ends then in any
    case."""
    on_end: OnTrial = lambda handle: None
    """Called with each trial that has ended, or is paused."""

    @property
    @abstractmethod
    def sizes(self) -> list[str]:
        """Sizes of the trials that a slot could train now."""

    @property
    @abstractmethod
    def more_may_come(self) -> bool:
        """Whether there may be trials for a slot later, although there are none now."""

    @abstractmethod
    def start(self, size: str) -> TrialHandle:
        """A trial of a size in `sizes`, for a slot."""

    @abstractmethod
    def trains(self, trial_id: str) -> bool:
        """Whether a trial has a slot and is to go on there."""

    @abstractmethod
    def known_step(self, trial_id: str) -> int:
        """The step of the last row of a live trial that has arrived; 0 before the first."""

    @abstractmethod
    def report(self, trial_id: str, row: Row) -> bool:
        """Take a row of a trial that trains; whether the trial goes on in its slot."""

    @abstractmethod
    def fail(self, trial_id: str, message: str, error: str) -> None:
        """Take note that a trial that trains raised `error`, of which `message` is the line that names it."""

    @abstractmethod
    def requeue(self, trial_id: str) -> None:
        """Give a trial that has lost its slot another one."""

    @abstractmethod
    def leave(self, trial_id: str) -> None:
        """Take note that a trial has left its slot. One that was to go on there was interrupted."""


class ArrivalOrder(Order):
    """Each row is decided on when it arrives, and each free slot gets the next trial at once."""

    @property
    def sizes(self) -> list[str]:
        return self.ledger.sizes_left

    @property
    def more_may_come(self) -> bool:
        return self.ledger.more_may_come

    def start(self, size: str) -> TrialHandle:
        handle = self.ledger.ask(size)
        self.on_start(handle)
        return handle

    def trains(self, trial_id: str) -> bool:
        return self.ledger.status(trial_id) == col.RUNNING

    def known_step(self, trial_id: str) -> int:
        last_row = self.ledger.live[trial_id].last_row
        return 0 if last_row is None else last_row[col.STEP]

    def report(self, trial_id: str, row: Row) -> bool:
        status = self.ledger.report(trial_id, row)
        self.on_row(self.ledger.live[trial_id], row)
        return status == col.RUNNING

    def fail(self, trial_id: str, message: str, error: str) -> None:
        self.ledger.fail(trial_id, message, error)

    def requeue(self, trial_id: str) -> None:
        self.ledger.requeue(trial_id)

    def leave(self, trial_id: str) -> None:
        if self.ledger.status(trial_id) is not None:
            self.on_end(self.ledger.end(trial_id))
