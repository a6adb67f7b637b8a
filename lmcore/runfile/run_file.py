"""The base run of a sweep's YAML file, for commands that train or measure a single run.

The sections data, model, train, optim and one entry of sizes are read. What a sweep varies (space, experiments), and
how, is read by `sweeps.spec.sweep_spec`; here a field that only the space sets has its default.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from lmcore.config import DEFAULT_VOCAB_SIZE, RunSpec
from lmcore.corpus.token_files import is_token_file
from lmcore.errors import InputError
from lmcore.runfile.paths import (
    REQUIRED,
    RUN_DEFAULTS,
    FieldError,
    apply_at,
    describe,
    one_line,
    show,
    unknown,
    whole_numbers,
)
from lmcore.runfile.yaml_file import YamlFile, read_yaml

ONLY_SIZE = "main"
"""Name of the size if a file lists no sizes."""
SWEEP_SECTIONS = ("name", "notes", "search", "space", "sizes", "experiments", "tracking")
"""Top-level keys of a sweep's file that are not sections of a run."""


class SizedRun(NamedTuple):
    """A run and the name of its size."""

    run: RunSpec
    size: str


def load_run(path: str | Path, size: str | None = None) -> SizedRun:
    """Load the base run of a sweep's file at `size`, by default at the last size that the file lists.

    >>> run, size = load_run("configs/quick.yaml")

    Raises:
        InputError: one line that names the file, line and field, or `--size`.
    """
    source = read_yaml(path)
    # A key without a value (`sizes:` with its lines commented out) counts as missing.
    draft = {key: value for key, value in copy.deepcopy(source.values).items() if value is not None}
    known = {**dict.fromkeys([*RunSpec.model_fields, *SWEEP_SECTIONS], REQUIRED), **RUN_DEFAULTS}
    try:
        for key in draft:
            if key not in known:
                raise unknown(key, known)
        sizes = _sizes(draft.pop("sizes", []))
        name = list(sizes)[-1] if size is None else size
        if name not in sizes:
            raise InputError(f"--size: must be one of {', '.join(sizes)} (got {show(name)}); choose one of them")
        resolve_vocab_size(draft)
        sections = {key: value for key, value in draft.items() if key in RunSpec.model_fields}
        base = RunSpec.model_validate(whole_numbers(RunSpec, sections))
        overrides = sizes[name]
        if "vocab_size" not in base.model.model_fields_set and "model.vocab_size" not in overrides:
            rule = f"must be given, as the data are not read here and bring their own (got {show(base.data.source)})"
            raise FieldError("model.vocab_size", f"{rule}; add it, or data.vocab_size")
        places = {field: f"sizes.{name}.{field}" for field in overrides}
        return SizedRun(apply_at(base, overrides, places, f"sizes.{name}"), name)
    except ValidationError as error:
        raise located(describe(error, known), source) from None
    except FieldError as error:
        raise located(error, source) from None


def resolve_vocab_size(draft: dict[str, Any]) -> None:
    """Set model.vocab_size in `draft`, unless it is given, to data.vocab_size or to the default of a trained tokenizer.

    It stays unset if the data come with token ids or a tokenizer: the size is not known until they are read.
    """
    model, data = draft.setdefault("model", {}), draft.get("data", {})
    if not isinstance(model, dict) or not isinstance(data, dict) or "vocab_size" in model:
        return
    tokenized = data.get("tokenizer") is not None or is_token_file(str(data.get("source")))
    vocab_size = data.get("vocab_size") or (None if tokenized else DEFAULT_VOCAB_SIZE)
    if vocab_size is not None:
        model["vocab_size"] = vocab_size


def located(error: FieldError, source: YamlFile, set_by: Mapping[str, str] | None = None) -> InputError:
    """The error, prefixed with the place that its value came from: a command-line option, or the file and line.

    `set_by` maps dotted paths to the options that set them.
    """
    options = set_by or {}
    lines = {
        key: line
        for key, line in source.lines.items()
        if not any(key == path or key.startswith(f"{path}.") for path in options)
    }
    # A field that is missing from the file has the line of its section.
    parts = error.field.split(".")
    for length in range(len(parts), 0, -1):
        place = ".".join(parts[:length])
        if place in options:
            return InputError(one_line(f"{options[place]}: {error.rule if place == error.field else error}"))
        if place in lines:
            return InputError(f"{source.name}:{lines[place]}: {error}")
    return InputError(f"{source.name}: {error}")


def _sizes(entries: Any) -> dict[str, dict[str, Any]]:
    """The overrides of each size by its name; `{"main": {}}` if there are no entries."""
    if not isinstance(entries, list):
        raise FieldError("sizes", f"must be a list [...] (got {show(entries)})")
    sizes: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            rule = "must be a mapping with a name and the fields that it sets"
            raise FieldError(f"sizes.{index}", f"{rule} (got {show(entry)}); write `- {{name: xs, model.d_model: 64}}`")
        sizes[entry["name"]] = {field: value for field, value in entry.items() if field != "name"}
    return sizes or {ONLY_SIZE: {}}
