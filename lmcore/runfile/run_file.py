"""The base run of a sweep's YAML file: its sections data, model, train and optim, and one entry of sizes.

What a sweep varies (space, experiments), and how, is read by `sweeps.spec.sweep_spec`; here a field that only the space
sets has its default.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmcore.config import DEFAULT_VOCAB_SIZE, RunSpec
from lmcore.corpus.token_files import token_files
from lmcore.errors import InputError
from lmcore.runfile import paths
from lmcore.runfile.paths import REQUIRED, RUN_DEFAULTS, FieldError, show
from lmcore.runfile.yaml_file import YamlFile, read_yaml

ONLY_SIZE = "main"  # name of the size if a file lists no sizes
SWEEP_SECTIONS = (
    *("name", "notes", "search", "space", "sizes", "ladder", "transfer", "compare", "confirm", "experiments"),
    "tracking",
)
"""Top-level keys of a sweep's file that are not sections of a run."""


def load_run(path: str | Path, size: str | None = None) -> tuple[RunSpec, str]:
    """The base run of a sweep's file at `size`, by default at the last size that the file lists, and the size's name.

    Raises InputError: one line that names the file, line and field, or `--size`.

    >>> run, size = load_run("configs/quick.yaml")
    """
    source = read_yaml(path)
    draft = source.draft()
    known = {**dict.fromkeys([*RunSpec.model_fields, *SWEEP_SECTIONS], REQUIRED), **RUN_DEFAULTS}
    with located(source, known):
        for key in draft:
            if key not in known:
                raise paths.unknown(key, known)
        if draft.get("ladder") is not None and not draft.get("sizes"):
            rule = "must come with the sizes that it makes, which a sweep writes to its folder (got none)"
            raise FieldError("ladder", f"{rule}; give the sweep.yaml of a run")
        sizes = _sizes(draft.pop("sizes", []))
        name = list(sizes)[-1] if size is None else size
        if name not in sizes:
            raise InputError(f"--size: must be one of {', '.join(sizes)} (got {show(name)}); choose one of them")
        resolve_vocab_size(draft)
        sections = {key: value for key, value in draft.items() if key in RunSpec.model_fields}
        base = RunSpec.model_validate(paths.whole_numbers(RunSpec, sections))
        overrides = sizes[name]
        if "vocab_size" not in base.model.model_fields_set and "model.vocab_size" not in overrides:
            rule = f"must be given, as the data are not read here and bring their own (got {show(base.data.source)})"
            raise FieldError("model.vocab_size", f"{rule}; add it, or data.vocab_size")
        places = {field: f"sizes.{name}.{field}" for field in overrides}
        return paths.apply_at(base, overrides, places, f"sizes.{name}"), name


def resolve_vocab_size(draft: dict[str, Any]) -> None:
    """Set model.vocab_size in `draft`, unless it is given, to data.vocab_size or to the default of a trained tokenizer.

    It stays unset if the data come with token ids or a tokenizer: the size is not known until they are read.
    """
    model, data = draft.setdefault("model", {}), draft.get("data", {})
    if not isinstance(model, dict) or not isinstance(data, dict) or "vocab_size" in model:
        return
    tokenized = data.get("tokenizer") is not None or token_files(str(data.get("source"))) is not None
    vocab_size = data.get("vocab_size") or (None if tokenized else DEFAULT_VOCAB_SIZE)
    if vocab_size is not None:
        model["vocab_size"] = vocab_size


@contextmanager
def located(source: YamlFile, known: Mapping[str, Any], options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Prefix errors in the block with the place of the wrong value: a command-line option, or the file and line.

    `known` maps valid dotted paths to their defaults. `options` maps dotted paths to the options that set them; it is
    read when an error occurs.
    """
    try:
        yield
    except FieldError as error:
        raise _located(error, source, options or {}) from None
    except ValidationError as error:
        raise _located(paths.describe(error, known), source, options or {}) from None


def _located(error: FieldError, source: YamlFile, options: Mapping[str, str]) -> InputError:
    parts = error.field.split(".")
    # A field that is missing from the file has the line of its section.
    for place in (".".join(parts[:length]) for length in range(len(parts), 0, -1)):
        if place in options:
            return InputError(paths.one_line(f"{options[place]}: {error.rule if place == error.field else error}"))
        overridden = any(place.startswith(f"{path}.") for path in options)
        if place in source.lines and not overridden:
            return InputError(f"{source.name}:{source.lines[place]}: {error}")
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
