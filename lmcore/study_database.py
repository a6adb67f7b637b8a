"""Where a run's studies are, what of an address is shown, and how to read them without changing anything.

A run's folder may come from a stranger. An address in it is never followed before the user has seen and repeated it,
so that nothing connects to a stranger's host, and no PGPASSWORD or ~/.pgpass is sent there. SQLite files are opened
read-only, and nothing is created beside them.
"""

import os
import shlex
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from lmcore.columns import STORAGE_VARIABLE
from lmcore.errors import InputError
from lmcore.printable import printable

STORAGE_HELP = "the address of the studies' database, if they are not in the folder's study.db"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
WAL_VERSION = 2  # bytes 18 and 19 of a database in write-ahead mode

Connect = Callable[[], sqlite3.Connection]


def confirmed_storage(named: str | None, given: str | None, place: str) -> str | None:
    """The address of a run's studies; None for its own study.db.

    Args:
        named: what the run's folder says; None if its studies are in study.db.
        given: what the user says (`--storage`); by default the environment variable LMSWEEP_STORAGE. It wins.
        place: the file that names it, for the message.

    >>> confirmed_storage("postgresql://h/d", "postgresql://me@h/d", "manifest.json")
    'postgresql://me@h/d'

    Raises InputError if the folder names an address that the user has not confirmed, or the user gave one and the
    folder names none.
    """
    if named is None:
        if given is not None:
            rule = "must be left out for a run whose studies are in its own study.db"
            raise InputError(f"--storage: {rule} (got {_shown(given)}); leave it out")
        return None
    confirmed = given or os.environ.get(STORAGE_VARIABLE)
    if not confirmed:
        rule = f"{place} names a database, which is opened only if you confirm its address"
        password = ", with the password in place of ***" if "***" in _shown(named) else ""
        raise InputError(f"--storage: {rule} (got {_shown(named)}); add --storage {_quoted(named)}{password}")
    return confirmed


def mask_password(url: str) -> str:
    """The URL to show to the user, with `***` in place of a password. Text that is not a URL is returned unchanged.

    >>> mask_password("postgresql://ann:s3cret@db.example/sweeps")
    'postgresql://ann:***@db.example/sweeps'
    """
    return replace_password(url, "***").replace("%2A%2A%2A", "***")


def replace_password(url: str, replacement: str | None) -> str:
    """The URL with its password, and those among its query parameters, replaced or (None) removed."""
    # Importing SQLAlchemy takes a while, and most sweeps have no URL.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    in_query = sorted({"password", "passwd"} & set(parsed.query))
    if parsed.password is None and not in_query:
        return url
    if parsed.password is not None:
        parsed = parsed._replace(password=replacement)
    parsed = parsed.difference_update_query(in_query)
    if replacement is not None:
        parsed = parsed.update_query_dict(dict.fromkeys(in_query, replacement))
    return parsed.render_as_string(hide_password=False)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for another database. Raises InputError if it has no file.

    >>> sqlite_file("sqlite:///file:/data/study.db?uri=true")
    PosixPath('/data/study.db')
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() != "sqlite":
        return None
    name = parsed.database or ""
    if unquote(name).startswith("file:"):  # an address of SQLite's own
        name = unquote(urlsplit(unquote(name)).path)
    if not name or name == ":memory:":
        raise InputError(
            f"--storage: must name the file of the studies (got {_shown(url)}); write sqlite:////path/file.db"
        )
    return Path(name)


@contextmanager
def sqlite_reader(path: Path) -> Iterator[Connect]:
    """Opens connections that can only read the SQLite file; nothing is created or changed, beside it either.

    A sweep that was killed while it wrote leaves a journal that must be rolled back first, and a database in
    write-ahead mode has a second file: these are read from a private copy.

    Example:
        with sqlite_reader(Path("runs/quick/study.db")) as connect:
            connect().execute("SELECT count(*) FROM trials")

    Raises OSError if there is no such file, InputError if it is not a regular file or its journal is not its own.
    """
    path = path.resolve()
    _check_regular(path)
    if not _needs_copy(path):
        yield lambda: _connect(path, "ro")
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        for suffix in ("", "-journal", "-wal"):
            source = path.with_name(path.name + suffix)
            with suppress(FileNotFoundError):
                _check_regular(source)
                shutil.copyfile(source, copy.with_name(copy.name + suffix), follow_symlinks=False)
        check_journal(copy)
        yield lambda: _connect(copy, "rw")


def check_journal(path: Path) -> None:
    """Raise InputError if the SQLite file has a journal that names another one.

    SQLite would delete that other file once it has rolled the journal back. No sweep writes such a journal.
    """
    with suppress(FileNotFoundError), path.with_name(f"{path.name}-journal").open("rb") as journal:
        journal.seek(max(0, os.fstat(journal.fileno()).st_size - len(JOURNAL_MAGIC)))
        if journal.read() == JOURNAL_MAGIC:
            raise InputError(f"{path}-journal: must be the journal of one database (got one of several); delete it")


def _check_regular(path: Path) -> None:
    """A FIFO would block for ever, and a device do what it likes."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path}: must be a regular file; restore it from a copy")


def _needs_copy(path: Path) -> bool:
    with path.open("rb") as file:
        if WAL_VERSION in file.read(20)[18:]:
            return True
    try:
        with closing(_connect(path, "ro")) as connection:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.Error as error:
        # Any other error comes again, where the user is told.
        return getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK"
    return False


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)
    # Views of a stranger's database may not call functions that have effects.
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _shown(url: str) -> str:
    return printable(mask_password(str(url)))


def _quoted(url: str) -> str:
    return shlex.quote(_shown(url))
