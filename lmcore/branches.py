"""Branches of a run with schedule: wsd: finished models of shorter budgets, from the updates of one run. No torch.

Up to its decay, a wsd run (Haegele et al., 2024) does not depend on how long it will be. So its *trunk*, which is
warm-up and constant learning rate, is shared by runs of all lengths: for a fraction b of its T updates, the state after
update round(b T) - T_d is decayed over T_d = round(decay_fraction * round(b T)) updates of its own, and the trunk goes
on from the same state. The result is, bit for bit on a CPU, that of `branch_run`: a run of round(b T) updates from the
start. `train.branches` lists the fractions; `lmcore.trainer` trains them.

>>> from lmcore.config import OptimConfig, TrainConfig
>>> run = RunSpec(train=TrainConfig(steps=1000, branches=(0.25, 0.5)), optim=OptimConfig(schedule="wsd"))
>>> branches_of(run)
(Branch(fraction=0.25, begin=200, steps=250), Branch(fraction=0.5, begin=400, steps=500))
>>> updates_by(run, 1000)
1150
"""

from typing import NamedTuple

from lmcore.config import BUDGET_FIELDS, RunSpec


class Branch(NamedTuple):
    """One of `train.branches`."""

    fraction: float
    """b, of the run's updates."""
    begin: int
    """Updates of the trunk that it shares; it leaves the trunk after that many."""
    steps: int
    """All its updates, those of the trunk included."""

    @property
    def updates(self) -> int:
        """Updates of its own, in which the learning rate decays."""
        return self.steps - self.begin


def branches_of(run: RunSpec) -> tuple[Branch, ...]:
    """The branches of a run, the shortest first. The run itself, 1, is none."""
    return tuple(_branch(run, fraction) for fraction in run.train.branches or () if fraction < 1)


def branch_run(run: RunSpec, fraction: float) -> RunSpec:
    """The run from the start that a branch of `run` equals.

    >>> from lmcore.config import OptimConfig, TrainConfig
    >>> run = RunSpec(train=TrainConfig(steps=1000, branches=(0.25,)), optim=OptimConfig(schedule="wsd"))
    >>> alone = branch_run(run, 0.25)
    >>> alone.steps, alone.warmup_steps, alone.decay_steps, run.warmup_steps
    (250, 50, 50, 50)

    It has as many updates of warm-up as `run`. Everything else is as in `run`.
    """
    steps = round(fraction * run.steps)
    # W / steps * steps is within two roundings of W, so that the run's own rounding gives W again.
    optim = run.optim.model_copy(update={"warmup_fraction": run.warmup_steps / steps})
    budget = {**dict.fromkeys(BUDGET_FIELDS), "steps": steps, "branches": None}
    return run.model_copy(update={"train": run.train.model_copy(update=budget), "optim": optim})


def updates_by(run: RunSpec, step: int) -> int:
    """Updates made when the trunk of `run` has made `step`: its own, and those of the branches that left it before."""
    return step + sum(branch.updates for branch in branches_of(run) if branch.begin < step)


def check_branches(run: RunSpec) -> None:
    """ValueError if `run` cannot have its branches; the message begins with the path of the field at fault."""
    fractions = run.train.branches
    if not fractions:
        return
    if run.optim.schedule != "wsd":
        rule = "must be wsd with train.branches, as only its learning rate stays the same until the decay"
        raise ValueError(f"optim.schedule {rule} (got {run.optim.schedule}); set it, or leave train.branches out")
    steps: dict[int, float] = {run.steps: 1.0}
    for fraction in fractions:
        branch = _branch(run, fraction)
        if fraction == 1:
            continue
        if not branch.updates:
            given = f"{fraction:g}, {branch.steps} of {run.steps} updates"
            remedy = "leave that out, raise optim.decay_fraction, or train longer"
            raise ValueError(f"train.branches must leave every branch an update to decay in (got {given}); {remedy}")
        if branch.steps in steps:
            rule = f"must round to different updates (got {fraction:g} and {steps[branch.steps]:g}"
            raise ValueError(f"train.branches {rule}, both {branch.steps} of {run.steps}); leave one of them out")
        if branch.begin < run.warmup_steps:
            rule = (
                f"must begin their decay after warm-up (got {fraction:g}, which would decay from update {branch.begin}"
            )
            remedy = "leave that out, or lower optim.warmup_fraction or optim.decay_fraction"
            raise ValueError(f"train.branches {rule}, with {run.warmup_steps} of warm-up); {remedy}")
        steps[branch.steps] = fraction


def _branch(run: RunSpec, fraction: float) -> Branch:
    steps = round(fraction * run.steps)
    return Branch(fraction, steps - round(run.optim.decay_fraction * steps), steps)
