"""Where the studies live: SQLite in the run's folder, or any database that Optuna knows.

A password is better kept out of the URL and given through the database's own means (PGPASSWORD or ~/.pgpass for
PostgreSQL). No file keeps one that is in it, and nothing prints it: a sweep that is resumed is given it again.
"""

import warnings
from collections.abc import Sequence

import optuna
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lmcore.errors import InputError
from sweeps.folder import RunFolder


def open_storage(url: str | None, folder: RunFolder) -> optuna.storages.BaseStorage:
    """The storage at `url`, or `study.db` in the folder.

    Raises:
        InputError: no database answers there.
    """
    quiet_optuna()
    if url is None:
        return optuna.storages.RDBStorage(URL.create("sqlite", database=str(folder.study_db)).render_as_string())
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's drivers each raise their own
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


def without_password(url: str) -> str:
    """The URL as it may be shown: `***` in place of a password; otherwise, or if it is no URL, as it is."""
    return _rendered(url, "***").replace("%2A%2A%2A", "***")


def password_left_out(url: str | None) -> str | None:
    """The URL as it may be kept, to be used again: a password is gone from it."""
    return None if url is None else _rendered(url, None)


def _rendered(url: str, password: str | None) -> str:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    in_query = sorted({"password", "passwd"} & set(parsed.query))
    if parsed.password is None and not in_query:
        return url
    if parsed.password is not None:  # `set` takes None for `leave it as it is`
        place = (parsed.host, parsed.port, parsed.database, parsed.query)
        parsed = URL.create(parsed.drivername, parsed.username, password, *place)
    parsed = parsed.difference_update_query(in_query)
    if password is not None:
        parsed = parsed.update_query_dict(dict.fromkeys(in_query, password))
    return parsed.render_as_string(hide_password=False)


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
