"""Whether sweep.yaml is still what the sweep wrote: manifest.json keeps its text and a digest of its values.

The trials in the studies were run with what the file said. If it were edited by hand and the sweep resumed, old and new
trials would be mixed without a trace, so every change is refused by name. Comments and layout do not matter.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lmcore.errors import InputError
from lmcore.runfile.paths import one_line, show
from lmcore.runfile.yaml_file import parse_yaml, read_yaml
from sweeps.provenance.changes import may_change
from sweeps.provenance.resume import manifest_of
from sweeps.rundir.folder import RunFolder, write_json

ENTRY = "sweep_yaml"
"""Entry of the manifest. Runs of earlier versions have none, and are not checked."""
SHOWN = 3
"""Differences that are named at most."""


def sweep_entry(text: str) -> dict[str, Any]:
    """The manifest's entry for the text of a sweep.yaml.

    >>> sorted(sweep_entry("name: quick"))
    ['sha256', 'text']
    """
    return {"sha256": [_digest(parse_yaml(text, "sweep.yaml").values)], "text": text}


def announce(folder: RunFolder, text: str) -> None:
    """Before `text` replaces sweep.yaml on a resume: note that both are the sweep's own, in case this process is killed
    before it writes the new manifest."""
    manifest = manifest_of(folder)
    if ENTRY in manifest:
        digests = [*manifest[ENTRY]["sha256"], *sweep_entry(text)["sha256"]]
        write_json(folder.manifest, {**manifest, ENTRY: {**manifest[ENTRY], "sha256": list(dict.fromkeys(digests))}})


def check_unedited(folder: RunFolder) -> None:
    """Raise InputError if sweep.yaml has other values than the sweep wrote."""
    entry = manifest_of(folder).get(ENTRY)
    if entry is None:
        return
    values = read_yaml(folder.sweep_yaml).values
    try:
        digests, text = list(entry["sha256"]), str(entry["text"])
    except (KeyError, TypeError):
        rule = f"must hold the text of sweep.yaml and its digests under {ENTRY}, but does not"
        raise InputError(f"{folder.display}/manifest.json: {rule}; restore it from a copy") from None
    if _digest(values) in digests:
        return
    written = _flat(parse_yaml(text, f"{folder.display}/manifest.json").values)
    found = _flat(values)
    changed = [path for path in dict.fromkeys([*written, *found]) if written.get(path) != found.get(path)]
    shown = ", ".join(f"{p} was {show(written.get(p))} and is {show(found.get(p))}" for p in changed[:SHOWN])
    if len(changed) > SHOWN:
        shown += f" and {len(changed) - SHOWN} more"
    rule = f"must be as the sweep wrote it, because its trials were run with that ({shown})"
    allowed = [path for path in changed if may_change(path)]
    remedy = "put back what it was"
    if allowed:
        remedy += f", and give what a resume may change on the command line, as in --set {allowed[0]}=..."
    other = "" if len(allowed) == len(changed) else ", or start a new sweep with --config and another --name"
    raise InputError(one_line(f"{folder.display}/sweep.yaml: {rule}; {remedy}{other}"))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path, as `--set` names them: of sections and of the space, not of what is within an entry."""
    flat: dict[str, Any] = {}
    for section, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{section}.{name}": entry for name, entry in value.items()}
        else:
            flat[section] = value
    return flat
