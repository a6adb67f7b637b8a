"""Whether the studies of a sweep that is resumed are whole, and hold every trial that metrics.jsonl has rows of.

A damaged database is refused by name: Optuna would make an empty one of it, and the sweep would begin anew in silence.
"""

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import optuna

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.errors import InputError
from sweeps.spec.sweep_spec import SweepSpec

RESTORE = "restore it from a copy"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
JOURNAL_HEADER_BYTES = 28


def check_file(path: Path, rows: Mapping[str, Row], label: str) -> None:
    """Refuse a SQLite file, called `label`, that is not one, is damaged, or is not there though there are rows.

    A transaction that was cut off is rolled back. Where there are no rows, no file is needed: the sweep was stopped
    before it had one.

    Raises:
        InputError: it is refused.
    """
    if not path.exists() or path.stat().st_size == 0:
        if rows:
            state = "empty" if path.exists() else "missing"
            raise InputError(f"{label}: must hold the sweep's {len(rows)} trials and more, but is {state}; {RESTORE}")
        return
    journal = path.with_name(path.name + "-journal")
    if journal.exists() and _is_cut(journal.read_bytes()):
        raise InputError(
            f"{label}-journal: must be whole to undo a transaction that was cut off, but is cut itself; "
            f"restore it and {path.name} from a copy"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found == "ok" and rows:
                database.execute("SELECT trial_id FROM trials LIMIT 1")
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise InputError(f"{label}: must be a whole database of Optuna's, but is not ({found}); {RESTORE}")


def check_trials(storage: optuna.storages.BaseStorage, spec: SweepSpec, rows: Mapping[str, Row], label: str) -> None:
    """Refuse studies that know less than metrics.jsonl (an old copy), or more of trials that have ended than it.

    Args:
        rows: the last row of each trial (`sweeps.callbacks.metrics_file.last_rows`).
        label: what to call the database.

    Raises:
        InputError: they are refused.
    """
    known = {}
    for size in spec.size_names:
        try:
            study = storage.get_study_id_from_name(spec.study_name(size))
        except KeyError:
            continue
        for trial in storage.get_all_trials(study, deepcopy=False):
            name = col.trial_id(size, trial.number)
            known[name] = trial
            if trial.user_attrs.get(col.TRIAL, name) != name:  # it becomes the name of a folder
                raise InputError(f"{label}: trial {trial.number} of {size} must be called {name}; {RESTORE}")
    for name, row in rows.items():
        if name not in known:
            rule = "must hold every trial that metrics.jsonl has rows of"
            raise InputError(f"{label}: {rule}, but lacks {name}; {RESTORE}")
        step = row[col.STEP]
        if math.isfinite(row[col.VAL_LOSS]) and step not in known[name].intermediate_values:
            raise InputError(f"{label}: must know the row of {name} at step {step} in metrics.jsonl; {RESTORE}")
    for name, trial in known.items():
        status = trial.user_attrs.get(col.STATUS, col.RUNNING)
        if status not in (col.RUNNING, col.FAILED) and name not in rows:
            raise InputError(f"metrics.jsonl: must have rows of {name}, which is {status}, but has none; {RESTORE}")


def _is_cut(journal: bytes) -> bool:
    """Whether SQLite's rollback journal is shorter than what it says of itself, which no crash leaves.

    Its header counts the pages that were synced before the database itself was touched: sqlite.org/fileformat.html.
    """
    magic = journal[: len(JOURNAL_MAGIC)]
    if not magic.strip(b"\0"):  # the transaction had not come to its sync, nor touched the database
        return False
    if len(journal) < JOURNAL_HEADER_BYTES:
        return True
    pages, _, _, sector_bytes, page_bytes = (
        int.from_bytes(journal[at : at + 4], "big") for at in range(8, JOURNAL_HEADER_BYTES, 4)
    )
    if magic != JOURNAL_MAGIC or pages == 0xFFFFFFFF:  # SQLite makes nothing of it, or counts itself
        return False
    return len(journal) < sector_bytes + pages * (page_bytes + 8)
