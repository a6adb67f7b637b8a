"""`Callback`: its methods are called when a trial starts, reports and ends. Callbacks observe and decide nothing."""

from collections.abc import Sequence

from lmcore.columns import Row
from sweeps.study.trial_handle import TrialHandle


class Callback:
    """Base class of callbacks, whose methods do nothing: override those that you need. They run in the driver.

    Example:
        class PrintLosses(Callback):
            def on_report(self, trial: TrialHandle, row: Row) -> None:
                print(trial.id, row["step"], row["val_loss"])

    A callback should not raise: Ray Tune takes an exception for the failure of the trial.
    """

    def on_trial_start(self, trial: TrialHandle) -> None:
        """A trial was handed out, for the first time or because it goes on; it waits for a slot."""

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """A trial reported `row`. `trial.status` is the decision that followed: anything but running means it stops,
        for good or paused."""

    def on_trial_end(self, trial: TrialHandle) -> None:
        """A trial left its slot. The study knows how it ended, unless it was interrupted, in which case its status is
        still running, or is paused. Called again for a paused trial that will not go on: its status is then pruned, and
        `trial.paused_at` is not None.
        """

    def on_idle(self) -> None:
        """A slot is free, and no trial can be handed out now: all have been, and none is to be promoted yet. Called
        again and again, and not where no slot is free."""


class Callbacks(Callback):
    """Calls all callbacks, in the given order.

    >>> Callbacks([Callback(), Callback()]).on_trial_start(trial=None)
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_trial_start(self, trial: TrialHandle) -> None:
        for callback in self._callbacks:
            callback.on_trial_start(trial)

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        for callback in self._callbacks:
            callback.on_report(trial, row)

    def on_idle(self) -> None:
        for callback in self._callbacks:
            callback.on_idle()

    def on_trial_end(self, trial: TrialHandle) -> None:
        for callback in self._callbacks:
            callback.on_trial_end(trial)
