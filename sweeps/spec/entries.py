"""The entries of a search space: a range, choices, choices of several fields at once, or a computed value.

`sweeps.spec.references` resolves what an entry says about other fields (`when`, `times`, `equals`).
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from lmcore.config import Config, PositiveFloat
from lmcore.runfile.paths import FieldError, defaults, describe, show, whole_numbers
from sweeps.spec.other_tools import rule_for

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Entry(Config):
    """What every entry may have."""

    when: dict[str, Any] | None = None
    """Conditions, by dotted path: the value, or a list of the values, that each of these fields must have. In a trial
    for which one does not hold, the entry is left out, and its field has the value of the base run. null: none."""

    @model_validator(mode="after")
    def _has_conditions(self) -> Self:
        if self.when is not None and not self.when:
            raise FieldError("when", "must name at least one field (got {}); add one, or leave when out")
        for path, values in self.conditions.items():
            if not values:
                raise FieldError("when", f"must list at least one value (got [] for {path}); add one")
        return self

    @property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """The values that each field of `when` may have.

        >>> Range(low=0, high=1, when={"model.ffn": "swiglu"}).conditions
        {'model.ffn': ('swiglu',)}
        """
        return {path: _listed(value) for path, value in (self.when or {}).items()}


class Range(_Entry):
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
    times: Text | None = None
    """Expression such as sqrt(train.batch_size / 64), by which the number is multiplied: the search proposes the
    number, and the run has the product. It may hold + - * / ** sqrt, parentheses, numbers and dotted paths; null: 1."""

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
            if (exact(self.high) - exact(self.low)) % exact(self.step):
                rule = f"must lead from low to high exactly (got {self.step:g})"
                raise FieldError("step", f"{rule}; change one of the three")
        return self


class Choices(_Entry):
    """One of several values, in no particular order.

    >>> Choices(choices=[0.9, 0.99]).choices
    (0.9, 0.99)
    """

    choices: Annotated[tuple[Any, ...], Field(strict=False)]
    """The values to choose from: at least one, and no two equal."""
    times: Text | None = None
    """Expression by which the chosen number is multiplied, as in a range; null: 1."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct(self.choices)
        return self


class JointChoices(_Entry):
    """One of several mappings, whose fields are set together. Its key in the space is a name, not a path.

    >>> choices = [{"model.d_model": 64, "model.d_ff": 176}, {"model.d_model": 96, "model.d_ff": 264}]
    >>> width = JointChoices(choices=choices)
    >>> width.labels
    ('d_model=64, d_ff=176', 'd_model=96, d_ff=264')
    >>> width.choice(width.labels[1])
    {'model.d_model': 96, 'model.d_ff': 264}
    """

    choices: Annotated[tuple[dict[str, Any], ...], Field(strict=False)]
    """The mappings to choose from, by dotted path: at least one, no two equal, and all with the same paths."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_distinct(self.choices)
        for choice in self.choices:
            if not choice:
                raise FieldError("choices", "must each set at least one field (got {}); remove that one")
            if choice.keys() != self.choices[0].keys():
                odd = next(iter(choice.keys() ^ self.choices[0].keys()))
                raise FieldError("choices", f"must all set the same fields (got {odd} in some of them); add it to all")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The fields that it sets."""
        return tuple(self.choices[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """What Optuna, which has no mappings as categories, knows the choices by."""
        names = [path.rpartition(".")[2] for path in self.paths]
        shown = {path: path if names.count(name) > 1 else name for path, name in zip(self.paths, names, strict=True)}
        return tuple(
            ", ".join(f"{shown[path]}={_plain(choice[path])}" for path in self.paths) for choice in self.choices
        )

    def choice(self, label: str) -> dict[str, Any]:
        """The choice with this label. KeyError for any other text."""
        return dict(zip(self.labels, self.choices, strict=True))[label]


class Derived(_Entry):
    """A value that is computed from other fields, and not searched.

    >>> Derived(equals="4 * model.d_model").equals
    '4 * model.d_model'
    """

    equals: Text
    """Expression that gives the value: + - * / ** sqrt, parentheses, numbers and dotted paths of other fields."""


Entry = Range | Choices | JointChoices | Derived


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
    kind = _kind(value)
    try:
        return kind.model_validate(whole_numbers(kind, value))
    except ValidationError as error:
        raise describe(error, defaults(kind)) from None


def _kind(value: Mapping[str, Any]) -> type[Entry]:
    """The class of an entry. FieldError if it is of two kinds."""
    if "equals" in value:
        _check_alone("equals", value, ("when",), "compute the field or search it")
        return Derived
    if "choices" not in value:
        return Range
    listed = value["choices"] if isinstance(value["choices"], list | tuple) else ()
    joint = any(isinstance(choice, dict) for choice in listed)
    allowed = ("when",) if joint else ("when", "times")
    _check_alone("choices", value, allowed, "keep the choices or the range" if not joint else "leave that out")
    if joint and not all(isinstance(choice, dict) for choice in listed):
        odd = next(choice for choice in listed if not isinstance(choice, dict))
        raise FieldError(
            "choices", f"must all be values, or all be mappings of fields (got also {show(odd)}); change it"
        )
    return JointChoices if joint else Choices


def _check_alone(key: str, value: Mapping[str, Any], allowed: tuple[str, ...], remedy: str) -> None:
    others = [str(other) for other in value if other not in (key, *allowed)]
    if others:
        raise FieldError(key, f"must stand alone (got also {', '.join(others)}); {remedy}")


Space = dict[str, Annotated[Entry, BeforeValidator(_parse)]]
"""Entries by dotted path, or by a name of the user's own for choices of several fields."""


def paths_of(name: str, entry: Entry) -> tuple[str, ...]:
    """The fields that an entry sets.

    >>> paths_of("optim.lr", Range(low=0.1, high=1))
    ('optim.lr',)
    """
    return entry.paths if isinstance(entry, JointChoices) else (name,)


def choices_of(entry: Entry) -> tuple[Any, ...]:
    """The choices of an entry; none if it has none."""
    return entry.choices if isinstance(entry, Choices | JointChoices) else ()


def is_numeric(entry: Entry) -> bool:
    """Whether an entry is a number with an order: a range, or choices of at least three numbers.

    >>> is_numeric(Choices(choices=[1, 2, 4])), is_numeric(Choices(choices=[False, True]))
    (True, False)
    """
    if isinstance(entry, Choices):
        numbers = [one for one in entry.choices if isinstance(one, int | float) and not isinstance(one, bool)]
        return len(numbers) == len(entry.choices) >= 3
    return isinstance(entry, Range)


def expression_of(entry: Entry) -> str | None:
    """The expression of an entry, in `times` or `equals`; None without one."""
    return entry.equals if isinstance(entry, Derived) else getattr(entry, "times", None)


def exact(number: float) -> Decimal:
    """The number as it is written: 0.3 is three times 0.1 as a Decimal, but not as a float."""
    return Decimal(repr(number))


def same(a: Any, b: Any) -> bool:
    """Whether two values of a field are equal; true is not 1.

    >>> same(64, 64.0), same(True, 1)
    (True, False)
    """
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_distinct(choices: tuple[Any, ...]) -> None:
    if not choices:
        raise FieldError("choices", "must not be empty (got []); list at least one value")
    for i, choice in enumerate(choices):
        if choice in choices[:i]:
            raise FieldError("choices", f"must be distinct (got {show(choice)} twice); remove one")


def _plain(value: Any) -> str:
    """A value as part of a label."""
    return re.sub(r"\s+", " ", value) if isinstance(value, str) else show(value)
