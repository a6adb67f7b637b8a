"""The clock set back by an hour between a stop and the resume: steps order everything, and no duration is negative."""

import os
import sqlite3
import time
from contextlib import closing
from itertools import pairwise

import pytest
from sweeping import count_rows, curves, kill, resume_command, rows_of, run, start, sweep_command, table_of, wait_until

import analysis
from lmcore import columns as col
from sweeps.callbacks.utilization import Utilization

HOUR = 3600
SET_BACK = f"""
import time
real = time.time
time.time = lambda: real() - {HOUR}
"""


def move_stamps(folder):
    """What the clock had noted before it was set back lies an hour ahead of it: the study's times and the files'."""
    with closing(sqlite3.connect(folder / "study.db")) as database:
        for stamp in ("datetime_start", "datetime_complete"):
            database.execute(f"UPDATE trials SET {stamp} = datetime({stamp}, '+1 hour') WHERE {stamp} IS NOT NULL")
        database.commit()
    for path in folder.rglob("*"):
        stat = path.stat()
        os.utime(path, (stat.st_atime + HOUR, stat.st_mtime + HOUR))


@pytest.mark.ray
def test_a_clock_that_is_set_back_between_stop_and_resume_changes_no_number_and_no_order(tiny, control, fault):
    folder = tiny / "runs" / "back"
    process = start(sweep_command("back"), tiny)
    wait_until(lambda: count_rows(folder) >= 25, 100, "no 25 rows")
    kill(process)
    before = rows_of(folder)
    clock = fault("clock set back an hour between stop and resume")
    clock.injected()
    move_stamps(folder)
    (tiny / "clock").mkdir()
    (tiny / "clock" / "sitecustomize.py").write_text(SET_BACK)
    began = time.time()
    out = run(resume_command("back"), tiny, check=0, PYTHONPATH=str(tiny / "clock")).stdout
    rows = rows_of(folder)
    continued = [trial for trial, own in before.items() if own[-1][col.STATUS] == col.RUNNING]
    assert continued
    for trial in continued:
        later = rows[trial][len(before[trial]) :]
        assert all(row[col.DECIDED_AT] < began - HOUR / 2 for row in later)  # the clock was set back indeed
    for own in rows.values():
        assert all(row[col.STEP] < after[col.STEP] for row, after in pairwise(own))
        assert all(row[col.ELAPSED_S] < after[col.ELAPSED_S] for row, after in pairwise(own))
        assert all(row[col.BEGAN_AT] <= row[col.REPORTED_AT] for row in own)
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    loaded = analysis.load(folder)
    assert loaded.trials["status"].tolist() == [col.COMPLETE] * 6
    assert (loaded.rows.groupby("trial")["step"].diff().dropna() > 0).all()
    assert "-" not in next((line for line in out.splitlines() if "engines trained" in line), "")
    clock.survived()


@pytest.mark.smoke
def test_an_engines_use_is_never_negative_though_the_clock_is_set_back_while_it_trains():
    def row(trial, began_at, reported_at):
        return {
            col.TRIAL: trial,
            col.ENGINE: 0,
            col.WIDTH: 1,
            col.BEGAN_AT: began_at,
            col.REPORTED_AT: reported_at,
        }

    rows = [row("a", HOUR, HOUR + 5), row("a", HOUR + 5, 10), row("b", 10, 15), row("c", 15, 20)]
    utilization = Utilization(engines=1)
    for each in rows:
        utilization.on_report(None, each)
    assert 0 <= utilization.share <= 1
