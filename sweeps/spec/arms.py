"""Arms and studies: what a sweep searches on its own, so that each of them ends in a tuned, finished model.

`compare` names fields of the space. Each combination of their values is an *arm*; each (size, arm) has an Optuna study
of its own, and a second one for its confirmation runs. Without `compare` there is one arm, which has no name.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt

from lmcore import columns as col
from lmcore.config import Config
from lmcore.runfile.paths import FieldError, show

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

SEED_PATHS = ("train.seed", "data.seed")
"""What may differ between two runs of one setting."""
MAX_STUDY_NAME = 48
"""Characters of size and arm together: with `-confirm-` and a number they name trials, their folders and configs."""
REPEATS = "repeats "
"""Begins the note in the run.yaml of a confirmation run; the id of the trial that it repeats follows."""
NAMES: dict[str, dict[Any, str]] = {
    "model.tie_embeddings": {True: "tied", False: "untied"},
    "model.num_kv_heads": {None: "all-kv_heads"},
    "train.micro_batch_size": {None: "whole-batches"},
}
"""Words for values that would not be clear on their own."""


class ConfirmConfig(Config):
    """Confirmation: after the search, the best settings are trained again under new seeds.

    >>> ConfirmConfig(top=3).seeds
    3
    """

    top: NonNegativeInt = 0
    """How many of the best settings of each size and arm are confirmed, or of experiments all; 0: no confirmation."""
    seeds: PositiveInt = 3
    """Number of new seeds, of initial weights and of the order of the data, the same for every setting; settings that
    are clearly beaten are not trained under all of them."""


@dataclass(frozen=True)
class Arm:
    """One combination of the values in `compare`.

    >>> Arm("tied", {"model.tie_embeddings": True}).name
    'tied'
    """

    name: str | None = None
    """None if the sweep has no `compare`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyPlan:
    """One study of a sweep.

    >>> StudyPlan("xs", Arm("tied", {"model.tie_embeddings": True}), col.CONFIRM).id
    'xs-tied-confirm'
    """

    size: str
    arm: Arm = Arm()
    phase: str = col.SEARCH

    @property
    def id(self) -> str:
        """What the ids of its trials begin with."""
        return f"{self.group}-{col.CONFIRM}" if self.phase == col.CONFIRM else self.group

    @property
    def name(self) -> str:
        """Its name in Optuna, without the sweep's."""
        return f"{self.group}/{col.CONFIRM}" if self.phase == col.CONFIRM else self.group

    @property
    def group(self) -> str:
        """Size and arm: what a search study and its confirmation have in common."""
        return self.size if self.arm.name is None else f"{self.size}-{self.arm.name}"

    @property
    def confirmation(self) -> "StudyPlan":
        """The study that confirms this one."""
        return StudyPlan(self.size, self.arm, col.CONFIRM)


def arms_of(compare: Sequence[str], choices: Mapping[str, Sequence[Any]]) -> tuple[Arm, ...]:
    """Every combination of the choices of the compared fields; the last field varies fastest.

    >>> [arm.name for arm in arms_of(["model.tie_embeddings"], {"model.tie_embeddings": [False, True]})]
    ['untied', 'tied']

    Raises FieldError if two arms would have the same name.
    """
    if not compare:
        return (Arm(),)
    arms = []
    for values in itertools.product(*(choices[path] for path in compare)):
        overrides: dict[str, Any] = {}
        for name, value in zip(compare, values, strict=True):
            overrides |= value if isinstance(value, dict) else {name: value}  # of joint choices, several fields
        arms.append(Arm("-".join(_word(path, value) for path, value in overrides.items()), overrides))
    names = [str(arm.name).casefold() for arm in arms]
    for name in names:
        if names.count(name) > 1:
            rule = f"must give each arm a name of its own (two are called {name!r})"
            raise FieldError("compare", f"{rule}; compare one field at a time")
    return tuple(arms)


def _word(path: str, value: Any) -> str:
    """A value as part of a file name: `tied`, `gelu`, `num_heads4`, `no-clip_norm`."""
    field_name = path.rpartition(".")[2]
    if value in NAMES.get(path, {}):
        return NAMES[path][value]
    if isinstance(value, bool):
        return field_name if value else f"no-{field_name}"
    if value is None:
        return f"no-{field_name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", value if isinstance(value, str) else f"{field_name}{value:g}")


def check_studies(spec: "SweepSpec") -> None:
    """FieldError unless the compared fields make arms with names of their own, and each study gets a trial."""
    check_compare(spec.compare, spec.space, spec.search.method == "experiments")
    studies = spec.studies
    ids = [plan.id.casefold() for plan in (*studies, *(plan.confirmation for plan in studies))]
    ids += [name.casefold() for name in spec.size_names if spec.compare]  # files in best/ are called so
    for plan in studies:
        if len(plan.group) > MAX_STUDY_NAME:
            rule = f"size and arm must make a name of at most {MAX_STUDY_NAME} characters (got {plan.group!r})"
            raise FieldError("compare", f"{rule}; shorten the size's name")
        if ids.count(plan.id.casefold()) > 1:
            rule = f"must make names that no other size and arm has (got {plan.id!r} twice)"
            raise FieldError("compare" if spec.compare else "sizes", f"{rule}; rename a size")
    if not spec.compare:
        return
    counts = [spec.trials_in(plan) for plan in studies]
    if not min(counts):
        rule = f"must be at least 1 for each size and arm (got {sum(counts)} for {len(studies)})"
        raise FieldError("search.trials", f"{rule}; raise it")
    if (
        all(hasattr(entry, "equals") for entry in spec.searched.values())
        and spec.search.method != "grid"
        and max(counts) > 1
    ):
        rule = "must hold a field besides those that are compared, or all trials of an arm are the same"
        raise FieldError("space", f"{rule} (got {', '.join(spec.compare)}); add one, or use search.method: grid")


def check_compare(compare: Sequence[str], space: Mapping[str, Any], experiments: bool) -> None:
    """FieldError unless every compared path has choices in the space. `experiments`: whether those are trained."""
    for path in compare:
        if compare.count(path) > 1:
            raise FieldError("compare", f"must name each field once (got {path} twice); remove one")
        if path in SEED_PATHS:
            rule = f"must not name a seed, as arms are compared under the same seeds (got {path})"
            raise FieldError("compare", f"{rule}; leave it out, and set confirm.seeds")
        if experiments:
            rule = f"must be empty for the search method experiments, each of which is an arm (got {path})"
            raise FieldError("compare", f"{rule}; leave it out")
        entry = space.get(path)
        if entry is None:
            rule = f"must name fields of the space (got {path}, which is not in it)"
            raise FieldError("compare", f"{rule}; add `{path}: {{choices: [...]}}` to the space")
        if hasattr(entry, "equals"):
            found = f"{path}, which is computed"
            raise FieldError("compare", f"must name fields with choices (got {found}); name what it is computed from")
        if not hasattr(entry, "choices"):
            found = f"{path}, which is a range from {show(entry.low)} to {show(entry.high)}"
            raise FieldError("compare", f"must name fields with choices (got {found}); list the values to compare")
        if len(entry.choices) < 2:
            raise FieldError("compare", f"needs at least two choices of a field (got 1 of {path}); add one")
        for part in ("when", "times"):
            if getattr(entry, part, None) is not None:
                rule = f"must name entries whose choices are those of every trial (got {path}, which has {part})"
                raise FieldError("compare", f"{rule}; leave it out, or remove {part}")
        if seeds := [seed for seed in SEED_PATHS if any(isinstance(c, dict) and seed in c for c in entry.choices)]:
            rule = (
                f"must not vary a seed, as arms are compared under the same seeds (got {path}, which sets {seeds[0]})"
            )
            raise FieldError("compare", f"{rule}; leave it out, and set confirm.seeds")
