"""`--start-with RUN`: a search that begins with the best settings of another sweep."""

from pathlib import Path

from pydantic import ValidationError

from lmcore.config import RunSpec
from lmcore.errors import InputError
from lmcore.runfile.paths import describe, show
from lmcore.runfile.run_file import load_run
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_kept
from sweeps.spec.start_with import why_outside
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
        values = {path: _value(best, path) for path in spec.space}
        outside = [p for p, value in values.items() if why_outside(p, spec.space[p], value) is not None]
        dropped += [f"{path} {show(values[path])} of {name}" for path in outside]
        setting = {path: value for path, value in values.items() if path not in outside}
        if setting.keys() - set(spec.compare) and setting not in settings:
            settings.append(setting)
    if len(settings) == len(spec.search.start_with):
        rule = f"must have a best setting that is in this space, and not listed yet (got {run})"
        raise InputError(f"--start-with: {rule}; widen the space, or leave the option out")
    dropped += [f"{path}, which is not searched here" for path in other.space if path not in spec.space]
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
    raise InputError(f"--start-with: {rule}; correct it")


def _value(run: RunSpec, path: str) -> object:
    section, _, name = path.partition(".")
    return getattr(getattr(run, section), name)
