"""Every trial of a sweep that has started, as its studies record it. The studies are only read.

It works while the sweep runs: SQLite lets readers in between transactions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import optuna

from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.printable import printable
from lmcore.study_database import confirmed_storage, sqlite_file, sqlite_reader
from sweeps.rundir.folder import RunFolder
from sweeps.spec.arms import StudyPlan
from sweeps.spec.settings import mask_password
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.excluded import excluded_in, is_excluded
from sweeps.study.storage import quiet_optuna

RESTORE = "restore it from a copy"


class RecordedTrial(NamedTuple):
    """A trial as its study has it."""

    plan: StudyPlan
    status: str
    """As in the study: `running` also for a trial whose sweep was stopped."""
    loss: float
    """The loss by which trials are ranked, in nats per token; inf if there is none."""
    run: dict[str, Any]
    """Its `RunSpec` as nested dicts, not yet validated."""
    experiment: str | None = None
    of: str | None = None
    """The trial whose setting this one repeats; None if it is not a confirmation run."""
    leads: bool = False
    """Whether a confirmation that is over named this trial's setting as the result of its size and arm."""


Trials = dict[str, RecordedTrial]
"""By id; those of the searches before those that confirm them."""


def read_trials(spec: SweepSpec, folder: RunFolder, storage: str | None = None) -> Trials:
    """Every trial that has started. `storage` is the address of the studies, if they are not in study.db.

    >>> read_trials(spec, folder)["xs-0003"].status  # doctest: +SKIP
    'complete'

    Raises InputError if the studies cannot be read, or are in a database whose address was not given.
    """
    url = confirmed_storage(spec.search.storage, storage, f"{folder.display}/sweep.yaml")
    label = f"{folder.display}/study.db" if url is None else mask_password(url)
    file = sqlite_file(url) if url else folder.study_db
    quiet_optuna()
    try:
        if file is None:
            with _opened(str(url)) as opened:
                return _trials_in(opened, spec)
        with sqlite_reader(file) as connect, _opened("sqlite://", creator=connect) as opened:
            return _trials_in(opened, spec)
    except InputError:
        raise
    except Exception as error:  # Optuna's, SQLAlchemy's, a driver's: for the user they all mean the same
        reason = printable(str(error.__cause__ or error).strip().split("\n")[0].replace(url or label, label))
        remedy = RESTORE if url is None else "start it, or set PGPASSWORD or the like: sweep.yaml keeps no password"
        raise InputError(f"{label}: must be an Optuna database that can be read ({reason}); {remedy}") from None


@contextmanager
def _opened(url: str, **engine: Any) -> Iterator[optuna.storages.RDBStorage]:
    storage = optuna.storages.RDBStorage(url, engine_kwargs=engine, skip_table_creation=True)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _trials_in(storage: optuna.storages.RDBStorage, spec: SweepSpec) -> Trials:
    trials: Trials = {}
    studies = optuna.get_all_study_names(storage)
    for plan in (*spec.studies, *spec.confirmations):
        if (name := spec.study_name(plan)) not in studies:
            continue
        study = optuna.load_study(study_name=name, storage=storage)
        excluded = excluded_in(study.user_attrs)
        leader = (study.user_attrs.get(col.RESULT) or {}).get("leader")
        if leader in trials:
            trials[leader] = trials[leader]._replace(leads=True)
        for trial in study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            if col.RUN not in attributes:
                continue
            # The status is recorded before Optuna is told; only then has the trial ended.
            unfinished = col.RUNNING if attributes.get(col.PAUSED_AT) is None else col.PAUSED
            status = attributes.get(col.STATUS, col.RUNNING) if trial.state.is_finished() else unfinished
            status = col.EXCLUDED if is_excluded(trial, excluded) else status
            # The id becomes part of a path, so it is not read from the database.
            trials[col.trial_id(plan.id, trial.number)] = RecordedTrial(
                plan,
                printable(str(status)),
                math.inf if trial.value is None else trial.value,
                attributes[col.RUN],
                attributes.get(col.EXPERIMENT),
                attributes.get(col.OF),
            )
    return trials
