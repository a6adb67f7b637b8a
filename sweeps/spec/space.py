"""The search space: a range or a list of choices for each dotted path.

Entries are checked here, converted to Optuna's distributions, and laid out as a grid. `sweeps.spec.sweep_spec` checks
the runs that they lead to. Optuna is imported only when distributions are asked for.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from lmcore.config import Config, PositiveFloat
from lmcore.runfile.paths import FieldError, defaults, describe, plain_types, show, whole_numbers
from sweeps.spec.other_tools import rule_for

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DEFAULT_POINTS = 3
MAX_GRID = 100_000
MAX_COMBINATIONS = 10_000  # of the fields of a group; each is checked, which takes less than 0.1 ms
GROUPS = (
    ("model.d_model", "model.num_heads", "model.num_kv_heads", "model.positions"),
    ("train.batch_size", "train.micro_batch_size"),
)
"""Fields whose values can be valid one by one and invalid together: the heads must divide the width, for example."""
CONSTRAINED = tuple(itertools.chain.from_iterable(GROUPS))

Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Config):
    """Every number from low to high, both included; only integers if the field takes only integers.

    >>> Range(low=3e-4, high=3e-2, log=True).points is None
    True
    """

    low: Number
    """Smallest value of the range."""
    high: Number
    """Largest value of the range; it must be above low."""
    log: bool = False
    """Whether to search on a logarithmic scale, as suits a learning rate; low must then be above 0."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Number of values that a grid takes, at least 2, both ends included; null means 3, or every step."""
    step: PositiveFloat | None = None
    """Distance between neighbouring values, above 0, leading from low to high exactly; null allows any value."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low >= self.high:
            raise FieldError("low", f"must be < high (got low {self.low:g}, high {self.high:g}); swap or widen them")
        if self.log and self.low <= 0:
            raise FieldError("low", f"must be > 0 with log: true (got {self.low:g}); raise it, or set log: false")
        if self.step is not None:
            if self.log or self.points is not None:
                other = "log: true" if self.log else f"points: {self.points}"
                raise FieldError("step", f"must not be given with {other} (got {self.step:g}); remove one of them")
            if (_exact(self.high) - _exact(self.low)) % _exact(self.step):
                rule = f"must lead from low to high exactly (got {self.step:g})"
                raise FieldError("step", f"{rule}; change one of the three")
        return self


class Choices(Config):
    """One of several values, in no particular order.

    >>> Choices(choices=[0.9, 0.99]).choices
    (0.9, 0.99)
    """

    choices: Annotated[tuple[Any, ...], Field(strict=False)]
    """The values to choose from: at least one, and no two equal."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.choices:
            raise FieldError("choices", "must not be empty (got []); list at least one value")
        for i, choice in enumerate(self.choices):
            if choice in self.choices[:i]:
                raise FieldError("choices", f"must be distinct (got {show(choice)} twice); remove one")
        return self


Entry = Range | Choices


def _parse(value: Any) -> Entry:
    """An entry of the space from its YAML value. FieldError names the part that is wrong."""
    if isinstance(value, Entry):
        return value
    if (rule := rule_for(value)) is not None:
        raise FieldError("", rule)
    if isinstance(value, list):
        value = {"choices": value}
    if not isinstance(value, dict):
        rule = "must be {low: ..., high: ...} or {choices: [...]}"
        raise FieldError("", f"{rule} (got {show(value)}); a value that is not searched belongs outside the space")
    if "choices" in value and len(value) > 1:
        others = ", ".join(key for key in value if key != "choices")
        raise FieldError("choices", f"must stand alone (got also {others}); keep the choices or the range")
    kind = Choices if "choices" in value else Range
    try:
        return kind.model_validate(whole_numbers(kind, value))
    except ValidationError as error:
        raise describe(error, defaults(kind)) from None


Space = dict[str, Annotated[Entry, BeforeValidator(_parse)]]
"""Entries by dotted path."""


def choices_of(entry: Entry) -> tuple[Any, ...]:
    """The choices of an entry; none if it is a range."""
    return entry.choices if isinstance(entry, Choices) else ()


def whole_numbers_of(entry: Entry) -> set[int]:
    """The whole numbers that a trial may have, at most those below MAX_GRID and the ends of a range."""
    if isinstance(entry, Choices):
        return set(entry.choices)
    return {int(entry.low), int(entry.high), *range(int(entry.low), min(int(entry.high) + 1, MAX_GRID))}


def check_entry(path: str, entry: Entry) -> None:
    """FieldError if a range does not suit the field at `path`. Single values are checked with the runs they lead to."""
    if isinstance(entry, Choices):
        return
    if plain_types(path).isdisjoint((int, float)):
        rule = f"must not be given for a field that is not a number (got {entry.low:g})"
        raise FieldError(f"space.{path}.low", f"{rule}; use choices: [...]")
    if takes_integers(path):
        for name, value in (("low", entry.low), ("high", entry.high), ("step", entry.step)):
            if value is not None and not value.is_integer():
                rule = f"must be an integer, as {path} is one (got {value:g}); round it"
                raise FieldError(f"space.{path}.{name}", rule)


def takes_integers(path: str) -> bool:
    """Whether the field at `path` takes integers and no other numbers."""
    return {int, float} & set(plain_types(path)) == {int}


def distributions(space: Mapping[str, Entry]) -> dict[str, "BaseDistribution"]:
    """Optuna's distributions by dotted path: Categorical for choices, Int or Float (as the field is) for ranges."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    result: dict[str, BaseDistribution] = {}
    for path, entry in space.items():
        if isinstance(entry, Choices):
            result[path] = CategoricalDistribution(entry.choices)
        elif takes_integers(path):
            result[path] = IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
        else:
            result[path] = FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
    return result


def grid_values(path: str, entry: Entry) -> tuple[Any, ...]:
    """The values of one entry in a grid, ascending for a range. A narrow range of integers may have fewer than asked.

    >>> grid_values("optim.lr", Range(low=3e-4, high=3e-2, log=True))
    (0.0003, 0.003, 0.03)
    """
    if isinstance(entry, Choices):
        return entry.choices
    count = _grid_count(entry)
    if entry.step is not None:
        values = [float(_exact(entry.low) + i * _exact(entry.step)) for i in range(count)]
    else:
        values = [_between(entry, i / (count - 1)) for i in range(count)]
    return tuple(dict.fromkeys(round(value) for value in values)) if takes_integers(path) else tuple(values)


def check_grid(space: Mapping[str, Entry]) -> None:
    """FieldError if the full grid has more than MAX_GRID points."""
    size = math.prod(_grid_count(entry) for entry in space.values())
    if size > MAX_GRID:
        raise FieldError("space", f"must have at most {MAX_GRID:,} combinations for a grid (got {size:,}); set points")


def grid(space: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Every combination of the entries' grid values; the last entry varies fastest."""
    return _product({path: grid_values(path, entry) for path, entry in space.items()})


def sample_grid(grid: Sequence[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """At most n points of the grid, drawn without replacement and kept in the grid's order."""
    if n >= len(grid):
        return list(grid)
    return [grid[i] for i in sorted(random.Random(seed).sample(range(len(grid)), n))]


def check_combinations(space: Mapping[str, Entry]) -> None:
    """FieldError if one of the GROUPS, whose entries must be valid, has more than MAX_COMBINATIONS."""
    for group in GROUPS:
        counts = {path: _count(_all_values(entry)) for path, entry in space.items() if path in group}
        combinations = math.prod(counts.values())
        if combinations > MAX_COMBINATIONS:
            rule = f"must leave at most {MAX_COMBINATIONS:,} combinations of {', '.join(counts)} to check"
            largest = max(counts, key=counts.__getitem__)
            raise FieldError(f"space.{largest}", f"{rule} (got {combinations:,}); give a step, or choices")


def corners(space: Mapping[str, Entry]) -> Iterator[dict[str, Any]]:
    """Overrides whose runs must be valid for the whole space to be valid.

    The fields of each of the GROUPS are combined in every way, with every integer of their ranges (`check_combinations`
    limits how many). Every other field varies alone, over all of its choices or both ends of its range. What does not
    vary has the first of its values, or that of the base run.
    """
    groups = [{path: _all_values(entry) for path, entry in space.items() if path in group} for group in GROUPS]
    first = {path: values[0] for together in groups for path, values in together.items()}
    yield first
    for together in groups:
        yield from ({**first, **combination} for combination in _product(together)[1:])
    for path, entry in space.items():
        if path not in first:
            for value in entry.choices if isinstance(entry, Choices) else (entry.low, entry.high):
                yield {**first, path: value}


def part_of_entry(entry: Entry, value: Any) -> str:
    """The part of an entry that a value comes from: `low`, `high` or `choices`; empty for a value between the ends."""
    if isinstance(entry, Choices):
        return "choices"
    return {entry.low: "low", entry.high: "high"}.get(value, "")


def _product(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _exact(number: float) -> Decimal:
    """The number as it is written: 0.3 is three times 0.1 as a Decimal, but not as a float."""
    return Decimal(repr(number))


def _grid_count(entry: Entry) -> int:
    """Number of values that a grid takes of an entry, before equal integers are merged."""
    if isinstance(entry, Choices):
        return len(entry.choices)
    if entry.step is not None:
        return int((_exact(entry.high) - _exact(entry.low)) / _exact(entry.step)) + 1
    return entry.points or DEFAULT_POINTS


def _between(entry: Range, fraction: float) -> float:
    """The value at a fraction of the way from low to high, geometrically if log; the ends are exact."""
    if fraction in (0.0, 1.0):
        return entry.high if fraction else entry.low
    if entry.log:
        value = math.exp(math.log(entry.low) * (1 - fraction) + math.log(entry.high) * fraction)
    else:
        value = entry.low * (1 - fraction) + entry.high * fraction
    # Rounded, so that the middle of 3e-4 and 3e-2 is 0.003. Rounding can leave a range one ulp wide, hence the clamp.
    return min(max(float(f"{value:.12g}"), entry.low), entry.high)


def _all_values(entry: Entry) -> Sequence[Any]:
    """Every value of choices, or of a range of integers."""
    if isinstance(entry, Choices):
        return entry.choices
    return range(int(entry.low), int(entry.high) + 1, int(entry.step or 1))


def _count(values: Sequence[Any]) -> int:
    """`len(values)`, also for a range whose length is beyond what len can return."""
    return (values[-1] - values[0]) // values.step + 1 if isinstance(values, range) else len(values)
