"""`--resume auto`: a command that starts its sweep the first time and resumes it whenever it is given again.

A batch system starts the same command once more after it took the nodes away. Such a command names a config, not a
folder. Where the config differs from the folder, `sweeps.provenance.changes` accepts or refuses the change.
"""

import json
from typing import Any

from lmcore.errors import InputError
from lmcore.runfile.paths import show
from sweeps.provenance.changes import COMPARABLE, flat
from sweeps.provenance.resume import resumed_spec
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import SETTABLE, load_kept
from sweeps.spec.settings import strip_password
from sweeps.spec.space import owners_of
from sweeps.spec.sweep_spec import SweepSpec

MLFLOW = "tracking.mlflow"
NOT_COMPARED = ("notes", "data.fingerprint", MLFLOW)


def resumed_as(spec: SweepSpec, folder: RunFolder) -> SweepSpec:
    """The sweep in the folder, resumed with what `spec` changes of it, e.g. its number of trials or its space.

    Args:
        spec: of a new sweep, as the command line describes it.
        folder: with the sweep.yaml of a sweep that was begun.

    Raises:
        InputError: the folder holds another sweep, or a change is one that `resumed_spec` refuses.
    """
    kept = load_kept(folder.sweep_yaml).absolute()
    begun, now = flat(kept), flat(spec.absolute())
    owners, kept_owners = owners_of(spec.space), owners_of(kept.space)
    changes = []
    for path, value in now.items():
        same = begun.get(path) in (value, strip_password(value) if path == "search.storage" else value)
        if same or _settled_at_start(path, value) or path in NOT_COMPARED or path.startswith("space."):
            continue
        if path in owners:
            if path in kept_owners and all(
                one.when for one in (spec.space[owners[path]], kept.space[kept_owners[path]])
            ):
                # Trials to which its entry does not apply have the base value, and to set it would end the search.
                rule = f"must stay {show(begun[path])}, {COMPARABLE} (got {show(value)})"
                raise InputError(
                    f"--resume auto: {folder.display} holds a sweep already, and {path}: {rule}; change it back"
                )
            continue  # no trial has the base value of a field that is searched, and to set it would end the search
        changes += _overrides(path, value)
    if spec.space != kept.space:
        entries = {path: entry.model_dump(exclude_defaults=True) for path, entry in spec.space.items()}
        changes.insert(0, f"space={json.dumps(entries)}")
        changes += [text for path in kept_owners if path not in owners for text in _given(spec, path)]
    if spec.search.storage is not None:
        changes.append(f"search.storage={json.dumps(spec.search.storage)}")  # sweep.yaml keeps no password
    changes += _overrides(MLFLOW, now[MLFLOW])  # an address that only the folder names is not used
    try:
        return resumed_spec(folder, changes)
    except InputError as error:
        raise InputError(f"--resume auto: {folder.display} holds a sweep already, and {error}") from None


def _given(spec: SweepSpec, path: str) -> list[str]:
    """The value of a field that is not searched any more, if the command line or the config gives it."""
    section, name = path.split(".")
    values = getattr(spec, section)
    return _overrides(path, getattr(values, name)) if name in values.model_fields_set else []


def _settled_at_start(path: str, value: Any) -> bool:
    """Whether the start of the sweep replaced this value by what it found: the machine, the data."""
    return value == "auto" or (path == "model.vocab_size" and value is None)


def _overrides(path: str, value: Any) -> list[str]:
    """Texts for `--set`; JSON is YAML."""
    values = {path: value} if path in SETTABLE else {f"{path}.{name}": entry for name, entry in value.items()}
    return [f"{name}={json.dumps(entry)}" for name, entry in values.items()]
