"""Where the studies live: SQLite in the run's folder, or any database that Optuna knows.

A password is better kept out of the URL and given through the database's own means (PGPASSWORD or ~/.pgpass for
PostgreSQL). No file keeps one that is in it, and nothing prints it: a sweep that is resumed is given it again.
"""

import warnings
from collections.abc import Sequence

import optuna
from sqlalchemy.engine import URL

from lmcore.errors import InputError
from sweeps.rundir.disk_full import is_full
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import without_password

LOCKED_S = 60.0


def open_storage(url: str | None, folder: RunFolder) -> optuna.storages.BaseStorage:
    """The storage at `url`, or `study.db` in the folder.

    Raises:
        InputError: no database answers there.
    """
    quiet_optuna()
    if url is None:
        url = URL.create("sqlite", database=str(folder.study_db)).render_as_string()
    # Another reader may hold SQLite's lock for longer than the five seconds that its driver waits; a server may have
    # closed a connection that rested.
    engine = {"connect_args": {"timeout": LOCKED_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)
    except Exception as error:  # SQLAlchemy's drivers each raise their own
        if is_full(error):
            raise
        shown = without_password(url)
        # Behind Optuna's "install an appropriate module" stands the name of that module.
        reason = str(error.__cause__ or error).strip().splitlines()[0].replace(url, shown)
        raise InputError(
            f"search.storage: must be a database that Optuna can open, got {shown!r} ({reason}); "
            "correct it, or leave it out for study.db in the run's folder"
        ) from None


def check_unused(storage: optuna.storages.BaseStorage, names: Sequence[str]) -> None:
    """Raise InputError if the database has a study of one of these names: sweeps that share it share no studies."""
    taken = sorted(set(names) & {study.study_name for study in storage.get_all_studies()})
    if taken:
        raise InputError(
            f"search.storage: every sweep needs studies of its own, and the database has {', '.join(taken)} already; "
            "choose another --name"
        )


def quiet_optuna() -> None:
    """Silence what Optuna says of decisions that are made here on purpose; its errors still come as exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        "QMCSampler is experimental",  # offered all the same; its interface is used in one place
        "Clip non-finite values",  # the +inf of diverged trials, which is what GP is to do with it
        "The reported value is ignored",  # what a killed driver had told half comes again
        "The constraint value is ignored",
        "Constraints have been set, but CmaEsSampler",  # CMA-ES ranks: the +inf alone keeps it away
    ):
        warnings.filterwarnings("ignore", message=message)
