"""What a start that was killed has left in its folder, before anything was computed.

A batch system gives `--resume auto` again after it has killed the first start, at any moment: the folder may hold a
lock, half of a file, an empty database. Nothing of that is worth to be resumed, and some of it cannot be. Such a folder
is emptied, and the sweep starts anew in it. A folder with a trial or a row in it is left as it is.
"""

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from lmcore.errors import InputError
from lmcore.runfile.yaml_file import read_yaml
from sweeps.rundir.folder import RunFolder

STARTED = ("sweep.yaml", "manifest.json", "study.db", "study.db-journal", "study.db-wal", "study.db-shm")
OPTUNA_TABLES = {
    "studies",
    "version_info",
    "alembic_version",
    *(f"study_{name}" for name in ("directions", "user_attributes", "system_attributes")),
    *(f"trial_{name}" for name in ("params", "values", "intermediate_values", "heartbeats")),
    *(f"trial_{name}" for name in ("user_attributes", "system_attributes")),
}
RESULTS = ("trials", "best", "report")
"""Folders that only a sweep with trials has."""


def holds_nothing(folder: RunFolder) -> bool:
    """Whether nothing in the folder has been computed by a sweep, so that one may start anew in it.

    Of studies in a database nothing is known here: if sweep.yaml names one, the folder is taken to hold its trials.

    Example:
        if holds_nothing(folder):
            clear_leftovers(folder)
    """
    if any(_has_bytes(file) for file in _written(folder)):
        return False
    if any(_has_files(folder.path / name) for name in RESULTS):
        return False
    return not _may_have_trials(folder.study_db) and not _names_database(folder.sweep_yaml)


def clear_leftovers(folder: RunFolder) -> None:
    """Delete what the start of a sweep writes, in a folder that this process has locked and that `holds_nothing`.

    The folder's id stays, because empty studies in a database may be claimed for it.
    """
    # sweep.yaml is the first to go and the last to be written by a start: with it, the rest is resumed.
    for file in (*(folder.path / name for name in STARTED), *_written(folder)):
        file.unlink(missing_ok=True)
    for unfinished in folder.path.glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)
    for data in (folder.tokens, *folder.path.glob(".tokens.*")):
        if data.is_symlink():
            data.unlink()
        elif data.is_dir():
            shutil.rmtree(data)


def is_whole(sweep_yaml: Path) -> bool:
    """Whether the file can be read to its end, which is its tracking section; False if there is none."""
    try:
        return "tracking" in read_yaml(sweep_yaml).values
    except (InputError, OSError):
        return False


def _written(folder: RunFolder) -> tuple[Path, ...]:
    """The files that trials are written to, which are empty before the first report."""
    return folder.metrics, folder.curves, folder.window_losses


def _has_bytes(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_size > 0
    return False


def _has_files(folder: Path) -> bool:
    return any(path.is_file() and not path.name.endswith(".tmp") for path in folder.rglob("*"))


def _may_have_trials(database: Path) -> bool:
    """Whether study.db has a trial that was asked for, beside the listed ones that wait, or cannot be read."""
    if not _has_bytes(database):
        return False
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "trials" not in tables:  # Optuna was creating its tables, or the file is none of Optuna's
                return not tables <= OPTUNA_TABLES
            return connection.execute("SELECT 1 FROM trials WHERE state != 'WAITING' LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True


def _names_database(sweep_yaml: Path) -> bool:
    """Whether a whole sweep.yaml says that the studies are in a database; half a file says nothing."""
    search = read_yaml(sweep_yaml).values.get("search") if is_whole(sweep_yaml) else None
    return isinstance(search, dict) and search.get("storage") is not None
