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
    space = _sweep_file(manifest).get("space")
    found = space if isinstance(space, dict) else {}
    return {f"{col.PARAMS_PREFIX}{path}": one for path, one in found.items() if isinstance(one, dict)}


def makes_ladder(manifest: Mapping[str, Any]) -> bool:
    """Whether the sweep's file has a `ladder`, which makes its sizes."""
    return isinstance(_sweep_file(manifest).get("ladder"), dict)


def _sweep_file(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recorded sweep.yaml; empty if there is none, or it is damaged."""
    entry = manifest.get("sweep_yaml")
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        return {}
    try:
        values = parse_yaml(text, "sweep.yaml").values
    except InputError:
        return {}
    return values
