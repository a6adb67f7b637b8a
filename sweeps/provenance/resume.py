"""Resuming a sweep: which settings may change, and whether its tokens and software are those it was begun with."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.errors import InputError
from lmcore.runfile.paths import BUDGET, show
from lmcore.study_database import check_journal, confirmed_storage
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.settings import OFF, TrackingConfig, strip_password
from sweeps.spec.sweep_spec import SweepSpec

SEARCH_MAY_CHANGE = tuple(
    f"search.{name}" for name in ("trials", "time", "stop_at", "concurrent", "slots", "hung_after_s")
)
TRACKING_MAY_CHANGE = tuple(f"tracking.{name}" for name in TrackingConfig.model_fields)
MAY_CHANGE = (*SEARCH_MAY_CHANGE, *TRACKING_MAY_CHANGE, "confirm", "notes")
REASON = "so that new trials are comparable with earlier ones"
REASONS = dict.fromkeys(BUDGET, "because the schedule of earlier trials ends there and ended trials are final")
COMPARED = ("commit", "versions.lmsweep", "versions.torch", "versions.optuna", "versions.numpy", "hardware.processor")
"""Entries of the manifest that may affect a trial's numbers."""


def resumed_spec(folder: RunFolder, overrides: Sequence[str], **flags: Any) -> SweepSpec:
    """The spec of the sweep in the folder, with changes as `load_spec` takes them.

    Raises InputError if a change would make old and new trials incomparable, there would be fewer trials, or the
    studies are in a database, or rows go to an MLflow server, whose address the user has not given again.

    Example:
        resumed_spec(RunFolder.of_sweep(Path("runs/quick")), ["search.concurrent=2"], trials=32)
    """
    begun = load_kept(folder.sweep_yaml).absolute()
    if not any(text.startswith("search.storage=") for text in overrides):
        place = f"{folder.display}/sweep.yaml"
        flags = {**flags, "storage": confirmed_storage(begun.search.storage, flags.get("storage"), place)}
    if not any(text.startswith("tracking.mlflow=") for text in overrides):
        _check_mlflow(begun.tracking.mlflow, f"{folder.display}/sweep.yaml")
    check_journal(folder.study_db)
    spec = load_kept(folder.sweep_yaml, overrides, **flags).absolute()
    before, after = flat(begun), flat(spec)
    after["search.storage"] = strip_password(after["search.storage"])  # sweep.yaml keeps none
    for path in before:
        if before[path] != after[path] and path not in MAY_CHANGE:
            rule = f"must stay {show(before[path])}, {REASONS.get(path, REASON)} (got {show(after[path])})"
            raise InputError(f"{path}: {rule}; start a new sweep with another --name")
    for name in ("top", "seeds"):
        now, then = getattr(spec.confirm, name), getattr(begun.confirm, name)
        if begun.confirm.top and now < then:
            rule = f"must not shrink, as the runs that it asked for are part of the sweep (got {now} after {then})"
            raise InputError(f"confirm.{name}: {rule}; leave it out, or raise it")
    for plan in spec.studies:
        now, then = spec.trials_in(plan), begun.trials_in(plan)
        if now < then and not begun.as_many_as_fit:
            rule = f"must not shrink (got {now} for {plan.id}, which began with {then})"
            raise InputError(f"search.trials: {rule}; leave it out, or raise it")
    return spec


def _check_mlflow(address: str, place: str) -> None:
    """Refuse an address that only the folder names: the server would get the user's credentials for MLflow."""
    if address in (OFF, os.environ.get("MLFLOW_TRACKING_URI")):
        return
    rule = f"{place} names an address, which is used only if you confirm it (got {show(address)})"
    confirmed = f"--set {shlex.quote(f'tracking.mlflow={address}')}"
    raise InputError(f"tracking.mlflow: {rule}; add {confirmed}, or --set tracking.mlflow=off")


def resumed_tokens(folder: RunFolder) -> Tokens | None:
    """The tokens kept in the sweep's folder, or None if there are none. Raises InputError if they are damaged."""
    return load_tokens(folder.tokens) if (folder.tokens / "meta.json").exists() else None


def check_data(folder: RunFolder, tokens: Tokens) -> None:
    """Raise InputError if the manifest records another fingerprint than that of these tokens."""
    recorded = manifest_of(folder).get("data", {}).get("fingerprint", tokens.fingerprint)
    if recorded != tokens.fingerprint:
        rule = f"must have the fingerprint that manifest.json records, {recorded[:12]} (got {tokens.fingerprint[:12]})"
        raise InputError(f"{folder.display}/tokens: {rule}; restore them from a copy")


def manifest_of(folder: RunFolder) -> dict[str, Any]:
    """The sweep's manifest, or {} if the sweep stopped before it was written. Raises InputError if it is damaged."""
    try:
        return dict(json.loads(folder.manifest.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        rule = f"must be readable JSON, but is not ({error})"
        raise InputError(f"{folder.display}/manifest.json: {rule}; restore it from a copy") from None


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each entry of COMPARED that differs between two manifests.

    >>> differences({"commit": "a1b2"}, {"commit": "c3d4"})
    ['commit was a1b2, and is c3d4 now']
    """
    pairs = [(path, _value_at(begun, path), _value_at(now, path)) for path in COMPARED]
    return [f"{path} was {before}, and is {after} now" for path, before, after in pairs if before != after]


def resumed_manifest(begun: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The current manifest, with the origin of the first run and one entry in `resumed` for each resume."""
    origin = {name: now[name] for name in ("created", "command", "commit", "versions", "hardware")}
    return {**now, **{name: begun[name] for name in origin}, "resumed": [*begun.get("resumed", ()), origin]}


def _value_at(values: Any, path: str) -> Any:
    """The value at a dotted path of nested mappings, or None."""
    for name in path.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def flat(spec: SweepSpec) -> dict[str, Any]:
    """Values of the spec by dotted path; lists and the space are not flattened."""
    values = spec.model_dump()
    sections = ("data", "model", "train", "optim", "search", "tracking")
    flat = {f"{section}.{name}": value for section in sections for name, value in values[section].items()}
    return flat | {name: value for name, value in values.items() if name not in sections}
