"""`--start-with RUN`: a search that begins with the best settings of another sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmcore.config import flatten
from lmcore.errors import InputError
from lmcore.run_folders import run_hint
from lmcore.runfile.paths import FieldError, describe, show
from lmcore.runfile.run_file import load_run
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.space import Layout, owners_of, paths_of
from sweeps.spec.start_with import belongs, fitted
from sweeps.spec.sweep_spec import SweepSpec


def start_with_run(spec: SweepSpec, run: str, runs: Path) -> SweepSpec:
    """`spec` with the best settings of a run's studies at the end of its search.start_with, and a note about them.

    The studies are those of sizes that both sweeps have, or all if there are none. Of a setting those values are taken
    that the space of `spec` can have; the note names the others.

    Args:
        run: the folder of the other sweep, or its name in `runs`.

    Raises:
        InputError: there is no such sweep, it has no best settings yet, or nothing of them is in the space.
    """
    folder = _folder(run, runs)
    other = load_kept(folder.sweep_yaml)
    same = [plan for plan in other.studies if plan.size in spec.size_names]
    files = {plan.id: folder.best / f"{plan.id}.yaml" for plan in same or other.studies}
    found = {name: load_run(file)[0] for name, file in files.items() if file.is_file()}
    if not found:
        rule = f"must be a sweep that has best settings already (got {run}, without best/{next(iter(files))}.yaml)"
        raise InputError(f"--start-with: {rule}; wait for its first complete trial")
    settings, dropped = list(spec.search.start_with), []
    for name, best in found.items():
        setting, outside = _setting_of(spec, flatten(best))
        dropped += [f"{path} {show(value)} of {name}" for path, value in outside.items()]
        if setting and setting not in settings:
            settings.append(setting)
    if len(settings) == len(spec.search.start_with):
        rule = f"must have a best setting that is in this space, and not listed yet (got {run})"
        raise InputError(f"--start-with: {rule}; widen the space, or leave the option out")
    owners = owners_of(spec.space)
    searched = [path for name, entry in other.space.items() for path in paths_of(name, entry)]
    dropped += [f"{path}, which is not searched here" for path in searched if path not in owners]
    note = f"--start-with {run}: starts with the best of {', '.join(found)}"
    note += f"; left out: {'; '.join(dropped)}" if dropped else ""
    search = {**spec.search.model_dump(), "start_with": settings}
    try:
        return SweepSpec.model_validate({**dict(spec), "search": search, "notes": (*spec.notes, note)})
    except ValidationError as error:
        raise InputError(f"--start-with: {describe(error)}") from None


def _folder(run: str, runs: Path) -> RunFolder:
    for path in (Path(run), runs / run):
        folder = RunFolder(path.absolute())
        if folder.sweep_yaml.is_file():
            return folder
    rule = f"must be the folder of a sweep, with its sweep.yaml, or its name in {runs} (got {run})"
    raise InputError(f"--start-with: {rule}; give {run_hint(Path(run))}")


def _setting_of(spec: SweepSpec, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of a run's fields that is a setting of the space, and the fields of the space that cannot be in it."""
    setting: dict[str, Any] = {}
    outside: dict[str, Any] = {}
    searched = False
    for name in Layout(spec.space).order:  # each after those that it depends on
        entry = spec.space[name]
        here = {path: fields[path] for path in paths_of(name, entry)}
        plans = [plan for plan in spec.studies if belongs(spec, {**setting, **here}, plan)]
        try:
            results = [fitted(spec, {**setting, **here}, plan) for plan in plans]
        except FieldError:
            results = []
        if all(any(error.field in here for error in left_out) for _, left_out in results):  # also without any
            outside |= here
        elif name in spec.compare or any(name in proposed for proposed, _ in results):
            setting |= here
            searched = searched or name not in spec.compare
    names = [path for name, entry in spec.space.items() for path in paths_of(name, entry)]
    return {path: setting[path] for path in names if path in setting} if searched else {}, outside
