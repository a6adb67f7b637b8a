"""`--resume auto`: a command that starts its sweep the first time and resumes it whenever it is given again.

A batch system starts the same command once more after it took the nodes away. Such a command names a config, not a
folder, so it must be shown that the folder holds the sweep of this config.
"""

import json
from typing import Any

from lmcore.errors import InputError
from lmcore.runfile.paths import show
from sweeps.provenance.resume import MAY_CHANGE, flat, resumed_spec
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import SETTABLE, load_kept
from sweeps.spec.settings import strip_password
from sweeps.spec.sweep_spec import SweepSpec

MLFLOW = "tracking.mlflow"


def resumed_as(spec: SweepSpec, folder: RunFolder) -> SweepSpec:
    """The sweep in the folder, resumed with what `spec` changes of it, e.g. its number of trials.

    Args:
        spec: of a new sweep, as the command line describes it.
        folder: with the sweep.yaml of a sweep that was begun.

    Raises:
        InputError: the folder holds another sweep, or a change is one that `resumed_spec` refuses.
    """
    begun, now = flat(load_kept(folder.sweep_yaml).absolute()), flat(spec.absolute())
    changes = []
    for path, value in now.items():
        same = begun.get(path) in (value, strip_password(value) if path == "search.storage" else value)
        if same or _settled_at_start(path, value) or path in ("notes", "data.fingerprint", MLFLOW):
            continue
        if path not in MAY_CHANGE:
            rule = (
                f"{folder.display} was started with {path} {show(begun.get(path))}, and this command has {show(value)}"
            )
            raise InputError(f"--resume auto: {rule}; leave it as it was, or choose another --name")
        changes += _overrides(path, value)
    if spec.search.storage is not None:
        changes.append(f"search.storage={json.dumps(spec.search.storage)}")  # sweep.yaml keeps no password
    changes += _overrides(MLFLOW, now[MLFLOW])  # an address that only the folder names is not used
    return resumed_spec(folder, changes)


def _settled_at_start(path: str, value: Any) -> bool:
    """Whether the start of the sweep replaced this value by what it found: the machine, the data."""
    return value == "auto" or (path == "model.vocab_size" and value is None)


def _overrides(path: str, value: Any) -> list[str]:
    """Texts for `--set`; JSON is YAML."""
    values = {path: value} if path in SETTABLE else {f"{path}.{name}": entry for name, entry in value.items()}
    return [f"{name}={json.dumps(entry)}" for name, entry in values.items()]
