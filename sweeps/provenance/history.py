"""manifest.json keeps what was changed of a sweep when it was resumed: `changes`, in the order in which it happened.

An entry is written before sweep.yaml changes. If the driver is killed between the two, the change did not happen, and
the next resume removes the entry.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lmcore.runfile.paths import show
from sweeps.provenance.changes import flat
from sweeps.provenance.resume import manifest_of
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.spec.load import load_kept
from sweeps.spec.settings import strip_password
from sweeps.spec.sweep_spec import SweepSpec

CHANGES = "changes"
"""Entry of the manifest."""
NOT_KEPT = ("notes", "tracking")
"""Fields and sections that have nothing to do with results."""


def note_changes(folder: RunFolder, spec: SweepSpec, asked: Mapping[str, int]) -> list[dict[str, Any]]:
    """Note in manifest.json how `spec`, as which the sweep goes on, differs from sweep.yaml; returns the new entries.

    Call this before sweep.yaml is written. Without a manifest, before the first trial, nothing is noted.

    Args:
        folder: of the sweep, which this process has claimed.
        spec: the sweep with its changes.
        asked: number of trials of each study so far, by its id.
    """
    manifest = manifest_of(folder)
    if not manifest or not folder.sweep_yaml.exists():
        return []
    before, after = _as_written(load_kept(folder.sweep_yaml)), _as_written(spec)
    earlier = _happened(manifest.get(CHANGES, []), before)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    new = [
        {"when": when, "trials": dict(asked), "path": path, "before": before.get(path), "after": after.get(path)}
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path) and path.partition(".")[0] not in NOT_KEPT
    ]
    if new or earlier != manifest.get(CHANGES, []):
        write_json(folder.manifest, {**manifest, CHANGES: [*earlier, *new]})
    return new


def changes_of(folder: RunFolder) -> dict[str, Any]:
    """The manifest's entry about changes, for the next manifest; {} if there were none."""
    changes = manifest_of(folder).get(CHANGES)
    return {CHANGES: changes} if changes else {}


def change_line(change: Mapping[str, Any]) -> str:
    """A change in a line.

    >>> change_line({"path": "search.method", "before": "optuna", "after": "random", "trials": {"main": 12}})
    'search.method: optuna -> random from trial 12 on'
    >>> change_line({"path": "space.optim.lr", "before": {"low": 0.1, "high": 1}, "after": {"low": 0.1, "high": 2},
    ...     "trials": {"xs": 4, "s": 3}})
    'space.optim.lr: high 1 -> 2 from trials xs-4 and s-3 on'
    """
    before, after = change["before"], change["after"]
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() == after.keys():
        parts = [
            f"{name} {_shown(before[name])} -> {_shown(after[name])}" for name in before if before[name] != after[name]
        ]
        what = ", ".join(parts)
    else:
        what = f"{_shown(before)} -> {_shown(after)}"
    trials = change["trials"]
    places = [f"{study}-{number}" for study, number in trials.items()]
    start = f"trials {' and '.join([', '.join(places[:-1]), places[-1]])}" if len(places) > 1 else ""
    if len(places) == 1:
        start = f"trial {next(iter(trials.values()))}"
    return f"{change['path']}: {what}{f' from {start} on' if start else ''}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "nothing" if value is None else str(show(value))


def _as_written(spec: SweepSpec) -> dict[str, Any]:
    """What sweep.yaml has of a spec, by path: YAML has lists in place of tuples, and no password."""
    values = flat(spec)
    values["search.storage"] = strip_password(values["search.storage"])
    return {path: _plain(value) for path, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _happened(changes: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changes without those at the end that sweep.yaml, with these values, does not have."""
    kept = [dict(change) for change in changes]
    while kept and values.get(kept[-1]["path"]) != kept[-1]["after"]:
        del kept[-1]
    return kept
