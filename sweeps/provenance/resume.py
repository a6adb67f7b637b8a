"""Going on with a sweep: what may change of it, and whether its folder still holds what it was begun with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.errors import InputError
from lmcore.runfile.paths import show
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_spec
from sweeps.spec.settings import password_left_out
from sweeps.spec.sweep_spec import SweepSpec

MAY_CHANGE = (
    "notes",
    *("search.trials", "search.concurrent", "search.slots", "search.hung_after_s"),
    *("tracking.project", "tracking.wandb"),
)
REASON = "so that trials to come compare with those so far"
REASONS = {"train.steps": "because the schedule of the trials so far ends there, and those that have ended are final"}
COMPARED = ("commit", "versions.lmsweep", "versions.torch", "versions.optuna", "versions.numpy", "hardware.processor")
"""Entries of the manifest that later numbers may hang on."""


def resumed_spec(folder: RunFolder, overrides: Sequence[str], **flags: Any) -> SweepSpec:
    """The sweep in the folder, with changes as `load_spec` takes them.

    Raises:
        InputError: a change would make later trials another experiment than those so far, or trials fewer.
    """
    begun = load_spec(folder.sweep_yaml).absolute()
    spec = load_spec(folder.sweep_yaml, overrides, **flags).absolute()
    before, after = _flat(begun), _flat(spec)
    after["search.storage"] = password_left_out(after["search.storage"])  # sweep.yaml keeps none
    for path in before:
        if before[path] != after[path] and path not in MAY_CHANGE:
            raise InputError(
                f"{path}: must stay {show(before[path])}, {REASONS.get(path, REASON)} (got {show(after[path])}); "
                "begin another sweep with another --name"
            )
    for size in spec.size_names:
        if spec.trials_of(size) < begun.trials_of(size):
            raise InputError(
                f"search.trials: must not shrink (got {spec.trials_of(size)} for {size}, which began with "
                f"{begun.trials_of(size)}); leave it out, or give more"
            )
    return spec


def resumed_tokens(folder: RunFolder) -> Tokens | None:
    """The sweep's tokens as its trials were trained on; None where it has kept none.

    Raises:
        InputError: they are damaged.
    """
    return load_tokens(folder.tokens) if (folder.tokens / "meta.json").exists() else None


def check_data(folder: RunFolder, tokens: Tokens) -> None:
    """Refuse tokens, kept or prepared again, that are not those that the sweep was begun with.

    Raises:
        InputError: the manifest records others.
    """
    recorded = manifest_of(folder).get("data", {}).get("fingerprint", tokens.fingerprint)
    if recorded != tokens.fingerprint:
        raise InputError(
            f"{folder.display}/tokens: must have the fingerprint that manifest.json records, {recorded[:12]} "
            f"(got {tokens.fingerprint[:12]}); restore them from a copy"
        )


def manifest_of(folder: RunFolder) -> dict[str, Any]:
    """The manifest, or nothing where the sweep was stopped before it had one.

    Raises:
        InputError: it is damaged.
    """
    try:
        return dict(json.loads(folder.manifest.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder.display}/manifest.json: must be readable JSON, but is not ({error}); restore it from a copy"
        ) from None


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Of two manifests, what the numbers of a trial may hang on, a line each."""
    pairs = [(path, _at(begun, path), _at(now, path)) for path in COMPARED]
    return [f"{path} was {before}, and is {after} now" for path, before, after in pairs if before != after]


def resumed_manifest(begun: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the beginning, with what holds from now on, and one entry for each time it was resumed."""
    entry = {name: now[name] for name in ("created", "command", "commit", "versions", "hardware")}
    return {**now, **{name: begun[name] for name in entry}, "resumed": [*begun.get("resumed", ()), entry]}


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _flat(spec: SweepSpec) -> dict[str, Any]:
    """Values of the spec by path; lists and the space as wholes."""
    values = spec.model_dump()
    sections = ("data", "model", "train", "optim", "search", "tracking")
    flat = {f"{section}.{name}": value for section in sections for name, value in values[section].items()}
    return flat | {name: value for name, value in values.items() if name not in sections}
