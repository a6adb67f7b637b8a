"""The search space of a sweep, as its sweep.yaml has it: which hyperparameters were searched, and on which scale."""

from collections.abc import Mapping
from typing import Any

from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.runfile.yaml_file import parse_yaml


def space_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry of each searched field under its column in the trials table, `params.<path>`.

    >>> space_of(analysis.load("runs/quick").manifest)["params.optim.lr"]
    {'low': 0.001, 'high': 0.01, 'log': True}

    Either low, high and maybe log and points, or choices. Empty for runs that recorded no sweep.yaml, for several that
    were combined, and for a text that is none.
    """
    entry = manifest.get("sweep_yaml")
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        return {}
    try:
        space = parse_yaml(text, "sweep.yaml").values.get("space")
    except InputError:
        return {}
    found = space if isinstance(space, dict) else {}
    return {f"{col.PARAMS_PREFIX}{path}": one for path, one in found.items() if isinstance(one, dict)}
