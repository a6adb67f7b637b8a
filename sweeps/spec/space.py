"""The search space: one range or list of choices per dotted path.

Here an entry is parsed and checked, the space becomes Optuna's distributions, and a grid is laid out. Whether the runs
that a space leads to are valid is checked in `sweeps.spec.sweep_spec`, which has the runs. Optuna is imported only when
distributions are asked for.
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

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DEFAULT_POINTS = 3
MAX_GRID = 100_000

CONSTRAINED = ("model.d_model", "model.num_heads", "model.positions")
"""Fields whose values can be right one by one and wrong together: heads divide the width, evenly with rope."""
MAX_COMBINATIONS = 10_000
"""Of constrained fields, as each of them is checked; a run is checked in less than 0.1 ms."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Config):
    """Every number from low to high, both included; integers when the field takes integers."""

    low: Number
    """Smallest value."""
    high: Number
    """Largest value, above low."""
    log: bool = False
    """Search the logarithm: for fields whose ratio matters, such as a learning rate."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Values that a grid takes, ends included; null is 3, or every step."""
    step: PositiveFloat | None = None
    """Only low, low + step, ... high; null is any number (any integer)."""

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
            if (Decimal(repr(self.high)) - Decimal(repr(self.low))) % Decimal(repr(self.step)):
                raise FieldError(
                    "step", f"must lead from low to high exactly (got {self.step:g}); change one of the three"
                )
        return self


class Choices(Config):
    """One of several values, without an order."""

    choices: Annotated[tuple[Any, ...], Field(strict=False)]
    """The values, at least one, no two equal."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.choices:
            raise FieldError("choices", "must not be empty (got []); list at least one value")
        for i, choice in enumerate(self.choices):
            if choice in self.choices[:i]:
                raise FieldError("choices", f"must be distinct (got {show(choice)} twice); remove one")
        return self


def _parse(value: Any) -> Range | Choices:
    """An entry of the space from what YAML gives; FieldError says what is wrong with it, and where in it."""
    if isinstance(value, Range | Choices):
        return value
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


Space = dict[str, Annotated[Range | Choices, BeforeValidator(_parse)]]
"""Entries by dotted path."""


def check_entry(path: str, entry: Range | Choices) -> None:
    """FieldError if the field at `path` cannot be searched in this way; single values are not looked at."""
    if isinstance(entry, Choices):
        return
    if plain_types(path).isdisjoint((int, float)):
        raise FieldError(
            f"space.{path}.low", f"must not be given for what is no number (got {entry.low:g}); use choices: [...]"
        )
    if takes_integers(path):
        for name, value in (("low", entry.low), ("high", entry.high), ("step", entry.step)):
            if value is not None and not value.is_integer():
                raise FieldError(
                    f"space.{path}.{name}", f"must be an integer, as {path} is one (got {value:g}); round it"
                )


def takes_integers(path: str) -> bool:
    """Whether the numbers that a field takes are integers only."""
    kinds = plain_types(path)
    return int in kinds and float not in kinds


def distributions(space: Mapping[str, Range | Choices]) -> dict[str, "BaseDistribution"]:
    """Optuna's distributions by dotted path: Int for fields that take integers, else Float; Categorical for choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    result: dict[str, BaseDistribution] = {}
    for path, entry in space.items():
        if isinstance(entry, Choices):
            result[path] = CategoricalDistribution(entry.choices)
        elif takes_integers(path):
            step = 1 if entry.step is None else int(entry.step)
            result[path] = IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=step)
        else:
            result[path] = FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
    return result


def grid_values(path: str, entry: Range | Choices) -> tuple[Any, ...]:
    """The values of one entry that a grid takes, ascending for a range; a narrow integer range can have fewer."""
    if isinstance(entry, Choices):
        return entry.choices
    count = _count(entry)
    if entry.step is not None:
        low, step = Decimal(repr(entry.low)), Decimal(repr(entry.step))
        values = [float(low + i * step) for i in range(count)]
    else:
        values = [_between(entry, i / (count - 1)) for i in range(count)]
    return tuple(dict.fromkeys(round(value) for value in values)) if takes_integers(path) else tuple(values)


def check_grid(space: Mapping[str, Range | Choices]) -> None:
    """FieldError if the full grid is too large to be laid out."""
    size = math.prod(_count(entry) for entry in space.values())
    if size > MAX_GRID:
        raise FieldError("space", f"must have at most {MAX_GRID:,} combinations for a grid (got {size:,}); set points")


def grid(space: Mapping[str, Range | Choices]) -> list[dict[str, Any]]:
    """Every combination of the entries' grid values; the last entry varies fastest."""
    values = [grid_values(path, entry) for path, entry in space.items()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def limited(grid: Sequence[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """At most n combinations, drawn without replacement; those drawn keep the grid's order."""
    if n >= len(grid):
        return list(grid)
    return [grid[i] for i in sorted(random.Random(seed).sample(range(len(grid)), n))]


def check_combinations(space: Mapping[str, Range | Choices]) -> None:
    """FieldError if the CONSTRAINED fields have too many combinations to check; their entries must be valid."""
    counts = {path: _count_all(entry) for path, entry in space.items() if path in CONSTRAINED}
    combinations = math.prod(counts.values())
    if combinations > MAX_COMBINATIONS:
        rule = f"must leave at most {MAX_COMBINATIONS:,} combinations of {', '.join(counts)} to check"
        largest = max(counts, key=counts.__getitem__)
        raise FieldError(f"space.{largest}", f"{rule} (got {combinations:,}); give a step, or choices")


def corners(space: Mapping[str, Range | Choices]) -> Iterator[dict[str, Any]]:
    """Overrides under which a wrong space shows, whatever is wrong with it: a space whose corners are valid is valid.

    Of the CONSTRAINED fields every combination is taken, of their ranges every integer (`check_combinations` bounds
    them). All other fields vary one at a time beside the first of these: choices give each, a range low and high.
    """
    together = {path: _all_values(entry) for path, entry in space.items() if path in CONSTRAINED}
    for values in itertools.product(*together.values()):
        yield dict(zip(together, values, strict=True))
    first = {path: values[0] for path, values in together.items()}
    for path, entry in space.items():
        if path not in together:
            for value in entry.choices if isinstance(entry, Choices) else (entry.low, entry.high):
                yield {**first, path: value}


def part_of_entry(entry: Range | Choices, value: Any) -> str:
    """Which part of an entry a value comes from: `low`, `high`, `choices`, or nothing for one in between."""
    if isinstance(entry, Choices):
        return "choices"
    return {entry.low: "low", entry.high: "high"}.get(value, "")


def _count(entry: Range | Choices) -> int:
    """Values that a grid takes of an entry, before equal integers are merged."""
    if isinstance(entry, Choices):
        return len(entry.choices)
    if entry.step is not None:
        return int((Decimal(repr(entry.high)) - Decimal(repr(entry.low))) / Decimal(repr(entry.step))) + 1
    return entry.points or DEFAULT_POINTS


def _between(entry: Range, fraction: float) -> float:
    """The value at a fraction of the way from low to high, geometrically if log; the ends are exact."""
    if fraction in (0.0, 1.0):
        return entry.high if fraction else entry.low
    if entry.log:
        value = math.exp(math.log(entry.low) * (1 - fraction) + math.log(entry.high) * fraction)
    else:
        value = entry.low * (1 - fraction) + entry.high * fraction
    # Twelve digits, so that the middle of 3e-4 and 3e-2 reads 0.003 in every table; clamped, for a range of one ulp.
    return min(max(float(f"{value:.12g}"), entry.low), entry.high)


def _all_values(entry: Range | Choices) -> Sequence[Any]:
    """Every value of choices or of a range of integers."""
    if isinstance(entry, Choices):
        return entry.choices
    return range(int(entry.low), int(entry.high) + 1, int(entry.step or 1))


def _count_all(entry: Range | Choices) -> int:
    """`len(_all_values(entry))`, also where that exceeds what len can return."""
    if isinstance(entry, Choices):
        return len(entry.choices)
    return (int(entry.high) - int(entry.low)) // int(entry.step or 1) + 1
