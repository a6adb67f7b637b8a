"""What a trainer knows about one slot on the host: its run, its progress, and the numbers of each update.

Learning rate and optimizer coefficients are Python floats (float64) here and are cast at their last use. The tensors of
a slot are in its population (`lmcore.population.population`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmcore.branches import Branch, branch_run, branches_of
from lmcore.checkpoint import JSON
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
    >>> slot.updates_to_event, slot.lr(10), slot.finished
    (25, 0.003, False)

    While the slot trains a branch (`lmcore.branches`), `branch` is a `Slot` for the run that the branch equals, and
    these fields stand still at the update after which it left.
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
    fraction: float | None = None  # of a branch, that in `train.branches`
    branch: "Slot | None" = None  # the branch that is being trained, or was the last thing trained
    branches_done: int = 0  # branches that have ended
    branch_rows: list[Row] = field(default_factory=list)  # of those since the last report; a list never changed

    @property
    def finished(self) -> bool:
        """Whether all updates have been made."""
        return self.step >= self.run.steps

    @property
    def next_branch(self) -> Branch | None:
        """The next branch to train, if there is one."""
        left = branches_of(self.run)[self.branches_done :]
        return left[0] if left else None

    @property
    def branches_here(self) -> bool:
        """Whether the next branch leaves the trunk here."""
        return self.next_branch is not None and self.next_branch.begin == self.step

    @property
    def has_branched(self) -> bool:
        """Whether a branch has begun since the last report."""
        return self.branch is not None or bool(self.branch_rows)

    def begin_branch(self) -> None:
        """Let the next branch begin: from now on `branch` is what is trained."""
        assert self.next_branch is not None
        fraction = self.next_branch.fraction
        self.branch = Slot(branch_run(self.run, fraction), self.step, fraction=fraction)

    @property
    def updates_to_event(self) -> int:
        """Updates until the next report (`lmcore.reports`), or until a branch leaves before that.

        A branch has a report at its end alone. It pauses where its run would report, so that whoever trains it can save
        it or stop it as often as its trunk.
        """
        event = next_report(self.run, self.step)
        if self.next_branch is not None:
            event = min(event, self.next_branch.begin)
        return event - self.step

    @property
    def report_is_due(self) -> bool:
        """Whether there is a report after the update just made."""
        return self.finished if self.fraction is not None else is_due(self.run, self.step)

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

    def state(self) -> dict[str, JSON]:
        """All fields as JSON. A branch that has ended is left out, because the trunk is what goes on."""
        branch = None if self.branch is None or self.branch.finished else self.branch.state()
        return {**vars(self), "run": self.run.model_dump(), "branch": branch}

    @classmethod
    def of_state(cls, run: RunSpec, state: Mapping[str, Any]) -> "Slot":
        """The slot of `run` that `state` returned. KeyError or TypeError if it is not such a state."""
        branch = state.get("branch")
        if branch is not None:
            branch = cls.of_state(branch_run(run, branch["fraction"]), branch)
        return cls(**{**state, "run": run, "branch": branch})
