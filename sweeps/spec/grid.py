"""A space laid out as a grid: the values of each entry, and every combination of them."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError
from sweeps.spec.entries import Choices, Derived, Entry, JointChoices, Range, exact
from sweeps.spec.references import Layout, takes_integers

DEFAULT_POINTS = 3
MAX_GRID = 100_000


def grid_values(path: str, entry: Entry) -> tuple[Any, ...]:
    """The values of one entry in a grid, ascending for a range. A narrow range of integers may have fewer than asked.

    They are what is proposed: labels of joint choices, and numbers before they are multiplied.

    >>> grid_values("optim.lr", Range(low=3e-4, high=3e-2, log=True))
    (0.0003, 0.003, 0.03)
    """
    if isinstance(entry, JointChoices):
        return entry.labels
    if isinstance(entry, Choices):
        return entry.choices
    if isinstance(entry, Derived):
        return ()
    return spread(path, entry, grid_count(entry))


def spread(path: str, entry: Range, count: int) -> tuple[Any, ...]:
    """`count` values of a range, from low to high and evenly between; every step if it has a step."""
    if entry.step is not None:
        values = [float(exact(entry.low) + i * exact(entry.step)) for i in range(grid_count(entry))]
    else:
        values = [_between(entry, i / (count - 1)) for i in range(count)]
    return tuple(dict.fromkeys(round(value) for value in values)) if takes_integers(path) else tuple(values)


def grid_count(entry: Entry) -> int:
    """Number of values that a grid takes of an entry, before equal integers are merged."""
    if isinstance(entry, Derived):
        return 1
    if not isinstance(entry, Range):
        return len(entry.choices)
    if entry.step is not None:
        return int((exact(entry.high) - exact(entry.low)) / exact(entry.step)) + 1
    return entry.points or DEFAULT_POINTS


def check_grid(space: Mapping[str, Entry]) -> None:
    """FieldError if the full grid has more than MAX_GRID points, those that `when` leaves out included."""
    size = math.prod(grid_count(entry) for entry in space.values())
    if size > MAX_GRID:
        raise FieldError("space", f"must have at most {MAX_GRID:,} combinations for a grid (got {size:,}); set points")


def grid(space: Mapping[str, Entry], fields: Mapping[str, Any] = RUN_DEFAULTS) -> list[dict[str, Any]]:
    """Every combination of the entries' grid values that makes a trial of its own; the last entry varies fastest.

    A combination has no value of an entry whose condition it does not meet. `fields` are those of the run that trials
    override.
    """
    if all(entry.when is None for entry in space.values()):
        values = {path: grid_values(path, entry) for path, entry in space.items() if not isinstance(entry, Derived)}
        return product(values)
    layout = Layout(space, fields)
    points: list[dict[str, Any]] = [{}]
    for name in (*layout.searched, *layout.conditional):
        values_here = grid_values(name, space[name])
        points = [
            {**point, name: value} if applies else point
            for point in points
            for applies in (layout.applies(name, point),)
            for value in (values_here if applies else (None,))
        ]
    return points


def sample_grid(grid: Sequence[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """At most n points of the grid, drawn without replacement and kept in the grid's order."""
    if n >= len(grid):
        return list(grid)
    return [grid[i] for i in sorted(random.Random(seed).sample(range(len(grid)), n))]


def product(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values; the last key varies fastest."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


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
