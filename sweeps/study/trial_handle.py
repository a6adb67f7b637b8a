"""A trial of a sweep while it is live."""

from dataclasses import dataclass

import optuna

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import spent_flops
from sweeps.spec.arms import StudyPlan


@dataclass
class TrialHandle:
    """A live trial: the ledger has handed it out and not yet told the study how it ended.

    Example:
        trial = ledger.ask("xs")
        trial.id, trial.run.optim.lr, trial.status  # ("xs-0003", 0.0071, "running")
    """

    id: str
    plan: StudyPlan
    experiment: str | None
    of: str | None  # of a confirmation run: the search trial whose setting it repeats
    run: RunSpec
    trial: optuna.Trial
    last_row: Row | None = None
    status: str = col.RUNNING
    paused_at: int | None = None  # the step at which it waits, or waited until it was given up
    message: str | None = None  # why it diverged or failed, in one line
    error: str | None = None  # the whole text of the error that it failed with
    requeues: int = 0  # how often it went back to the queue

    @property
    def size(self) -> str:
        """Its model size."""
        return self.plan.size

    @property
    def name(self) -> str:
        """The id, followed by the experiment's name, or by the trial that it repeats."""
        note = " ".join(filter(None, (self.experiment, f"of {self.of}" if self.of else None)))
        return f"{self.id} {note}" if note else self.id

    @property
    def flops_left(self) -> float:
        """FLOPs of the updates that it has not reported yet, if it and its branches are trained to their end."""
        step = 0 if self.last_row is None else self.last_row[col.STEP]
        return spent_flops(self.run) - spent_flops(self.run, step)
