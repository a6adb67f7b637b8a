"""What a trainer knows about one slot on the host: its run, its progress, and the numbers of each update.

Learning rate and optimizer coefficients are Python floats (float64) here and are cast at their last use. The tensors of
a slot are in its population (`lmcore.population.population`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.corpus.windows import final_window_count
from lmcore.optimizers import ParameterGroup
from lmcore.reports import is_due, next_report
from lmcore.schedule import SCHEDULES, Phases


@dataclass
class Slot:
    """One run in progress; a checkpoint stores all fields.

    >>> slot = Slot(RunSpec())
    >>> slot.updates_to_report, slot.lr(10), slot.finished
    (25, 0.003, False)
    """

    run: RunSpec
    step: int = 0  # updates made
    updates_since_report: int = 0
    train_loss_sum: float = 0.0  # of the training losses of those updates, nats per token
    train_s: float = 0.0  # wall seconds of those updates
    elapsed_s: float = 0.0  # wall seconds since the run began, evaluation included
    best_val_loss: float = math.inf  # lowest finite validation loss of all reports
    best_step: int | None = None  # of that report
    best_window_losses: list[float] | None = None  # of that report
    points: list[list[float]] = field(default_factory=list)  # since the last report; a list that is never changed
    last_row: Row | None = None  # the last report; whoever resumes from a checkpoint can repeat it in case it was lost

    @property
    def finished(self) -> bool:
        """Whether all updates have been made."""
        return self.step >= self.run.steps

    @property
    def updates_to_report(self) -> int:
        """Updates until the next report (`lmcore.reports`)."""
        return next_report(self.run, self.step) - self.step

    @property
    def report_is_due(self) -> bool:
        """Whether there is a report after the update just made."""
        return is_due(self.run, self.step)

    def final_windows(self, val_tokens: int) -> int:
        """Validation windows to evaluate on after the last update, of validation data of so many tokens."""
        train, tokens = self.run.train, self.run.tokens_per_step * self.run.steps
        asked, context_length = train.final_eval_windows, self.run.model.context_length
        return final_window_count(asked, train.eval_windows, tokens, context_length, val_tokens)

    @property
    def max_norm(self) -> float:
        """Gradient norm to clip at; infinite without clipping."""
        return self.run.optim.clip_norm or math.inf

    def logged_steps(self, updates: int) -> range:
        """Steps at which the curve has a point, of those that the next `updates` updates begin at.

        >>> from lmcore.config import TrainConfig
        >>> list(Slot(RunSpec(train=TrainConfig(log_every=20)), step=25).logged_steps(50))
        [40, 60]
        """
        every = self.run.log_every
        return range(self.step + -self.step % every, self.step + updates, every)

    def lr(self, update: int) -> float:
        """Learning rate of update number `update`, counted from 1, so that none has learning rate 0."""
        run, optim = self.run, self.run.optim
        phases = Phases(run.warmup_steps, run.decay_steps, run.steps)
        return SCHEDULES[optim.schedule](update, optim.lr, optim.min_lr_ratio * optim.lr, phases)

    def coefficients(self, groups: Sequence[ParameterGroup], update: int) -> Sequence[float]:
        """The numbers of update number `update` for these groups of parameters, one group after the other."""
        lr = self.lr(update)
        return [number for group in groups for number in group.coefficients(self.run.optim, lr, update)]
