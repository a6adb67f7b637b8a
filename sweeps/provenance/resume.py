"""Resuming a sweep: its settings with the changes, and whether its tokens and software are those it began with."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.errors import InputError
from lmcore.runfile.paths import show
from lmcore.study_database import check_journal, confirmed_storage
from sweeps.provenance.changes import check_changes
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.settings import OFF
from sweeps.spec.sweep_spec import SweepSpec

COMPARED = ("commit", "versions.lmsweep", "versions.torch", "versions.optuna", "versions.numpy", "hardware.processor")
"""Entries of the manifest that may affect a trial's numbers."""


def resumed_spec(folder: RunFolder, overrides: Sequence[str], **flags: Any) -> SweepSpec:
    """The spec of the sweep in the folder, with changes as `load_spec` takes them.

    Raises InputError if `sweeps.provenance.changes` refuses a change, or the studies are in a database, or rows go to
    an MLflow server, whose address the user has not given again.

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
    check_changes(begun, spec, {text.partition("=")[0] for text in overrides})
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
