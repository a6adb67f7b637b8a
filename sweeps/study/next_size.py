"""The size after the last one of a sweep, at the settings that the law of optima predicts for it: best/next.yaml."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optuna.distributions import BaseDistribution

from lmcore.config import RunSpec, flatten
from lmcore.runfile.paths import BUDGET, apply, layered
from sweeps.spec.arms import StudyPlan
from sweeps.spec.ladder import next_size
from sweeps.spec.space import Layout
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.transfer import PREDICTED, KnownTrials, Transfer, show_prediction


class NextRun(NamedTuple):
    """A run of a size that nobody has trained yet.

    Example:
        following = next_run(spec, spec.studies[-1], space, known)
        following.run.model.d_model, following.note
    """

    run: RunSpec
    note: str
    """What is predicted, with intervals."""


def next_run(
    spec: SweepSpec, plan: StudyPlan, space: Mapping[str, BaseDistribution], known: Sequence[KnownTrials]
) -> NextRun | None:
    """The run after those of `plan`, the largest size, from the trials of all its sizes; None if they say too little.

    Settings that the space does not have are those of the base run. FieldError if these make no valid run of that size.
    """
    arm = plan.arm.overrides
    size = next_size(spec.ladder, [spec.run_for(name, arm) for name in spec.size_names])
    if size is None:
        return None
    base = apply(spec.base, layered(size, arm))
    entry = Transfer(space, base.model.parametrization == "mup").described(
        known, KnownTrials.of(base, []), spec.size_names
    )
    if entry is None:
        return None
    fields = {**flatten(spec.base), **dict.fromkeys(BUDGET), **size, **arm}
    proposed = Layout(spec.searched, fields).overrides(entry[PREDICTED])
    run = apply(spec.base, layered(size, {**arm, **proposed})).in_steps()
    return NextRun(run, f"the size after the last one, at the optimum predicted by {show_prediction(entry)}")
