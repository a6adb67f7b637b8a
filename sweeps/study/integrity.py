"""Checks before a resume: study.db is undamaged, and the studies and metrics.jsonl know the same trials.

Without them Optuna would create empty studies in place of a missing file, and the sweep would start over.
"""

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.errors import InputError
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.schedulers import step_in_study

RESTORE = "restore it from a copy"


def check_file(path: Path, rows: Mapping[str, Row], label: str) -> None:
    """Raise InputError if a SQLite file is damaged, foreign, or missing although metrics.jsonl has rows.

    Args:
        rows: the last row of each trial (`sweeps.callbacks.metrics_file.last_rows`).
        label: what to call the file in the message.

    Example:
        check_file(folder.study_db, last_rows(folder.metrics), "runs/quick/study.db")
    """
    if not path.exists() or path.stat().st_size == 0:
        if rows:
            state = "empty" if path.exists() else "missing"
            raise InputError(f"{label}: must hold the sweep's {len(rows)} trials, but is {state}; {RESTORE}")
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found == "ok" and rows:
                database.execute("SELECT trial_id FROM trials LIMIT 1")
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise InputError(f"{label}: must be an undamaged Optuna database, but is not ({found}); {RESTORE}")


def check_trials(storage: optuna.storages.BaseStorage, spec: SweepSpec, rows: Mapping[str, Row], label: str) -> None:
    """Raise InputError if the studies lack rows of metrics.jsonl (an old copy), or ended trials have no rows there.

    `rows` and `label` are as in `check_file`.
    """
    trials: dict[str, FrozenTrial] = {}
    for plan in (*spec.studies, *spec.confirmations):
        try:
            study_id = storage.get_study_id_from_name(spec.study_name(plan))
        except KeyError:
            continue
        for trial in storage.get_all_trials(study_id, deepcopy=False):
            name = col.trial_id(plan.id, trial.number)
            trials[name] = trial
            if trial.user_attrs.get(col.TRIAL, name) != name:  # it names a folder
                raise InputError(f"{label}: trial {trial.number} of {plan.name} must be called {name}; {RESTORE}")
            if trial.state is TrialState.COMPLETE and trial.values is None:
                raise InputError(f"{label}: must have the loss of {name}, which is complete, but has none; {RESTORE}")
    for name, row in rows.items():
        if name not in trials:
            raise InputError(
                f"{label}: must hold every trial that has rows in metrics.jsonl, but lacks {name}; {RESTORE}"
            )
        step = row[col.STEP]
        known = trials[name].intermediate_values
        if math.isfinite(row[col.VAL_LOSS]) and step_in_study(trials[name], step) not in known:
            raise InputError(f"{label}: must have the loss of {name} at step {step}, as metrics.jsonl has; {RESTORE}")
    for name, trial in trials.items():
        status = trial.user_attrs.get(col.STATUS, col.RUNNING)
        trained = col.SAME_AS not in trial.user_attrs
        if trained and status not in (col.RUNNING, col.FAILED, col.EXCLUDED) and name not in rows:
            raise InputError(f"metrics.jsonl: must have rows of {name}, which is {status}, but has none; {RESTORE}")
