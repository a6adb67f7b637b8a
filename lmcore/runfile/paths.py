"""Dotted paths of a run's fields (`optim.lr`), used by search spaces, experiments, `--set` and table columns.

Here a path is looked up, values are put at paths, and pydantic's errors become one line. Which paths a sweep may vary
is decided in `sweeps.spec.sweep_spec`.
"""

import difflib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lmcore.config import BUDGET_FIELDS, RunSpec, flatten
from lmcore.errors import InputError

RUN_DEFAULTS: dict[str, Any] = flatten(RunSpec())
"""Every field of a run by its dotted path, with its default."""
BUDGET = tuple(f"train.{name}" for name in BUDGET_FIELDS)
"""Paths of which a run has at most one: how long it trains."""
REQUIRED = ...  # takes the place of a default for a field that has none

# Names of our fields in other projects, which no spelling distance finds.
ALIASES = {
    "learning_rate": "optim.lr",
    "max_lr": "optim.lr",
    "min_lr": "optim.min_lr_ratio",
    "betas": "optim.beta1",
    "adam_beta1": "optim.beta1",
    "adam_beta2": "optim.beta2",
    "momentum": "optim.muon_momentum",
    "wd": "optim.weight_decay",
    "grad_clip": "optim.clip_norm",
    "max_grad_norm": "optim.clip_norm",
    "warmup_steps": "optim.warmup_fraction",
    "warmup_iters": "optim.warmup_fraction",
    "warmup_ratio": "optim.warmup_fraction",
    "tied": "model.tie_embeddings",
    "tie_word_embeddings": "model.tie_embeddings",
    "n_embd": "model.d_model",
    "hidden_size": "model.d_model",
    "intermediate_size": "model.d_ff",
    "n_layer": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "n_head": "model.num_heads",
    "num_attention_heads": "model.num_heads",
    "n_kv_head": "model.num_kv_heads",
    "num_key_value_heads": "model.num_kv_heads",
    "block_size": "model.context_length",
    "seq_len": "model.context_length",
    "max_iters": "train.steps",
    "max_steps": "train.steps",
    "dataset": "data.source",
    # of wandb's sweeps and Ray Tune
    "parameters": "space",
    "param_space": "space",
    "goal": "search.metric",
    "mode": "search.metric",
    "early_terminate": "search.scheduler",
    "num_samples": "search.trials",
    "run_cap": "search.trials",
    "n_trials": "search.trials",
    "max_concurrent_trials": "search.concurrent",
    "time_budget_s": "search.time",
    "grace_period": "search.grace_steps",
    "eta": "search.reduction_factor",
}
# Values that other projects have for ours.
_VALUE_ALIASES = {
    "bayes": "optuna",
    "bayesian": "optuna",
    "bo": "optuna",
    "hyperopt": "tpe",
    "sobol": "qmc",
    "async_hyperband": "asha",
    "successive_halving": "asha",
    "gpu": "cuda",
    "bf16": "bfloat16",
    "fp32": "float32",
}

# Our wording of pydantic's error types. Braces are filled from the error's context.
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
    """A field has a wrong value. The message is one line: `field: rule (got value); remedy`.

    `field` is a dotted path, or empty for the whole config; `rule` is the rest of the message.

    >>> print(FieldError("optim.lr", "must be > 0 (got -1); the default is 0.003"))
    optim.lr: must be > 0 (got -1); the default is 0.003
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field, self.rule = field, rule

    def __str__(self) -> str:
        return one_line(f"{self.field}: {self.rule}" if self.field else self.rule)


class ClashError(FieldError):
    """Values that are valid on their own but not together. `field` is one of the fields involved."""


def nearest(path: str, known: Mapping[str, Any] = RUN_DEFAULTS) -> str | None:
    """The known path that `path` was probably meant to be: same name, an alias, or a similar spelling.

    >>> nearest("model.lr"), nearest("optim.learning_rate"), nearest("train.batchsize")
    ('optim.lr', 'optim.lr', 'train.batch_size')
    """
    section, _, name = path.rpartition(".")
    for candidate in known:
        if candidate.rpartition(".")[2] == name:
            return candidate
    if ALIASES.get(name) in known:
        return ALIASES[name]
    # Within a section only the names are compared, because the common prefix would make all of them similar.
    siblings = _section(section, known)
    if siblings:
        close = difflib.get_close_matches(name, [path.rpartition(".")[2] for path in siblings], n=1, cutoff=0.5)
        return f"{section}.{close[0]}" if close else None
    return next(iter(difflib.get_close_matches(path, known, n=1)), None)


def unknown(path: str, known: Mapping[str, Any] = RUN_DEFAULTS) -> FieldError:
    """The error for a path that is not in `known`, with a suggestion."""
    suggestion = nearest(path, known)
    if suggestion:
        return FieldError(path, f"is not a field; did you mean {suggestion}?")
    choices = _section(path.partition(".")[0], known) or dict.fromkeys(name.partition(".")[0] for name in known)
    return FieldError(path, f"is not a field; choose one of {', '.join(choices)}")


def plain_types(path: str, config: type[BaseModel] = RunSpec) -> frozenset[type]:
    """The Python types that a field of `config` accepts; none if there is no such field.

    >>> plain_types("optim.lr")
    frozenset({<class 'float'>})
    """
    section, dot, name = path.partition(".")
    field = config.model_fields.get(section)
    if field is None:
        return frozenset()
    if not dot:
        return _plain_types(field.annotation)
    nested: Any = field.annotation
    return plain_types(name, nested) if isinstance(nested, type) and issubclass(nested, BaseModel) else frozenset()


def apply(run: RunSpec, overrides: Mapping[str, Any]) -> RunSpec:
    """A validated copy of `run` with new values at dotted paths.

    An integer field accepts a whole number written as a float (`2e3`). A budget replaces that of `run`, also one in
    another field: train.tokens the base's train.steps. Raises FieldError if a path does not exist or
    its field refuses the value, ClashError if the values are not valid together.

    >>> apply(RunSpec(), {"optim.lr": 1e-3, "train.steps": 2e3}).train.steps
    2000
    """
    values = run.model_dump()
    if sets_budget(overrides):
        values["train"] |= dict.fromkeys(BUDGET_FIELDS)
    for path, value in overrides.items():
        if path not in RUN_DEFAULTS:
            raise unknown(path)
        section, name = path.split(".")
        values[section][name] = value
    try:
        return RunSpec.model_validate(whole_numbers(RunSpec, values))
    except ValidationError as error:
        raise describe(error) from None


def sets_budget(overrides: Mapping[str, Any]) -> bool:
    """Whether overrides give one of BUDGET a value."""
    return any(overrides.get(path) is not None for path in BUDGET)


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of which those `above` win. A budget above also replaces one below in another field.

    >>> layered({"train.steps": 100, "optim.lr": 0.1}, {"train.tokens": 1000})
    {'optim.lr': 0.1, 'train.tokens': 1000}
    """
    replaced = BUDGET if sets_budget(above) else ()
    return {**{path: value for path, value in below.items() if path not in replaced}, **above}


def apply_at(run: RunSpec, overrides: Mapping[str, Any], places: Mapping[str, str], place: str) -> RunSpec:
    """`apply` for overrides that come from a file: its errors name a place in the file instead of the field.

    `places` maps each overridden path to its place in the file. `place` is used for errors in any other field.
    """
    try:
        return apply(run, overrides)
    except FieldError as error:
        if error.field in places:
            raise FieldError(places[error.field], error.rule) from None
        raise FieldError(place, str(error)) from None


def defaults(config: type[BaseModel]) -> dict[str, Any]:
    """Defaults of a config's fields by name; REQUIRED for fields without one."""
    fields = config.model_fields.items()
    return {name: REQUIRED if field.is_required() else field.default for name, field in fields}


def whole_numbers(config: type[BaseModel], values: Any) -> Any:
    """A copy of nested `values` in which whole floats such as 2e3 are ints where `config` accepts only integers."""
    if not isinstance(values, dict):
        return values
    converted = dict(values)
    for name in converted.keys() & config.model_fields.keys():
        annotation, value = config.model_fields[name].annotation, converted[name]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            converted[name] = whole_numbers(annotation, value)
        elif isinstance(value, float) and value.is_integer() and _plain_types(annotation) & {int, float} == {int}:
            converted[name] = int(value)
    return converted


def describe(error: ValidationError, known: Mapping[str, Any] = RUN_DEFAULTS) -> FieldError:
    """The most relevant of pydantic's errors. `known` maps valid dotted paths to defaults, for suggestions."""
    errors = error.errors(include_url=False)
    # A misspelt field is reported first, because it may also cause a "missing" error for the right one.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = _field(first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return FieldError(".".join(part for part in (field, cause.field) if part), cause.rule)
    if first["type"] == "value_error":
        # Messages of lmcore's validators start with the name of the field at fault; it becomes part of the path.
        name, _, rule = str(cause).partition(" ")
        path = f"{field}.{name}" if field else name
        return ClashError(path, rule) if path in known else ClashError(field, str(cause))
    if first["type"] == "extra_forbidden":
        return unknown(field, known)
    # pydantic reports one error for each member of a union.
    rule, *others = dict.fromkeys(_rule(e) for e in errors if _field(e["loc"]) == field)
    rule = " or ".join([rule, *(other.removeprefix("must be ") for other in others)])
    given = "nothing" if first["type"] == "missing" else show(first["input"])
    return FieldError(field, f"{rule} (got {given}){_remedy(first, known.get(field, REQUIRED))}")


def show(value: Any) -> str:
    """A value in YAML's spelling, shortened to at most 60 characters for a message."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, which keys in a user's file may contain."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _section(section: str, known: Iterable[str]) -> list[str]:
    return [path for path in known if path.startswith(f"{section}.")]


def _rule(error: ErrorDetails) -> str:
    if error["type"] not in _RULES:
        return error["msg"]
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    return _RULES[error["type"]].format(**context)


def _remedy(error: ErrorDetails, default: Any) -> str:
    kind, value = error["type"], error["input"]
    if kind == "string_type":
        return "; quote it"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return f"; write {value} without quotes"
    if kind == "literal_error" and isinstance(value, str):
        choices = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        if (alias := _VALUE_ALIASES.get(value.lower())) in choices:
            return f"; did you mean {alias}?"
        if close := difflib.get_close_matches(value, choices, n=1):
            return f"; did you mean {close[0]}?"
    if default is REQUIRED:
        return "; add it" if kind == "missing" else ""
    return f"; the default is {show(default)}"


def _field(location: tuple[int | str, ...]) -> str:
    """Dotted path of a pydantic error location, without the union members that may follow the field's name."""
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
