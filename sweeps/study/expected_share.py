"""What early stopping is expected to leave of a study's training, before a trial has begun."""

from lmcore.reports import comparable_step
from sweeps.spec.arms import StudyPlan
from sweeps.spec.cost import costliest
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.promotion import Ladder
from sweeps.study.rungs import expected_rest, rung_steps

MANY = 1000
"""Trials, with more of which the share hardly changes."""


def expected_share(spec: SweepSpec, plan: StudyPlan) -> float:
    """The share of a study's training that early stopping is expected to leave; 1 where nothing is known of it.

    >>> expected_share(SweepSpec(name="quick", search={"scheduler": "none"}), StudyPlan("main"))
    1.0
    """
    search = spec.search
    longest = costliest(spec, plan.size)
    if search.scheduler == "asha-stop":
        rungs = rung_steps(spec.grace_steps(plan.size), longest.steps, search.reduction_factor)
        return expected_rest(0, (*rungs, longest.steps), search.reduction_factor) / longest.steps
    ladder = study_ladder(spec, plan.size)
    if ladder is None:
        return 1.0
    numbers = range(min(spec.trials_in(plan), MANY))
    return ladder.budget(ladder.brackets_of(numbers)) / (len(numbers) * ladder.steps) if numbers else 1.0


def study_ladder(spec: SweepSpec, size: str) -> Ladder | None:
    """The rungs of the search studies of a size; None if the scheduler pauses no trials."""
    search, longest = spec.search, costliest(spec, size)
    every, steps = longest.train.eval_every, comparable_step(longest, longest.steps)
    return Ladder.of(search.scheduler, spec.grace_steps(size), steps, search.reduction_factor, every)
