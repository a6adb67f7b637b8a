"""Reading studies follows no address that the user has not given, and neither creates nor changes a file."""

import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from lmcore.errors import InputError
from lmcore.printable import printable, printable_values
from lmcore.study_database import JOURNAL_MAGIC, check_journal, confirmed_storage, sqlite_file, sqlite_reader

KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that changed pages reach the file before the end
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE trials SET value = 'half-done' || value")
os._exit(9)
"""


@pytest.fixture
def database(tmp_path):
    """A SQLite file with 2000 rows, on many pages."""
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE trials (value TEXT)")
        connection.executemany("INSERT INTO trials VALUES (?)", [(f"{n:0200d}",) for n in range(2000)])
    return path


@pytest.fixture
def killed(database):
    """The same, left by a process that was killed while it wrote: its journal must be rolled back."""
    subprocess.run([sys.executable, "-c", KILLED, str(database)], check=False)
    assert Path(f"{database}-journal").stat().st_size > 0
    assert b"half-done" in database.read_bytes()
    return database


def read(path):
    with sqlite_reader(path) as connect, closing(connect()) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM trials ORDER BY rowid")]


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_database_is_read_without_a_change_beside_it_either(database, tmp_path):
    before = contents(tmp_path)
    assert read(database) == [f"{n:0200d}" for n in range(2000)]
    assert contents(tmp_path) == before


def test_a_reader_cannot_write(database):
    with sqlite_reader(database) as connect, closing(connect()) as connection:
        connection.execute("CREATE TEMPORARY TABLE own AS SELECT * FROM trials")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM trials")


def test_a_transaction_that_a_killed_sweep_left_is_undone_in_a_private_copy_alone(killed, tmp_path, monkeypatch):
    temporary = tmp_path.with_name(f"{tmp_path.name}-temporary")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = contents(tmp_path)
    assert read(killed) == [f"{n:0200d}" for n in range(2000)]
    assert contents(tmp_path) == before
    assert list(temporary.iterdir()) == []


def test_write_ahead_mode_is_read_without_creating_its_files(database, tmp_path):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = contents(tmp_path)
    assert list(before) == ["study.db"]
    assert len(read(database)) == 2000
    assert contents(tmp_path) == before


def test_a_journal_that_would_make_sqlite_delete_another_file_is_refused(killed, tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("ten years of work")
    journal, name = Path(f"{killed}-journal"), os.fsencode(precious)
    sector = journal.read_bytes()
    size = -len(sector) % 512  # SQLite expects the name at the end, after whole sectors
    lock_page = struct.pack(">I", 0x40000000 // 4096 + 1)
    lengths = struct.pack(">II", len(name), sum(name))
    planted = sector + bytes(size) + lock_page + name + lengths + JOURNAL_MAGIC
    journal.write_bytes(planted)
    with pytest.raises(InputError, match="must be the journal of one database"):
        read(killed)
    with pytest.raises(InputError, match="must be the journal of one database"):
        check_journal(killed)
    assert precious.exists()
    # Without the check it is deleted.
    with closing(sqlite3.connect(killed)) as connection:
        connection.execute("SELECT count(*) FROM trials").fetchone()
    assert not precious.exists()


def test_a_missing_file_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError), sqlite_reader(tmp_path / "study.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_refused_and_blocks_nobody(tmp_path):
    os.mkfifo(tmp_path / "study.db")
    with pytest.raises(InputError, match="must be a regular file"), sqlite_reader(tmp_path / "study.db"):
        pass


def test_a_link_to_a_file_is_followed_and_only_read(database, tmp_path):
    (tmp_path / "link.db").symlink_to(database)
    before = contents(tmp_path)
    assert len(read(tmp_path / "link.db")) == 2000
    assert contents(tmp_path) == before


def test_an_address_in_a_folder_is_followed_only_if_the_user_repeats_one(monkeypatch):
    monkeypatch.delenv("LMSWEEP_STORAGE", raising=False)
    evil = "postgresql://db.evil/$(id)\x1b[2J"
    with pytest.raises(InputError) as refused:
        confirmed_storage(evil, None, "runs/x/manifest.json")
    assert str(refused.value) == (
        "--storage: runs/x/manifest.json names a database, which is opened only if you confirm its address (got "
        r"postgresql://db.evil/$(id)\x1b[2J); add --storage 'postgresql://db.evil/$(id)\x1b[2J'"
    )
    with pytest.raises(
        InputError, match=r"add --storage 'postgresql://me:\*\*\*@h/d', with the password in place of \*\*\*$"
    ):
        confirmed_storage("postgresql://me:s3cret@h/d", None, "")
    assert confirmed_storage(evil, "postgresql://me@h/d", "") == "postgresql://me@h/d"
    monkeypatch.setenv("LMSWEEP_STORAGE", "postgresql://sweep@h/d")
    assert confirmed_storage(evil, None, "") == "postgresql://sweep@h/d"
    assert confirmed_storage(evil, "postgresql://me@h/d", "") == "postgresql://me@h/d"
    assert confirmed_storage(None, None, "") is None
    with pytest.raises(InputError, match="--storage: must be left out for a run"):
        confirmed_storage(None, "postgresql://me@h/d", "")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////data/study.db", "/data/study.db"),
        ("sqlite+pysqlite:///study.db?timeout=9", "study.db"),
        ("sqlite:///file:/data/study.db?mode=rwc&uri=true", "/data/study.db"),
        ("sqlite:///file%3A/data/study.db?uri=true", "/data/study.db"),
        ("postgresql://me@h/d", None),
        ("nonsense", None),
    ],
)
def test_the_file_of_a_sqlite_address(url, path):
    assert sqlite_file(url) == (path and Path(path))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_an_address_without_a_file_is_refused(url):
    with pytest.raises(InputError, match="must name the file of the studies"):
        sqlite_file(url)


def test_text_from_a_folder_cannot_steer_a_terminal():
    for text in ("plain", "naïve 漢字 🙂", "two\nlines\tand a tab", "1.5 µs"):
        assert printable(text) == text
    hostile = "\x1b[2J\r\x9b31m\x00\u202egnp.exe\u2028\ud800"
    assert printable(hostile) == r"\x1b[2J\r\x9b31m\x00\u202egnp.exe\u2028\ud800"
    assert printable_values({"\x07": [hostile, 1, None, {"a": True}]}) == {
        r"\x07": [printable(hostile), 1, None, {"a": True}]
    }
