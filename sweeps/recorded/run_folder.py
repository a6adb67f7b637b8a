"""Recorded runs from the folder of a sweep: its trials, with the curves in metrics.jsonl.

Nothing in the folder is changed, and no address in it is followed: studies in another database are refused.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmcore import columns as col
from lmcore.config import FIELD_ROLES, RunSpec, flatten
from lmcore.errors import InputError
from lmcore.runfile.paths import BUDGET
from lmcore.study_database import sqlite_reader
from sweeps.recorded.recorded_runs import RecordedRun, RecordedRuns
from sweeps.spec.arms import SEED_PATHS

NOT_SETTINGS = (*SEED_PATHS, *BUDGET, "model.vocab_size", "train.dtype", "train.micro_batch_size")
SETTING_PATHS = tuple(p for p, role in FIELD_ROLES.items() if role != "sweep constant" and p not in NOT_SETTINGS)


def read_run_folder(folder: Path) -> RecordedRuns:
    """The trials of a sweep that have reported at least once, whatever their status.

    Example:
        read_run_folder(Path("runs/quick")).runs[0].losses

    Raises InputError if the folder is not that of a sweep, its losses are predictions themselves, or no trial has
    reported.
    """
    manifest = _manifest(folder)
    if col.REPLAY in manifest:
        rule = f"must hold runs that were trained (got {folder}, which is a replay)"
        raise InputError(f"--from: {rule}; give {manifest[col.REPLAY].get('source', 'its source')}")
    rows = _rows(folder / "metrics.jsonl")
    runs, vocabulary = [], set()
    for attributes in _trials(folder, manifest):
        reported = rows.get(attributes[col.TRIAL])
        if reported and attributes.get(col.STATUS) != col.EXCLUDED:
            run = RunSpec.model_validate(attributes[col.RUN])
            vocabulary.add(run.model.vocab_size)
            runs.append(_recorded(attributes[col.TRIAL], run, reported))
    if not runs:
        raise InputError(f"--from: must hold a trial that has reported (got {folder}, which has none); give another")
    size = vocabulary.pop() if len(vocabulary) == 1 else None
    return RecordedRuns(str(folder), SETTING_PATHS, tuple(runs), vocab_size=size)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = dict(json.loads((folder / "manifest.json").read_bytes()))
        assert isinstance(manifest["studies"], list | dict)
    except (OSError, ValueError, TypeError, KeyError, AssertionError):
        rule = f"must be a table or the folder of a run, with its manifest.json (got {folder})"
        raise InputError(f"--from: {rule}; give runs/<name>") from None
    if manifest.get("storage") is not None:
        rule = f"must be a run whose studies are in its own study.db (got {folder}, whose studies are in a database)"
        raise InputError(f"--from: {rule}; write its curves to a table, as docs/howto/replay.md says")
    return manifest


def _trials(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The attributes of every trial that was handed out."""
    import optuna
    from optuna.storages import RDBStorage

    from sweeps.study.excluded import excluded_in, is_excluded

    named = manifest["studies"]
    names = list(named.values()) if isinstance(named, dict) else [one["study"] for one in named]
    try:
        with sqlite_reader(folder / "study.db") as connect:
            storage = RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=True)
            known = {study.study_name for study in optuna.get_all_study_summaries(storage)}
            for name in filter(known.__contains__, names):
                study = optuna.load_study(study_name=name, storage=storage)
                excluded = excluded_in(study.user_attrs)
                for trial in study.get_trials(deepcopy=False):
                    if col.RUN in trial.user_attrs and not is_excluded(trial, excluded):
                        yield trial.user_attrs
            storage.engine.dispose()
    except OSError:
        raise InputError(f"--from: must hold study.db (got {folder}, which has none); give another folder") from None


def _rows(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows by trial and step. The last row of a step counts; a line that was cut short is none."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
            if row.get(col.BRANCH) is not None:  # a result of its own, which no scheduler sees
                continue
            rows.setdefault(row[col.TRIAL], {})[row[col.STEP]] = row
        except (ValueError, TypeError, KeyError) as error:
            rule = f"must hold report rows, but a line is damaged ({error!r})"
            raise InputError(f"{path}: {rule}; restore the file from a copy") from None
    return rows


def _recorded(trial: str, run: RunSpec, rows: Mapping[int, Mapping[str, Any]]) -> RecordedRun:
    steps = sorted(rows)
    last = rows[steps[-1]]
    losses = np.array([math.nan if rows[s][col.VAL_LOSS] is None else rows[s][col.VAL_LOSS] for s in steps])
    if last.get(col.STATUS) == col.DIVERGED:  # also where the validation loss is a number, but far too high
        losses[-1] = math.nan
    fields = flatten(run)
    return RecordedRun(
        id=trial,
        size=None,
        seed=run.train.seed,
        setting={path: fields[path] for path in SETTING_PATHS},
        steps=np.array(steps, dtype=np.int64),
        losses=losses,
        last_step=run.steps,
        final_loss=last.get(col.FINAL_VAL_LOSS),
    )
