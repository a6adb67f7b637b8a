"""A database that cannot be used ends the sweep in one line, or is waited for."""

import errno
import sqlite3
import threading
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable
from sweeps.rundir.folder import RunFolder
from sweeps.study.storage import open_storage


def test_a_reader_that_holds_the_lock_for_long_is_waited_for(tmp_path):
    study = optuna.create_study(storage=open_storage(None, RunFolder(tmp_path)))
    reader = sqlite3.connect(tmp_path / "study.db", check_same_thread=False, isolation_level=None)
    reader.execute("BEGIN EXCLUSIVE")
    threading.Timer(6.0, reader.rollback).start()  # SQLite's driver gives up after five seconds
    began = time.monotonic()
    study.tell(study.ask(), 1.0)
    assert time.monotonic() - began > 5
    assert study.best_value == 1.0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked")), "(database is locked)"),
        (optuna.exceptions.StorageInternalError("server closed\n the connection"), "(server closed)"),
        (OSError(errno.EIO, "Input/output error"), "([Errno 5] Input/output error)"),
        (OSError(), "(OSError)"),
    ],
)
def test_what_a_database_or_disk_refuses_is_no_trials_fault_and_one_line(error, line):
    @end_sweep_if_unwritable()
    def write():
        raise error

    with pytest.raises(UnwritableError) as stop:
        write()
    assert not isinstance(stop.value, Exception)  # Tune catches those
    assert stop.value.line(Path()) == f"the sweep's results cannot be written {line}"


def test_where_more_is_done_than_writing_only_a_full_disk_is_taken_for_one():
    with pytest.raises(ConnectionError), end_sweep_if_unwritable(full_disks_only=True):
        raise ConnectionError("Ray is not there")
    with pytest.raises(UnwritableError), end_sweep_if_unwritable(full_disks_only=True):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_of_our_own_stays_what_it_is():
    with pytest.raises(KeyError), end_sweep_if_unwritable():
        raise KeyError("xs-0000")
