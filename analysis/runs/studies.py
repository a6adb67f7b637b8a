"""The trials of a run's Optuna studies, read without changing the database."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.runs.manifest import RunError, StudyEntry, studies_of
from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.printable import printable, printable_values
from lmcore.study_database import confirmed_storage, sqlite_file, sqlite_reader


class Studied(NamedTuple):
    """A trial and the study that it belongs to."""

    entry: StudyEntry
    trial: FrozenTrial
    result: dict[str, Any] | None  # the study's attribute `result`
    excluded: str | None = None  # why it is to be ignored; empty if nobody said so, None if it is not
    predicted: dict[str, Any] | None = None  # the study's attribute `transfer`: its optimum, predicted when it began

    @property
    def id(self) -> str:
        return printable(str(self.trial.user_attrs.get(col.TRIAL, col.trial_id(self.entry.id, self.trial.number))))

    @property
    def attributes(self) -> dict[str, Any]:
        """What the sweep recorded of the trial; its texts may come from a stranger."""
        return dict(printable_values(self.trial.user_attrs))


def read_studies(folder: Path, manifest: dict[str, Any], storage_url: str | None = None) -> list[Studied]:
    """Every trial that has started, by study in the order of `studies_of`, then by number.

    A study that has not been created yet has no trials. `storage_url` is the address that the user confirms, if the
    manifest names one. Raises RunError if it names another than study.db and the user has confirmed none, the studies
    are missing or damaged, or no trial has begun.
    """
    try:
        url = confirmed_storage(manifest.get("storage"), storage_url, str(folder / "manifest.json"))
        database = sqlite_file(url) if url else folder / "study.db"
    except InputError as error:
        raise RunError(str(error)) from None
    if not url and not (folder / "study.db").exists():
        raise RunError(f"a run's folder must hold study.db, but {folder} has none; run the sweep first")
    entries, found, started = studies_of(manifest), 0, []
    # Optuna passes on whatever its storage raises: its own errors, SQLAlchemy's, the JSON decoder's, a missing driver.
    # To a reader they all mean that the studies cannot be read. The URL is not shown, as it may hold a password.
    try:
        with _open_storage(url or "", database) as storage:
            for entry in entries:
                with suppress(KeyError):  # not created yet
                    study = optuna.load_study(study_name=entry.study, storage=storage)
                    found += 1
                    attributes = study.user_attrs
                    reasons = _reasons(attributes.get(col.EXCLUDED))
                    result = attributes.get(col.RESULT)
                    if isinstance(result, dict) and result.get("leader") in reasons:
                        result = None  # until the sweep is resumed, and confirms another setting
                    predicted = attributes.get(col.TRANSFER)
                    predicted = printable_values(predicted) if isinstance(predicted, dict) else None
                    trials = study.get_trials(deepcopy=False)
                    started += [
                        Studied(entry, one, result, _why(one, reasons), predicted)
                        for one in trials
                        if one.state != TrialState.WAITING
                    ]
    except InputError as error:
        raise RunError(str(error)) from None
    except Exception as error:
        place = "the database that was given" if url else database
        reason = printable(" ".join(str(error.__cause__ or error).split("\n")[0].split()))
        remedy = "restore a copy"
        if url and ":***@" in url:
            remedy = "give the password in place of ***, or take :*** out and set PGPASSWORD or the like"
        raise RunError(f"a run's studies must be readable, but {place} is not ({reason}); {remedy}") from error
    if not found:
        names = ", ".join(entry.study for entry in entries)
        raise RunError(f"a run must have a study for each size, but there is none named {names}; run the sweep first")
    if not any(col.RUN in one.trial.user_attrs for one in started):
        raise RunError(f"a report needs a trial, but no trial of {folder} has begun; wait for the sweep's first trial")
    return started


def _reasons(kept: Any) -> dict[str, str]:
    """Why trials of a study are excluded, by id."""
    return {str(name): printable(str(why)) for name, why in kept.items()} if isinstance(kept, dict) else {}


def _why(trial: FrozenTrial, reasons: dict[str, str]) -> str | None:
    """Why a trial is excluded; one that confirms or repeats an excluded one is, too. None if it is not."""
    own, of, first = (trial.user_attrs.get(name) for name in (col.TRIAL, col.OF, col.SAME_AS))
    if own in reasons:
        return reasons[own]
    related = {"confirms": of, "same as": first}
    return next((f"{how} {printable(str(one))}" for how, one in related.items() if one in reasons), None)


def status_of(trial: FrozenTrial) -> str:
    """The recorded status. Without one a trial is running or paused, unless another tool ended it in the study."""
    if recorded := trial.user_attrs.get(col.STATUS):
        return str(recorded)
    if trial.state == TrialState.COMPLETE:
        return col.COMPLETE if trial.value is not None and math.isfinite(trial.value) else col.DIVERGED
    unfinished = col.RUNNING if trial.user_attrs.get(col.PAUSED_AT) is None else col.PAUSED
    return {TrialState.RUNNING: unfinished, TrialState.PRUNED: col.PRUNED, TrialState.FAIL: col.FAILED}[trial.state]


@contextmanager
def _open_storage(url: str, database: Path | None) -> Iterator[RDBStorage]:
    """Optuna's storage in the SQLite file `database`, or at `url`, without its intermediate values.

    Nothing is created.
    """
    with ExitStack() as stack:
        engine = {"creator": stack.enter_context(sqlite_reader(database))} if database else {}
        storage = RDBStorage("sqlite:///study.db" if database else url, engine_kwargs=engine, skip_table_creation=True)
        storage.engine.dispose()  # the listener only sees connections that are opened after it was added
        sqlalchemy.event.listen(storage.engine, "connect", _hide_intermediate_values)
        stack.callback(storage.engine.dispose)
        yield storage


def _hide_intermediate_values(connection: Any, _: Any) -> None:
    """Cover the table of intermediate values by an empty one, because Optuna takes 20 s to read 500,000 of them.

    metrics.jsonl has the same values. A temporary table takes precedence over the real one of the same name; it exists
    for this connection only and writes nothing to the database.
    """
    table = "trial_intermediate_values"
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM {table} WHERE 1 = 0")
    connection.commit()
