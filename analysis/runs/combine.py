"""Several runs read as one: what was trained on the same data can be compared."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.runs.load import Run, RunError, load
from lmcore import columns as col


def load_all(folders: Sequence[Path]) -> Run:
    """One run as it is; of several, all trials and rows, with `<run>/` before the names of sizes and trials.

    Raises:
        RunError: a folder cannot be read, two have one name, or their data differ: losses would not compare.
    """
    runs = [load(folder) for folder in folders]
    if len(runs) == 1:
        return runs[0]
    names = [str(run.manifest.get("name", folder.name)) for run, folder in zip(runs, folders, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"RUN: each run must be given once and have a name of its own (got {twice[0]} twice)")
    first = runs[0].manifest.get("data", {}).get("fingerprint")
    for name, run in zip(names, runs, strict=True):
        other = run.manifest.get("data", {}).get("fingerprint")
        if other != first:
            raise RunError(
                "RUN: runs that are put together must have the same data, for their losses to compare, but the "
                f"fingerprints of {names[0]} and {name} differ ({str(first)[:12]}, {str(other)[:12]}); "
                "report them one by one"
            )
    frames = {
        kind: pd.concat(
            [_named(getattr(run, kind), name) for name, run in zip(names, runs, strict=True)], ignore_index=True
        )
        for kind in ("trials", "rows")
    }
    studies = {
        f"{name}/{size}": study
        for name, run in zip(names, runs, strict=True)
        for size, study in run.manifest["studies"].items()
    }
    manifest = {**runs[0].manifest, "name": " + ".join(names), "studies": studies}
    return Run(frames["trials"], frames["rows"], manifest)


def _named(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    return frame.assign(**{column: (f"{run}/" + frame[column]).astype("str") for column in (col.TRIAL, col.SIZE)})
