"""Runs drawn from a study's part of the space: what its trials cost on average, and how many shapes they have."""

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from lmcore.config import FIELD_ROLES, RunSpec
from lmcore.runfile.paths import BUDGET
from sweeps.spec.arms import StudyPlan
from sweeps.spec.cost import TIED
from sweeps.spec.entries import Entry, Range
from sweeps.spec.grid import grid, grid_count, sample_grid, spread
from sweeps.spec.space import ends, samples

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

MOST = 256
"""Runs that are drawn at most: they decide nothing that would need more."""
COUNTED = {*(path for path, role in FIELD_ROLES.items() if role == "static"), *BUDGET, TIED, "model.dropout"}
"""Fields that make a run cost more, or another program."""


def sampled_runs(spec: "SweepSpec", plan: StudyPlan) -> list[tuple[RunSpec, float]]:
    """Runs that differ in COUNTED, each with its share of the study's trials; the same at every call.

    A grid and a list have their own trials. Otherwise each entry of the space is drawn at random.

    >>> spec = SweepSpec(name="two", space={"train.batch_size": [8, 16]}, search={"method": "grid"})  # doctest: +SKIP
    >>> [(run.train.batch_size, share) for run, share in sampled_runs(spec, spec.studies[0])]  # doctest: +SKIP
    [(8, 0.5), (16, 0.5)]
    """
    count = min(MOST, spec.trials_in(plan))
    if spec.search.method == "experiments":
        drawn = [dict(experiment.overrides) for experiment in spec.experiments[:count]]
    else:
        layout = spec.study_layout(plan)
        drawn = [{**plan.arm.overrides, **layout.overrides(params)} for params in _proposals(spec, plan, count)]
    counted = Counter(tuple((path, value) for path, value in one.items() if path in COUNTED) for one in drawn)
    return [(spec.run_for(plan.size, dict(few)), n / len(drawn)) for few, n in counted.items()]


def _proposals(spec: "SweepSpec", plan: StudyPlan, count: int) -> list[dict[str, Any]]:
    """What the search may propose for `count` trials."""
    rng = random.Random(0)
    if spec.search.method == "grid":
        return sample_grid(grid(spec.searched, spec.study_layout(plan).fields), count, seed=0)
    values = {name: _values(name, entry, count) for name, entry in spec.searched.items()}
    return [{name: rng.choice(some) for name, some in values.items() if some} for _ in range(count)]


def _values(name: str, entry: Entry, count: int) -> tuple[Any, ...]:
    """All choices, or up to `count` values of a range; nothing for what is computed."""
    if not isinstance(entry, Range):
        return ends(entry)
    if entry.step is not None and grid_count(entry) > MOST:
        return samples(name, entry)
    return spread(name, entry, max(2, count))
