"""Where the studies live: SQLite in the run's folder, or any database that Optuna knows."""

import warnings

import optuna

from lmcore.errors import InputError
from sweeps.folder import RunFolder


def open_storage(url: str | None, folder: RunFolder) -> optuna.storages.BaseStorage:
    """The storage at `url`, or `study.db` in the folder.

    Raises:
        InputError: no database answers there.
    """
    quiet_optuna()
    if url is None:
        return optuna.storages.RDBStorage(f"sqlite:///{folder.study_db}")
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's drivers each raise their own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"search.storage: must be a database that Optuna can open, got {url!r} ({reason})") from None


def quiet_optuna() -> None:
    """Silence what Optuna says of decisions that are made here on purpose; its errors still come as exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        "QMCSampler is experimental",  # offered all the same; its interface is used in one place
        "Clip non-finite values",  # the +inf of diverged trials, which is what GP is to do with it
        "Constraints have been set, but CmaEsSampler",  # CMA-ES ranks: the +inf alone keeps it away
    ):
        warnings.filterwarnings("ignore", message=message)
