"""Where the studies are stored: SQLite in the run's folder, or any database that Optuna supports.

A password in the URL is never printed or written to a file, so `--resume` needs the whole URL again. PGPASSWORD or
~/.pgpass is a better place for it.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import optuna
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from lmcore.errors import InputError
from sweeps.rundir.disk_full import is_full
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import mask_password
from sweeps.study.claims import Claim
from sweeps.study.study_storage import StudyStorage

POSTGRESQL = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
CONNECTION = {"psycopg": POSTGRESQL, "psycopg2": POSTGRESQL, "pymysql": {"connect_timeout": 10}}
"""Parameters of a connection by driver, in seconds: a host that has vanished without a word is given up after them."""
EXTRAS = {
    **dict.fromkeys(("postgresql", "postgresql+psycopg"), "postgresql"),
    **dict.fromkeys(("mysql+pymysql", "mariadb+pymysql"), "mysql"),
}
"""The extra of lmsweep that installs the driver, by the scheme of a URL."""
OPEN_TRIES = 5


def open_storage(
    url: str | None,
    folder: RunFolder,
    say: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
) -> StudyStorage:
    """The storage at `url`, or `study.db` in the folder if `url` is None. Raises InputError if it cannot be opened.

    Args:
        say: called with the line that a database server is waited for.
        check: called before each write; it may raise to prevent it.

    Example:
        storage = open_storage(None, RunFolder.named("quick"))
        optuna.load_study(study_name="main", storage=storage).best_value
    """
    quiet_optuna()
    claim = None if url is None else Claim.of(folder)
    if url is None:
        url = URL.create("sqlite", database=str(folder.study_db)).render_as_string()
    for left in reversed(range(OPEN_TRIES)):
        try:
            return StudyStorage(url, _engine_options(url), claim, say, check)
        except Exception as error:  # SQLAlchemy's drivers each raise their own
            if is_full(error):
                raise
            # Two sweeps that are the first in a database create its tables at the same time, and one of them fails.
            # What fails without a statement is the connection.
            if left and isinstance(error, DBAPIError) and error.statement is not None:
                time.sleep(0.3)
                continue
            shown = mask_password(url)
            # The cause of Optuna's "install an appropriate module" names the module.
            reason = str(error.__cause__ or error).strip().splitlines()[0].replace(url, shown)
            rule = f"must be a database that Optuna can open, got {shown!r} ({reason})"
            remedy = "correct it, or leave it out for study.db in the run's folder"
            if isinstance(error, ImportError) and (extra := EXTRAS.get(url.partition(":")[0])) is not None:
                remedy = f"pip install 'lmsweep[{extra}]'"
            raise InputError(f"search.storage: {rule}; {remedy}") from None
    raise AssertionError("the last attempt returns or raises")


def _engine_options(url: str) -> dict[str, Any]:
    """Options of SQLAlchemy's `create_engine`."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 60.0}}  # while a dashboard reads the file, the default of 5 s is too short
    options: dict[str, Any] = {"pool_pre_ping": True}  # a server may have closed an idle connection
    with suppress(ArgumentError, ValueError):  # `create_engine` says what is wrong
        parsed = make_url(url)
        limits = CONNECTION.get(parsed.get_driver_name(), {})
        options["connect_args"] = {name: value for name, value in limits.items() if name not in parsed.query}
    return options


def running_trial(study: optuna.Study, storage: optuna.storages.BaseStorage, number: int) -> optuna.Trial:
    """The trial of this number, to be reported to and told, as `study.ask` returned it to an earlier driver."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def quiet_optuna() -> None:
    """Silence Optuna's log and its warnings about what is done here on purpose; errors remain exceptions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for message in (
        "QMCSampler is experimental",
        "Argument ``group`` is an experimental feature",
        "Clip non-finite values",  # the +inf of diverged trials, which GP clips
        "The reported value is ignored",  # a step that is reported again after a driver was killed
        "optuna.study.study.Study.set_metric_names is experimental",
        "Constraints have been set, but CmaEsSampler",  # it ranks trials, and +inf ranks last
    ):
        warnings.filterwarnings("ignore", message=message)
