"""The extreme trials of a space, which must be valid for the whole space to be valid.

Entries that depend on each other are combined: those of fields whose values can be valid one by one and invalid
together, and those that others refer to. Any other entry varies alone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmcore.runfile.paths import FieldError
from sweeps.spec.entries import Choices, Derived, Entry, JointChoices, Range, exact, expression_of, paths_of
from sweeps.spec.grid import grid_count, product, spread
from sweeps.spec.references import Layout, takes_integers

MAX_COMBINATIONS = 10_000  # of entries that are combined; each is checked, which takes less than 0.1 ms
SAMPLES = 5
"""Values of a range of which there are too many, or infinitely many, where an expression refers to it."""
GROUPS = (
    ("model.d_model", "model.num_heads", "model.num_kv_heads", "model.positions"),
    ("model.parametrization", "model.base_width", "model.base_head_dim"),
    ("train.batch_size", "train.micro_batch_size"),
)
"""Fields whose values can be valid one by one and invalid together: the heads must divide the width, for example."""
CONSTRAINED = tuple(itertools.chain.from_iterable(GROUPS))


def corners(space: Mapping[str, Entry]) -> Iterator[dict[str, Any]]:
    """Proposals whose runs must be valid for the whole space to be valid; `Layout.overrides` makes overrides of them.

    The fields of each of the GROUPS are combined in every way, with every integer of their ranges, and so are entries
    that others refer to (`check_combinations` limits how many). With each combination, the entries that refer to it
    vary one by one. Every other entry varies alone, over all of its choices or both ends of its range. What does not
    vary has the first of its values, or that of the base run.
    """
    parts = _parts(space)
    first = {name: values[0] for together, _ in parts for name, values in together.items()}
    yield first
    for together, alone in parts:
        for i, combination in enumerate(product(together)):
            if i and together:
                yield {**first, **combination}
            for name, values in alone.items():
                yield from ({**first, **combination, name: value} for value in values)


def check_combinations(space: Mapping[str, Entry]) -> None:
    """FieldError if entries that are combined, and must be valid, have more than MAX_COMBINATIONS."""
    for together, alone in _parts(space):
        counts = {name: _count(values) for name, values in together.items()}
        combinations = math.prod(counts.values()) * (1 + sum(map(_count, alone.values())) if together else 1)
        if combinations > MAX_COMBINATIONS and counts:
            names = ", ".join([*counts, *alone])
            rule = f"must leave at most {MAX_COMBINATIONS:,} combinations of {names} to check"
            largest = max(counts, key=counts.__getitem__)
            raise FieldError(f"space.{largest}", f"{rule} (got {combinations:,}); give a step, or choices")


def part_of_entry(entry: Entry, value: Any) -> str:
    """The part of an entry that a value comes from: `low`, `high`, `choices`, `times` or `equals`.

    Empty for a value between the ends.
    """
    if isinstance(entry, Derived):
        return "equals"
    if expression_of(entry) is not None:
        return "times"
    if isinstance(entry, Range):
        return {entry.low: "low", entry.high: "high"}.get(value, "")
    return "choices"


def ends(entry: Entry) -> tuple[Any, ...]:
    """All choices, or both ends of a range; nothing for what is computed."""
    if isinstance(entry, Range):
        return (entry.low, entry.high)
    if isinstance(entry, JointChoices):
        return entry.labels
    return entry.choices if isinstance(entry, Choices) else ()


def samples(name: str, entry: Entry) -> tuple[Any, ...]:
    """All choices, or at most SAMPLES values of a range, ends included; nothing for what is computed."""
    if not isinstance(entry, Range):
        return ends(entry)
    if entry.step is None:
        return spread(name, entry, SAMPLES)
    last = grid_count(entry) - 1
    places = dict.fromkeys(round(i * last / (SAMPLES - 1)) for i in range(SAMPLES))
    return tuple(float(exact(entry.low) + place * exact(entry.step)) for place in places)


_Values = dict[str, Sequence[Any]]


def _parts(space: Mapping[str, Entry]) -> list[tuple[_Values, _Values]]:
    """Parts of the space that do not depend on each other: values to combine, and values to vary one by one."""
    layout = Layout(space)
    grouped = [[name for name, entry in space.items() if set(paths_of(name, entry)) & set(group)] for group in GROUPS]
    used = {other for name in space for other in layout.references[name]}
    combined = {*itertools.chain(*grouped), *used}
    links = [*(names for names in grouped if names), *([name, *layout.references[name]] for name in space)]
    every = _needed_in_full(layout) | set(itertools.chain(*grouped))
    parts = []
    for names in _connected(links):
        searched = [name for name in space if name in names and not isinstance(space[name], Derived)]
        together = {name: _values(name, space[name], name in every) for name in searched if name in combined}
        alone = {
            name: _values(name, space[name], True) if _gives_integers(name, space[name]) else ends(space[name])
            for name in searched
            if name not in combined
        }
        parts.append((together, alone))
    return parts


def _connected(links: Sequence[Sequence[str]]) -> list[set[str]]:
    """The names by connected component, in the order in which they first appear."""
    found: list[set[str]] = []
    for link in links:
        touching = [names for names in found if names & set(link)]
        place = found.index(touching[0]) if touching else len(found)
        merged = set(link).union(*touching)
        found = [names for names in found if names not in touching]
        found.insert(min(place, len(found)), merged)
    return found


def _needed_in_full(layout: Layout) -> set[str]:
    """Entries whose every value matters: to a condition, or to a computed integer."""
    found: set[str] = set()
    for name in reversed(layout.order):  # what refers to an entry comes before it here
        entry = layout.space[name]
        integers = _gives_integers(name, entry) or name in found
        conditions = {layout.owners[path] for path in entry.conditions if path in layout.owners}
        found |= conditions | (set(layout.references[name]) if integers else set())
    return found


def _gives_integers(name: str, entry: Entry) -> bool:
    """Whether an entry computes integers, of which an expression may give others."""
    return expression_of(entry) is not None and takes_integers(name)


def _values(name: str, entry: Entry, every: bool) -> Sequence[Any]:
    """Every value of an entry, or some of them for a range that is not needed in full."""
    if not isinstance(entry, Range):
        return ends(entry)
    if every and takes_integers(name):
        return range(int(entry.low), int(entry.high) + 1, int(entry.step or 1))
    if every and entry.step is not None and grid_count(entry) <= MAX_COMBINATIONS:
        return spread(name, entry, grid_count(entry))
    return samples(name, entry)


def _count(values: Sequence[Any]) -> int:
    """`len(values)`, also for a range whose length is beyond what len can return."""
    return (values[-1] - values[0]) // values.step + 1 if isinstance(values, range) else len(values)
