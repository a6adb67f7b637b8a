"""From the values of fields back to what must be proposed for a trial to have them: the inverse of `Layout.overrides`.

It is used where settings are given by their fields: known good ones, and those of trials of an earlier space.
"""

import math
from collections.abc import Mapping
from typing import Any

from lmcore.runfile.paths import BUDGET, FieldError, sets_budget, show
from sweeps.spec.entries import Choices, Derived, Entry, JointChoices, Range, exact, paths_of, same
from sweeps.spec.references import ROUNDING, Layout, holds, takes_integers

NOTHING: Mapping[str, Any] = {}


class NotApplicableError(FieldError):
    """A field is given of an entry that does not apply, and not the value that the run then has."""


def proposals(layout: Layout, given: Mapping[str, Any], settled: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The proposals that give a trial these fields, by name of the entry.

    Args:
        layout: of the space.
        given: values by dotted path. Entries of which no field is given are left open, and so are those that do not
            apply.
        settled: proposals that are known already, by name.

    Raises:
        FieldError: no trial has these values, or they do not tell what to propose. Its field is the path at fault.

    >>> layout = Layout({"optim.lr": Range(low=0.1, high=1, times="train.batch_size / 64")}, {"train.batch_size": 16})
    >>> proposals(layout, {"optim.lr": 0.2})
    {'optim.lr': 0.8}
    """
    values = {**layout.fields, **given}
    open_paths = {path for path in layout.owners if path not in given}  # that the search decides on
    found: dict[str, Any] = {}
    for name in layout.order:
        entry = layout.space[name]
        paths = paths_of(name, entry)
        here = {path: given[path] for path in paths if path in given}
        undecided = [path for path in entry.conditions if path in open_paths]
        if undecided:
            if here:
                path, value = next(iter(here.items()))
                rule = f"must come with {undecided[0]}, on which it depends (got {show(value)} alone)"
                raise FieldError(path, f"{rule}; add that")
            continue
        if not holds(entry, values):
            _check_base_values(layout, entry, here, values)
            values |= {path: layout.fields[path] for path in paths}
            open_paths -= set(paths)
            continue
        if isinstance(entry, Derived):
            if not _check_computed(layout, name, here, values, open_paths):
                continue
        elif name in settled:
            if not _is_proposal(name, entry, settled[name]):
                raise FieldError(name, f"must be in the space (got {show(settled[name])}); widen space.{name}")
            found[name] = settled[name]
        elif not here:
            continue
        elif isinstance(entry, JointChoices):
            found[name] = _label(name, entry, here)
        else:
            found[name] = _raw(layout, name, given[name], values, open_paths)
        new = layout.value(name, found, values)
        if sets_budget(new):
            values |= dict.fromkeys(BUDGET)
        values |= {**new, **here}
        open_paths -= set(paths)
    return found


def proposals_of(
    layout: Layout, fields: Mapping[str, Any], settled: Mapping[str, Any] = NOTHING
) -> dict[str, Any] | None:
    """`proposals` for a trial of which every field is given; None if no trial of the space has these fields.

    >>> proposals_of(Layout({"optim.beta2": Choices(choices=[0.9, 0.99])}), {"optim.beta2": 0.95}) is None
    True
    """
    try:
        return proposals(layout, fields, settled)
    except FieldError:
        return None


def why_outside(name: str, entry: Range | Choices, value: Any) -> str | None:
    """The rule that a value breaks which is no proposal for the entry of the space at `name`; None if it is one.

    >>> why_outside("optim.beta2", Choices(choices=[0.9, 0.99]), 0.95)
    'must be one of 0.9, 0.99 (got 0.95)'
    """
    got = f"(got {show(value)})"
    if isinstance(entry, Choices):
        if any(same(choice, value) for choice in entry.choices):
            return None
        return f"must be one of {', '.join(map(show, entry.choices))} {got}"
    if not _is_number(value) or not math.isfinite(value):
        return f"must be a number {got}"
    if not entry.low <= value <= entry.high:
        return f"must be from {entry.low:g} to {entry.high:g} {got}"
    if takes_integers(name) and value != round(value):
        return f"must be an integer {got}"
    step = _step(name, entry)
    if step is not None and abs((steps := (value - entry.low) / step) - round(steps)) > 1e-8:
        return f"must be in steps of {step:g} from {entry.low:g} {got}"
    return None


def equal_values(a: Any, b: Any) -> bool:
    """Whether two values of a field are equal, numbers apart from rounding.

    >>> equal_values(0.1 + 0.2, 0.3), equal_values(True, 1)
    (True, False)
    """
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=ROUNDING)
    return same(a, b)


def _check_base_values(layout: Layout, entry: Entry, here: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """NotApplicableError if fields of an entry that does not apply are given other values than the run has then."""
    for path, value in here.items():
        if not equal_values(value, layout.fields[path]):
            wrong = next(
                one for one in entry.conditions if not any(same(values[one], v) for v in entry.conditions[one])
            )
            rule = f"must be left out with {wrong} {show(values[wrong])} (got {show(value)})"
            needed = " or ".join(map(show, entry.conditions[wrong]))
            raise NotApplicableError(path, f"{rule}; it is searched for {wrong} {needed} alone")


def _check_computed(
    layout: Layout, name: str, here: Mapping[str, Any], values: Mapping[str, Any], open_paths: set[str]
) -> bool:
    """Whether a computed field is known. FieldError if another value is given, or one that is not known yet."""
    expression = layout.expressions[name]
    needed = [path for path in expression.paths if path in open_paths]
    if needed:
        if here:
            rule = f"must come with {needed[0]}, from which it is computed (got {show(here[name])} alone)"
            raise FieldError(name, f"{rule}; leave it out, or add that")
        return False
    try:
        computed = layout.value(name, {}, values)[name]
    except FieldError as error:
        raise FieldError(name, error.rule) from None
    if here and not equal_values(here[name], computed):
        rule = f"must be {show(computed)}, which is computed from {show(expression.text)} (got {show(here[name])})"
        raise FieldError(name, f"{rule}; leave it out")
    return True


def _label(name: str, entry: JointChoices, here: Mapping[str, Any]) -> str:
    """The label of the only choice with these fields. FieldError if there is none, or several."""
    matching = [
        label
        for label, choice in zip(entry.labels, entry.choices, strict=True)
        if all(equal_values(choice[path], value) for path, value in here.items())
    ]
    if len(matching) == 1:
        return matching[0]
    path = next(iter(here))
    shown = ", ".join(f"{other} {show(value)}" for other, value in here.items())
    if matching:
        missing = next(other for other in entry.paths if other not in here)
        rule = f"must tell the choices of space.{name} apart (got {shown}, as {len(matching)} of them have)"
        raise FieldError(path, f"{rule}; add {missing}")
    rule = f"must be those of one choice of space.{name}, {' or '.join(entry.labels)} (got {shown})"
    raise FieldError(path, f"{rule}; correct it, or add a choice")


def _raw(layout: Layout, name: str, value: Any, values: Mapping[str, Any], open_paths: set[str]) -> Any:
    """The number that is proposed where the field has `value`. FieldError if that is not in the space."""
    entry, expression = layout.space[name], layout.expressions.get(name)
    assert isinstance(entry, Range | Choices)
    remedy = f"correct it, or widen space.{name}"
    factor = 1.0
    if expression is not None:
        needed = [path for path in expression.paths if path in open_paths]
        if needed:
            rule = (
                f"must come with {needed[0]}, which its factor {show(expression.text)} needs (got {show(value)} alone)"
            )
            raise FieldError(name, f"{rule}; add that")
        try:
            factor = expression.value(values)
        except FieldError as error:
            raise FieldError(name, error.rule) from None
        if not _is_number(value):
            raise FieldError(name, f"must be a number (got {show(value)}); {remedy}")
        if not factor:
            raise FieldError(name, f"must not be given where its factor {show(expression.text)} is 0; leave it out")
    raw = _nearest(name, entry, value / factor if expression is not None else value)
    if (wrong := why_outside(name, entry, raw)) is not None:
        if expression is not None:
            wrong = f"{wrong[:-1]}, as {show(value)} is {factor:g} times that)"
        raise FieldError(name, f"{wrong}; {remedy}")
    return raw


def _nearest(name: str, entry: Range | Choices, value: Any) -> Any:
    """The proposal that the value is, apart from rounding, with the type that a sampler proposes; else the value."""
    if isinstance(entry, Choices):
        # An equal choice goes before one that is close.
        equal = [choice for choice in entry.choices if same(choice, value)]
        return next(iter(equal or [choice for choice in entry.choices if equal_values(choice, value)]), value)
    if not _is_number(value) or not math.isfinite(value):
        return value
    whole = takes_integers(name)
    candidates = [entry.low, entry.high, *([round(value)] if whole else [])]
    if (step := _step(name, entry)) is not None:
        candidates.append(float(exact(entry.low) + round((value - entry.low) / step) * exact(step)))
    close = next((candidate for candidate in candidates if equal_values(candidate, value)), value)
    return (int(close) if close == round(close) else close) if whole else float(close)


def _is_proposal(name: str, entry: Entry, proposal: Any) -> bool:
    if isinstance(entry, JointChoices):
        return proposal in entry.labels
    assert isinstance(entry, Range | Choices)
    return why_outside(name, entry, proposal) is None


def _step(name: str, entry: Range) -> float | None:
    return entry.step or (1.0 if takes_integers(name) and not entry.log else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
