"""How the entries of a space depend on each other: `when`, `times` and `equals`, resolved in an order that works.

A `Layout` turns what the search proposed for a trial into the overrides of its run. It is the only place that does.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from lmcore.runfile.paths import BUDGET, RUN_DEFAULTS, FieldError, plain_types, sets_budget, show, unknown
from sweeps.spec.entries import (
    Choices,
    Derived,
    Entry,
    JointChoices,
    Range,
    exact,
    expression_of,
    paths_of,
    same,
)
from sweeps.spec.expression import Expression, parse

ROUNDING = 1e-9
"""Relative distance from an integer within which a computed number is one: 8 / 3 * 384 is 1024."""


class Layout:
    """The entries of a space in an order in which each follows those that it refers to.

    Args:
        space: the entries.
        fields: the value of every field of the run that trials override.

    Raises:
        FieldError: two entries set one field, or an entry refers to itself, in a circle, or to what is no field.

    >>> layout = Layout({"optim.lr": Range(low=0.1, high=1, times="train.batch_size / 64")}, {"train.batch_size": 16})
    >>> layout.overrides({"optim.lr": 0.4})
    {'optim.lr': 0.1}
    """

    def __init__(self, space: Mapping[str, Entry], fields: Mapping[str, Any] = RUN_DEFAULTS) -> None:
        self.space = dict(space)
        self.fields = fields
        self.owners = owners_of(space)
        """The entry that sets each path."""
        self.expressions = {name: found for name, entry in space.items() if (found := _expression(name, entry))}
        """The parsed expression of each entry that has one."""
        self.references = {name: tuple(self._references(name)) for name in space}
        """The entries that each entry refers to."""
        self.order = self._sorted()

    def overrides(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Overrides of a trial's run by dotted path. `params` has what was proposed, by name of the entry.

        An entry whose condition does not hold, or that has no proposal, is left out. FieldError if an expression has
        no value, or not one that its field can have.
        """
        return self._resolve(params, self.order)

    def applies(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether the conditions of an entry hold; `params` must have the proposals for what it refers to."""
        conditions = [self.owners[path] for path in self.space[name].conditions if path in self.owners]
        resolved = self._resolve(params, self._with_ancestors(conditions)) if conditions else {}
        return holds(self.space[name], {**self.fields, **resolved})

    def applicable(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The part of proposals for the whole space that a trial has: those for entries whose conditions hold."""
        found = {name: params[name] for name in self.searched}
        for name in self.conditional:
            if self.applies(name, found):
                found[name] = params[name]
        return found

    def knows(self, params: Mapping[str, Any]) -> bool:
        """Whether each label among the proposals is one of a present choice; names that are no entry are ignored."""
        joint = [(name, entry) for name, entry in self.space.items() if isinstance(entry, JointChoices)]
        return all(name not in params or params[name] in entry.labels for name, entry in joint)

    def complete(self, params: Mapping[str, Any]) -> bool:
        """Whether there is a proposal for every entry that a trial with these proposals has."""
        return all(name in params for name in self.searched) and all(
            name in params for name in self.conditional if self.applies(name, params)
        )

    @cached_property
    def searched(self) -> tuple[str, ...]:
        """The entries that are proposed in every trial."""
        return tuple(name for name in self._proposed if not self._depends_on_the_trial(name) and self.applies(name, {}))

    @cached_property
    def conditional(self) -> tuple[str, ...]:
        """The entries that are proposed in some trials, each after those that its conditions depend on."""
        return tuple(name for name in self._proposed if self._depends_on_the_trial(name))

    @property
    def _proposed(self) -> list[str]:
        return [name for name in self.order if not isinstance(self.space[name], Derived)]

    def _depends_on_the_trial(self, name: str) -> bool:
        return any(path in self.owners for path in self.space[name].conditions)

    def _references(self, name: str) -> Iterable[str]:
        expression = self.expressions.get(name)
        paths = [*self.space[name].conditions, *(expression.paths if expression else ())]
        return dict.fromkeys(self.owners[path] for path in paths if path in self.owners)

    def _with_ancestors(self, names: Iterable[str]) -> list[str]:
        """The entries and what they refer to, directly or through others, in order."""
        found: set[str] = set()
        left = list(names)
        while left:
            if (other := left.pop()) not in found:
                found.add(other)
                left += self.references[other]
        return [other for other in self.order if other in found]

    def _sorted(self) -> tuple[str, ...]:
        """Names in the order of the file, except that each follows what it refers to. FieldError if there is none."""
        order: list[str] = []
        left = list(self.space)
        while left:
            ready = next((name for name in left if set(self.references[name]) <= set(order)), None)
            if ready is None:
                raise self._cycle(left)
            order.append(ready)
            left.remove(ready)
        return tuple(order)

    def _cycle(self, left: list[str]) -> FieldError:
        """The error for entries of which none can be the first."""
        chain = [left[0]]
        while chain[-1] not in chain[:-1]:
            chain.append(next(other for other in self.references[chain[-1]] if other in left))
        chain = chain[chain.index(chain[-1]) :]
        name = chain[0]
        if len(chain) == 2:
            rule = f"must not refer to itself (got {name})"
        else:
            rule = f"must not refer to itself through others (got {' -> '.join(chain)})"
        return FieldError(f"space.{name}.{part_of(self.space[name])}", f"{rule}; remove one of the references")

    def _resolve(self, params: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        values, found = dict(self.fields), dict[str, Any]()
        for name in names:
            new = self.value(name, params, values)
            if sets_budget(new):
                values |= dict.fromkeys(BUDGET)
            values |= new
            found |= new
        return found

    def value(self, name: str, params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """What one entry sets, by path, where fields have these `values`; nothing if it does not apply."""
        entry = self.space[name]
        if (name not in params and not isinstance(entry, Derived)) or not holds(entry, values):
            return {}
        if isinstance(entry, JointChoices):
            return entry.choice(params[name])
        expression = self.expressions.get(name)
        if expression is None:
            return {name: params[name]}
        place = f"space.{name}.{part_of(entry)}"
        try:
            number = expression.value(values) * (1 if isinstance(entry, Derived) else params[name])
        except FieldError as error:
            raise FieldError(place, error.rule) from None
        if takes_integers(name):
            if abs(number - round(number)) > ROUNDING * max(1, abs(number)):
                given = ", ".join(f"{path} {show(values[path])}" for path in expression.paths)
                rule = f"must give an integer, as {name} is one (got {number:g}{f' with {given}' if given else ''})"
                raise FieldError(place, f"{rule}; change it, or leave that value out")
            number = round(number)
        return {name: number}


def owners_of(space: Mapping[str, Entry]) -> dict[str, str]:
    """The name of the entry that sets each path. FieldError if two do.

    >>> owners_of({"optim.lr": Range(low=0.1, high=1)})
    {'optim.lr': 'optim.lr'}
    """
    owners: dict[str, str] = {}
    for name, entry in space.items():
        for path in paths_of(name, entry):
            if path in owners:
                joint, other = (name, owners[path]) if isinstance(entry, JointChoices) else (owners[path], name)
                rule = f"must not set {path}, which space.{other} sets too (got both)"
                raise FieldError(f"space.{joint}.choices", f"{rule}; remove it from one of them")
            owners[path] = name
    return owners


def part_of(entry: Entry) -> str:
    """The part of an entry that refers to others: `equals`, `times`, or else `when`."""
    if isinstance(entry, Derived):
        return "equals"
    return "times" if expression_of(entry) else "when"


def check_references(layout: Layout) -> None:
    """FieldError if a condition names what is no field, or a value that its field can never have."""
    for name, entry in layout.space.items():
        place = f"space.{name}.when"
        for path, values in entry.conditions.items():
            if isinstance(layout.space.get(path), JointChoices):
                paths = ", ".join(paths_of(path, layout.space[path]))
                rule = f"must name fields (got {path}, which sets several)"
                raise FieldError(place, f"{rule}; name one of {paths}")
            if path not in RUN_DEFAULTS:
                raise FieldError(place, f"must name fields (got {path}, which {unknown(path).rule})")
            if path in layout.owners:
                owner = layout.owners[path]
                _check_values(place, path, values, owner, layout.space[owner])


def _check_values(place: str, path: str, values: tuple[Any, ...], owner: str, entry: Entry) -> None:
    """FieldError if the entry that sets `path` never sets it to one of `values`."""
    if expression_of(entry) is not None or entry.when is not None:
        return  # it may have other values; `SweepSpec` finds out whether the condition ever holds
    if isinstance(entry, Range):
        if entry.step is None and not takes_integers(path):
            rule = f"must not name a range without steps, whose single values are never met (got {path})"
            raise FieldError(place, f"{rule}; give space.{owner} a step, or choices")
        step = exact(entry.step or 1)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise FieldError(place, f"must give {path} numbers (got {show(value)}); write one of its values")
            if not entry.low <= value <= entry.high or (exact(float(value)) - exact(entry.low)) % step:
                rule = (
                    f"must name values that {path} can have (got {show(value)}, which space.{owner} does not give it)"
                )
                raise FieldError(place, f"{rule}; choose one between {entry.low:g} and {entry.high:g}")
        return
    assert isinstance(entry, Choices | JointChoices)
    possible = [choice[path] if isinstance(entry, JointChoices) else choice for choice in entry.choices]
    for value in values:
        if not any(same(value, one) for one in possible):
            rule = f"must name values that {path} can have (got {show(value)}, which space.{owner} does not give it)"
            raise FieldError(place, f"{rule}; choose from {', '.join(dict.fromkeys(map(show, possible)))}")


def takes_integers(path: str) -> bool:
    """Whether the field at `path` takes integers and no other numbers."""
    return {int, float} & set(plain_types(path)) == {int}


def _expression(name: str, entry: Entry) -> Expression | None:
    text = expression_of(entry)
    if text is None:
        return None
    try:
        return parse(text)
    except FieldError as error:
        raise FieldError(f"space.{name}.{part_of(entry)}", error.rule) from None


def holds(entry: Entry, values: Mapping[str, Any]) -> bool:
    """Whether the conditions of an entry hold where fields have these values."""
    return all(any(same(values[path], one) for one in allowed) for path, allowed in entry.conditions.items())
