"""What a trainer knows of one slot on the host: its run, its place in that run, and the numbers of each update.

Schedule, bias corrections and 1 - beta are Python floats (float64) here and are cast at their last use: in float32
1 - 0.999 is off by 1e-5. The tensors of a slot live in the population (`lmcore.population.population`).
"""

import math
from dataclasses import dataclass

from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.optim import Coefficients, adamw_coefficients
from lmcore.schedule import cosine_lr


@dataclass
class Slot:
    """One run in progress."""

    run: RunSpec
    step: int = 0
    """Updates made."""
    updates_since_report: int = 0
    train_loss_sum: float = 0.0
    """Sum of the training losses of those updates, nats per token."""
    train_s: float = 0.0
    """Wall seconds of those updates."""
    elapsed_s: float = 0.0
    """Wall seconds since the run began, evaluation included."""
    last_row: Row | None = None
    """The last report; saved with the slot, so that whoever resumes can repeat a report that may not have arrived."""

    @property
    def finished(self) -> bool:
        """Whether all updates have been made."""
        return self.step >= self.run.train.steps

    @property
    def updates_to_report(self) -> int:
        """Updates until the next report: a multiple of eval_every, or the end of the run."""
        every = self.run.train.eval_every
        return min(self.run.train.steps - self.step, every - self.step % every)

    @property
    def max_norm(self) -> float:
        """Largest norm of the gradient, infinite where nothing is clipped."""
        clip_norm = self.run.optim.clip_norm
        return math.inf if clip_norm is None else clip_norm

    def lr(self, update: int) -> float:
        """Learning rate of update number `update`, counted from 1, so that no update is spent at rate 0."""
        optim, steps = self.run.optim, self.run.train.steps
        return float(cosine_lr(update, optim.lr, optim.min_lr_ratio * optim.lr, self.run.warmup_steps, steps))

    def coefficients(self, update: int) -> Coefficients:
        """AdamW's numbers for update number `update`."""
        optim = self.run.optim
        return adamw_coefficients(self.lr(update), (optim.beta1, optim.beta2), optim.eps, optim.weight_decay, update)
