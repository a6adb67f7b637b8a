"""The trials of a run's Optuna studies, read without changing the database."""

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.runs.manifest import RunError, StudyEntry, studies_of
from lmcore import columns as col


class Studied(NamedTuple):
    """A trial and the study that it belongs to."""

    entry: StudyEntry
    trial: FrozenTrial
    result: dict[str, Any] | None  # the study's attribute `result`

    @property
    def id(self) -> str:
        return str(self.trial.user_attrs.get(col.TRIAL, col.trial_id(self.entry.id, self.trial.number)))


def read_studies(folder: Path, manifest: dict[str, Any]) -> list[Studied]:
    """Every trial that has started, by study in the order of `studies_of`, then by number.

    A study that has not been created yet has no trials. Raises RunError if the studies are missing or damaged, or no
    trial has begun.
    """
    url, database = manifest.get("storage"), folder / "study.db"
    url = url and os.environ.get(col.STORAGE_VARIABLE, url)  # with the password, which the manifest lacks
    if url is None and not database.is_file():
        raise RunError(f"a run's folder must hold study.db, but {folder} has none; run the sweep first")
    entries, found, started = studies_of(manifest), 0, []
    # Optuna passes on whatever its storage raises: its own errors, SQLAlchemy's, the JSON decoder's, a missing driver.
    # To a reader they all mean that the studies cannot be read. The URL is not shown, as it may hold a password.
    try:
        with _open_storage(url, database) as storage:
            for entry in entries:
                with suppress(KeyError):  # not created yet
                    study = optuna.load_study(study_name=entry.study, storage=storage)
                    found += 1
                    result = study.user_attrs.get(col.RESULT)
                    trials = study.get_trials(deepcopy=False)
                    started += [Studied(entry, one, result) for one in trials if one.state != TrialState.WAITING]
    except Exception as error:
        place = database if url is None else "the storage named in manifest.json"
        reason = " ".join(str(error.__cause__ or error).split("\n")[0].split())
        remedy = "restore a copy"
        if url is not None and ":***@" in url:
            remedy = "the manifest keeps no password: take :*** out of its storage and set PGPASSWORD or the like"
        raise RunError(f"a run's studies must be readable, but {place} is not ({reason}); {remedy}") from error
    if not found:
        names = ", ".join(entry.study for entry in entries)
        raise RunError(f"a run must have a study for each size, but there is none named {names}; run the sweep first")
    if not any(col.RUN in one.trial.user_attrs for one in started):
        raise RunError(f"a report needs a trial, but no trial of {folder} has begun; wait for the sweep's first trial")
    return started


def status_of(trial: FrozenTrial) -> str:
    """The recorded status. Without one a trial is running, unless another tool ended it in the study."""
    if recorded := trial.user_attrs.get(col.STATUS):
        return str(recorded)
    if trial.state == TrialState.COMPLETE:
        return col.COMPLETE if trial.value is not None and math.isfinite(trial.value) else col.DIVERGED
    return {TrialState.RUNNING: col.RUNNING, TrialState.PRUNED: col.PRUNED, TrialState.FAIL: col.FAILED}[trial.state]


@contextmanager
def _open_storage(url: str | None, database: Path) -> Iterator[RDBStorage]:
    """Optuna's storage at `url`, or in the file `database`, without its intermediate values."""
    if url is None:
        # mode=rw, so that a missing or empty file is left as it is. Not mode=ro, because the journal of a sweep that
        # was killed while writing has to be rolled back. SQLite can still read a file that is write-protected.
        uri = f"{database.resolve().as_uri()}?mode=rw"
        engine = {"creator": lambda: sqlite3.connect(uri, uri=True)}
        storage = RDBStorage("sqlite:///study.db", engine_kwargs=engine, skip_table_creation=True)
    else:
        storage = RDBStorage(url, skip_table_creation=True)
    storage.engine.dispose()  # the listener only sees connections that are opened after it was added
    sqlalchemy.event.listen(storage.engine, "connect", _hide_intermediate_values)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _hide_intermediate_values(connection: Any, _: Any) -> None:
    """Cover the table of intermediate values by an empty one, because Optuna takes 20 s to read 500,000 of them.

    metrics.jsonl has the same values. A temporary table takes precedence over the real one of the same name; it exists
    for this connection only and writes nothing to the database.
    """
    table = "trial_intermediate_values"
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM {table} WHERE 1 = 0")
    connection.commit()
