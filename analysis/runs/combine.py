"""Several runs as one, so that their trials can be compared. They must have been trained on the same data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.load import EXCLUDED, NEXT, PREDICTED, Run, RunError, in_reading_order, load
from analysis.runs.manifest import STUDIES, read_manifest, studies_of
from lmcore import columns as col


def load_all(folders: Sequence[Path], storage: str | None = None) -> Run:
    """The trials and rows of all `folders`; one folder is loaded as it is.

    The names of sizes and trials get their run's name in front: `small/xs`, `small/xs-0003`. The manifest is the first
    run's, with the studies of all. `storage` is the database of the runs whose studies are not in their study.db.

    >>> load_all([Path("runs/small"), Path("runs/large")]).manifest["name"]
    'small + large'

    Raises RunError if a folder cannot be read, two runs have the same name, or their data differ, so that their losses
    cannot be compared.
    """
    if len(folders) == 1:
        return load(folders[0], storage)
    runs: dict[str, Run] = {}
    for folder in folders:
        run = load(folder, storage if read_manifest(folder).get("storage") else None)
        name = str(run.manifest.get("name", folder.name))
        if name in runs:
            raise RunError(f"RUN: each run must be given once and have a name of its own (got {name} twice)")
        runs[name] = run
    prints = {name: run.manifest.get("data", {}).get("fingerprint") for name, run in runs.items()}
    (first, expected), *others = prints.items()
    for name, found in others:
        if found != expected:
            rule = "RUN: runs in one report must have the same data, or their losses cannot be compared"
            fault = f"the fingerprints of {first} and {name} differ ({str(expected)[:12]}, {str(found)[:12]})"
            raise RunError(f"{rule}, but {fault}; report them one by one")
    excluded = {f"{name}/{id}": why for name, run in runs.items() for id, why in run.manifest.get(EXCLUDED, {}).items()}
    marked = {EXCLUDED: excluded} if excluded else {}
    predicted = {
        f"{name}/{id}": entry for name, run in runs.items() for id, entry in run.manifest.get(PREDICTED, {}).items()
    }
    first_manifest = {key: entry for key, entry in runs[first].manifest.items() if key not in (PREDICTED, NEXT)}
    marked |= {PREDICTED: predicted} if predicted else {}
    studies = [study for name, run in runs.items() for study in _studies(run.manifest, name)]
    combined = Run(
        in_reading_order(pd.concat([_prefixed(run.trials, name) for name, run in runs.items()], ignore_index=True)),
        pd.concat([_prefixed(run.rows, name) for name, run in runs.items()], ignore_index=True),
        {**first_manifest, "schema": 2, "name": " + ".join(runs), STUDIES: studies, **marked},
    )
    combined.curve_files = {f"{name}/": path for name, run in runs.items() for path in run.curve_files.values()}
    found = [_prefixed(run.branches, name) for name, run in runs.items() if len(run.branches)]
    combined.branches = pd.concat(found, ignore_index=True) if found else combined.branches
    return combined


def _studies(manifest: dict[str, Any], run: str) -> list[dict[str, Any]]:
    entries = studies_of(manifest)
    return [one._replace(id=f"{run}/{one.id}", size=f"{run}/{one.size}")._asdict() for one in entries]


def _prefixed(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    names = [name for name in (col.TRIAL, col.SIZE, col.OF) if name in frame]
    return frame.assign(**{name: (f"{run}/" + frame[name]).astype("str") for name in names})
