"""The dotted paths of a run (`optim.lr`): the one vocabulary of spaces, experiments, `--set` and columns.

Here a path is looked up, values are put at paths, and pydantic's errors become one line. Which paths a sweep may vary
is decided in `sweeps.spec.sweep_spec`.
"""

import difflib
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lmcore.config import RunSpec, flatten
from lmcore.errors import InputError

RUN_DEFAULTS: dict[str, Any] = flatten(RunSpec())
"""Every field of a run under its dotted path, with its default."""

REQUIRED = ...
"""Stands for the default of a field that has none."""

# What people call these fields elsewhere; no measure of spelling finds them.
_KNOWN_AS = {
    "learning_rate": "optim.lr",
    "max_lr": "optim.lr",
    "betas": "optim.beta1",
    "wd": "optim.weight_decay",
    "tied": "model.tie_embeddings",
    "n_layer": "model.num_layers",
    "n_head": "model.num_heads",
    "block_size": "model.context_length",
}

# pydantic's error types in this project's words; braces are filled from the error's context.
_RULES = {
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "finite_number": "must be finite",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "literal_error": "must be {expected}",
    "missing": "must be given",
    "model_type": "must be a mapping of field names to values",
    "dict_type": "must be a mapping of field names to values",
    "tuple_type": "must be a list [...]",
}


class FieldError(InputError):
    """A wrong value in a known place; `str` of it is one line, `field: rule (got value); remedy`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field = field
        """Dotted name of the place, empty for the whole."""
        self.rule = rule
        """The rest of the line."""

    def __str__(self) -> str:
        return one_line(f"{self.field}: {self.rule}" if self.field else self.rule)


class ClashError(FieldError):
    """Values that are right one by one, but not together; `field` is the one that lmcore's rule begins with."""


def nearest(path: str, known: Mapping[str, Any] = RUN_DEFAULTS) -> str | None:
    """The path that was probably meant: the same last name elsewhere, another name for it, a similar spelling."""
    section, _, name = path.rpartition(".")
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == name]
    if same_name:
        return same_name[0]
    if _KNOWN_AS.get(name) in known:
        return _KNOWN_AS[name]
    # Within a section the names alone are compared: "train." would make all of its fields resemble one another.
    siblings = [candidate.rpartition(".")[2] for candidate in known if candidate.startswith(f"{section}.")]
    if siblings:
        close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.5)
        return f"{section}.{close[0]}" if close else None
    return next(iter(difflib.get_close_matches(path, known, n=1)), None)


def unknown(path: str, known: Mapping[str, Any] = RUN_DEFAULTS) -> FieldError:
    """The error for a path that names no field, with the nearest one that does."""
    meant = nearest(path, known)
    if meant:
        return FieldError(path, f"is not a field; did you mean {meant}?")
    section = path.partition(".")[0]
    siblings = [candidate for candidate in known if candidate.startswith(f"{section}.")]
    choices = siblings or dict.fromkeys(candidate.partition(".")[0] for candidate in known)
    return FieldError(path, f"is not a field; choose one of {', '.join(choices)}")


def plain_types(path: str) -> frozenset[type]:
    """The Python types that a run's field takes: `{float}` for optim.lr, `{float, NoneType}` for optim.clip_norm."""
    section, name = path.split(".")
    config: Any = RunSpec.model_fields[section].annotation
    return _plain_types(config.model_fields[name].annotation)


def apply(run: RunSpec, overrides: Mapping[str, Any]) -> RunSpec:
    """The run with values put at dotted paths, validated anew.

    A whole number written as a float (`2e3`) serves an integer field. FieldError for a path that names no field and
    for a value that the field refuses; ClashError for values that the run refuses together.
    """
    values = run.model_dump()
    for path, value in overrides.items():
        if path not in RUN_DEFAULTS:
            raise unknown(path)
        section, name = path.split(".")
        values[section][name] = value
    try:
        return RunSpec.model_validate(whole_numbers(RunSpec, values))
    except ValidationError as error:
        raise describe(error) from None


def apply_at(run: RunSpec, overrides: Mapping[str, Any], places: Mapping[str, str], place: str) -> RunSpec:
    """`apply`, whose error names the place in the file at which the field at fault was overridden, else `place`."""
    try:
        return apply(run, overrides)
    except FieldError as error:
        if error.field in places:
            raise FieldError(places[error.field], error.rule) from None
        raise FieldError(place, str(error)) from None


def defaults(config: type[BaseModel]) -> dict[str, Any]:
    """The names of a config's fields with their defaults, REQUIRED for those that must be given."""
    fields = config.model_fields.items()
    return {name: REQUIRED if field.is_required() else field.default for name, field in fields}


def whole_numbers(config: type[BaseModel], values: Any) -> Any:
    """A copy of nested `values` in which a float such as 2e3 is an int wherever `config` takes integers only."""
    if not isinstance(values, dict):
        return values
    fields = config.model_fields
    return {key: _whole(fields[key].annotation, value) if key in fields else value for key, value in values.items()}


def describe(error: ValidationError, known: Mapping[str, Any] = RUN_DEFAULTS) -> FieldError:
    """The first of pydantic's errors as one line.

    `known` maps the valid dotted paths to their defaults: it serves suggestions and remedies.
    """
    errors = error.errors(include_url=False)
    # A misspelt name also leaves the right one missing.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = _field(first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return FieldError(".".join(part for part in (field, cause.field) if part), cause.rule)
    if first["type"] == "value_error":
        # lmcore's messages begin with the name of the field that breaks the rule: it belongs to the path.
        name, _, rule = str(cause).partition(" ")
        return ClashError(f"{field}.{name}", rule) if f"{field}.{name}" in known else ClashError(field, str(cause))
    if first["type"] == "extra_forbidden":
        return unknown(field, known)
    # A union reports every member that it tried.
    alternatives = dict.fromkeys(_rule(e) for e in errors if _field(e["loc"]) == field)
    rule = " or ".join([*alternatives][:1] + [text.removeprefix("must be ") for text in [*alternatives][1:]])
    value = first["input"]
    given = "nothing" if first["type"] == "missing" else show(value)
    return FieldError(field, f"{rule} (got {given}){_remedy(first, known.get(field, REQUIRED))}")


def show(value: Any) -> str:
    """A value as YAML spells it, shortened to fit a message."""
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which a file's own keys can bring into a message."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _rule(error: Any) -> str:
    template = _RULES.get(error["type"])
    if template is None:
        return str(error["msg"])
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    return template.format(**context)


def _remedy(error: Any, default: Any) -> str:
    value = error["input"]
    if isinstance(value, str):
        if error["type"] in ("int_type", "float_type") and value.replace(".", "", 1).isdigit():
            return f"; write {value} without quotes"
        if error["type"] == "literal_error":
            choices = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            meant = difflib.get_close_matches(value, choices, n=1)
            if meant:
                return f"; did you mean {meant[0]}?"
    if error["type"] == "string_type":
        return "; quote it"
    if default is REQUIRED:
        return "; add it" if error["type"] == "missing" else ""
    return f"; the default is {show(default)}"


def _field(location: tuple[int | str, ...]) -> str:
    """Dotted name of a pydantic location, without the members of a union that follow the field's own name."""
    depth = 3 if any(isinstance(part, int) for part in location) else 2
    return ".".join(str(part) for part in location[:depth])


def _plain_types(annotation: Any) -> frozenset[type]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain_types(arguments[0])
    if origin in (Union, types.UnionType):
        return frozenset().union(*(_plain_types(member) for member in arguments))
    if origin is Literal:
        return frozenset(type(choice) for choice in arguments)
    return frozenset([annotation])


def _whole(annotation: Any, value: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return whole_numbers(annotation, value)
    kinds = _plain_types(annotation)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    return value
