"""The search space: what may be searched at each dotted path, as Optuna's distributions.

| file          | about                                                                   |
|---------------|-------------------------------------------------------------------------|
| entries.py    | the kinds of entries, and how they are read                             |
| expression.py | the expressions of `times` and `equals`                                 |
| references.py | from what is proposed to the overrides of a run                         |
| proposals.py  | from the fields of a run back to what is proposed                       |
| grid.py       | a space as a grid                                                       |
| corners.py    | the extreme trials, which show whether all are valid                    |

`sweeps.spec.sweep_spec` checks the runs that they lead to. Optuna is imported only when distributions are asked for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError, plain_types, show
from sweeps.spec.corners import CONSTRAINED as CONSTRAINED
from sweeps.spec.corners import MAX_COMBINATIONS as MAX_COMBINATIONS
from sweeps.spec.corners import check_combinations as check_combinations
from sweeps.spec.corners import corners as corners
from sweeps.spec.corners import ends as ends
from sweeps.spec.corners import part_of_entry as part_of_entry
from sweeps.spec.corners import samples as samples
from sweeps.spec.entries import Choices as Choices
from sweeps.spec.entries import Derived as Derived
from sweeps.spec.entries import Entry as Entry
from sweeps.spec.entries import JointChoices as JointChoices
from sweeps.spec.entries import Range as Range
from sweeps.spec.entries import Space as Space
from sweeps.spec.entries import choices_of as choices_of
from sweeps.spec.entries import expression_of as expression_of
from sweeps.spec.entries import is_numeric as is_numeric
from sweeps.spec.entries import paths_of as paths_of
from sweeps.spec.expression import parse as parse
from sweeps.spec.grid import MAX_GRID as MAX_GRID
from sweeps.spec.grid import check_grid as check_grid
from sweeps.spec.grid import grid as grid
from sweeps.spec.grid import grid_values as grid_values
from sweeps.spec.grid import sample_grid as sample_grid
from sweeps.spec.references import Layout as Layout
from sweeps.spec.references import check_references as check_references
from sweeps.spec.references import owners_of as owners_of
from sweeps.spec.references import takes_integers as takes_integers

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Mapping[str, Entry]) -> dict[str, "BaseDistribution"]:
    """Optuna's distributions by name of the entry: Categorical for choices, Int or Float (as the field is) for ranges.

    What is computed has none. Categories of joint choices are their labels.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    result: dict[str, BaseDistribution] = {}
    for path, entry in space.items():
        if isinstance(entry, JointChoices):
            result[path] = CategoricalDistribution(entry.labels)
        elif isinstance(entry, Choices):
            result[path] = CategoricalDistribution(entry.choices)
        elif isinstance(entry, Derived):
            continue
        elif takes_integers(path):
            result[path] = IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
        else:
            result[path] = FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
    return result


def choices_at(space: Mapping[str, Entry], path: str) -> tuple[Any, ...]:
    """The values that choices of the space, single or joint, give a field; none if no choices do.

    >>> choices_at({"width": JointChoices(choices=[{"model.d_model": 64}, {"model.d_model": 96}])}, "model.d_model")
    (64, 96)
    """
    owner = owners_of(space).get(path)
    if owner is None:
        return ()
    entry = space[owner]
    if isinstance(entry, JointChoices):
        return tuple(dict.fromkeys(choice[path] for choice in entry.choices))
    return choices_of(entry)


def whole_numbers_at(space: Mapping[str, Entry], path: str) -> set[int]:
    """The whole numbers that a trial may have at a path, at most those below MAX_GRID and the ends of a range."""
    entry = space.get(path)
    if isinstance(entry, Range):
        return {int(entry.low), int(entry.high), *range(int(entry.low), min(int(entry.high) + 1, MAX_GRID))}
    return set(choices_at(space, path))


def check_entry(path: str, entry: Entry) -> None:
    """FieldError if an entry does not suit the field at `path`. Values are checked with the runs that they lead to."""
    if isinstance(entry, JointChoices):
        if path in RUN_DEFAULTS or "." in path:
            rule = f"must have a name of its own without dots, as it sets {', '.join(entry.paths)} (got {path})"
            raise FieldError(f"space.{path}", f"{rule}; call it width, for example")
        return
    numeric = not plain_types(path).isdisjoint((int, float))
    if isinstance(entry, Range) and not numeric:
        rule = f"must not be given for a field that is not a number (got {entry.low:g})"
        raise FieldError(f"space.{path}.low", f"{rule}; use choices: [...]")
    if (expression := expression_of(entry)) is not None:
        _check_computed(path, entry, expression, numeric)
    if isinstance(entry, Range) and takes_integers(path):
        for name, value in (("low", entry.low), ("high", entry.high), ("step", entry.step)):
            if value is not None and not value.is_integer():
                rule = f"must be an integer, as {path} is one (got {value:g}); round it"
                raise FieldError(f"space.{path}.{name}", rule)


def _check_computed(path: str, entry: Entry, expression: str, numeric: bool) -> None:
    """FieldError if the field at `path` may not be computed, or a choice cannot be multiplied."""
    part = "equals" if isinstance(entry, Derived) else "times"
    if not numeric:
        rule = f"must not be given for a field that is not a number (got {show(expression)})"
        raise FieldError(f"space.{path}.{part}", f"{rule}; use choices: [...]")
    if path in ("train.seed", "data.seed"):
        rule = f"must not compute a seed, as confirmation needs seeds that no trial has (got {show(expression)})"
        raise FieldError(f"space.{path}.{part}", f"{rule}; use choices: [...]")
    for choice in choices_of(entry):
        if isinstance(choice, bool) or not isinstance(choice, int | float):
            rule = f"must be numbers with times (got {show(choice)})"
            raise FieldError(f"space.{path}.choices", f"{rule}; remove it, or times")
