"""Where the studies are stored: SQLite in the run's folder, or any database that Optuna supports.

A password in the URL is never printed or written to a file, so `--resume` needs the whole URL again. PGPASSWORD or
~/.pgpass is a better place for it.
"""

import warnings
from collections.abc import Sequence

import optuna
from sqlalchemy.engine import URL

from lmcore.errors import InputError
from sweeps.rundir.disk_full import is_full
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import mask_password


def open_storage(url: str | None, folder: RunFolder) -> optuna.storages.BaseStorage:
    """The storage at `url`, or `study.db` in the folder if `url` is None. Raises InputError if it cannot be opened.

    Example:
        storage = open_storage(None, RunFolder.named("quick"))
        optuna.load_study(study_name="main", storage=storage).best_value
    """
    quiet_optuna()
    if url is None:
        url = URL.create("sqlite", database=str(folder.study_db)).render_as_string()
    # While a dashboard reads the file, SQLite's default of 5 s for its lock is too short. A server may have closed an
    # idle connection.
    engine = {"connect_args": {"timeout": 60.0}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)
    except Exception as error:  # SQLAlchemy's drivers each raise their own
        if is_full(error):
            raise
        shown = mask_password(url)
        # The cause of Optuna's "install an appropriate module" names the module.
        reason = str(error.__cause__ or error).strip().splitlines()[0].replace(url, shown)
        rule = f"must be a database that Optuna can open, got {shown!r} ({reason})"
        remedy = "correct it, or leave it out for study.db in the run's folder"
        raise InputError(f"search.storage: {rule}; {remedy}") from None


def check_unused(storage: optuna.storages.BaseStorage, names: Sequence[str]) -> None:
    """Raise InputError if the database has one of these studies: sweeps may share a database, but no study."""
    taken = sorted(set(names) & {study.study_name for study in storage.get_all_studies()})
    if taken:
        rule = f"every sweep needs studies of its own, and the database has {', '.join(taken)} already"
        raise InputError(f"search.storage: {rule}; choose another --name")


def running_trial(study: optuna.Study, storage: optuna.storages.BaseStorage, number: int) -> optuna.Trial:
    """The trial of this number, to be reported to and told, as `study.ask` returned it to an earlier driver."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def quiet_optuna() -> None:
    """Silence Optuna's log and its warnings about what is done here on purpose; errors remain exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        "QMCSampler is experimental",
        "Clip non-finite values",  # the +inf of diverged trials, which GP clips
        "The reported value is ignored",  # a step that is reported again after a driver was killed
        "optuna.study.study.Study.set_metric_names is experimental",
        "Constraints have been set, but CmaEsSampler",  # it ranks trials, and +inf ranks last
    ):
        warnings.filterwarnings("ignore", message=message)
