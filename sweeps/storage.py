"""Where the studies live: SQLite in the run's folder, or any database that Optuna knows."""

import optuna

from lmcore.errors import InputError
from sweeps.folder import RunFolder


def open_storage(url: str | None, folder: RunFolder) -> optuna.storages.BaseStorage:
    """The storage at `url`, or `study.db` in the folder.

    Raises:
        InputError: no database answers there.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        return optuna.storages.RDBStorage(f"sqlite:///{folder.study_db}")
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's drivers each raise their own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"search.storage: must be a database that Optuna can open, got {url!r} ({reason})") from None
