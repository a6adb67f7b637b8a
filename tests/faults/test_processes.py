"""Engines and stand-ins of trials, killed or frozen while they work."""

import os
import re
import signal
import time

import pytest
from sweeping import count_rows, curves, descendants, rows_of, start, sweep_command, table_of, titled, wait_until

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.checkpoint_files import checkpoint_files

EVERY = 20


def victims(process, title):
    return titled(descendants(process.pid), title)


def steps_to_redo(folder):
    """Steps between each running trial's last row and its newest checkpoint."""
    return {
        trial: rows[-1][col.STEP] - max([0, *(read_checkpoint(file)[1]["step"] for file in checkpoints(folder, trial))])
        for trial, rows in rows_of(folder).items()
        if rows[-1][col.STATUS] == col.RUNNING
    }


def checkpoints(folder, trial):
    return checkpoint_files(folder / "trials" / trial)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("what", "title", "number", "settings"),
    [
        ("engine kill -9", "ray::engine 0:", signal.SIGKILL, {}),
        ("trial worker kill -9", "ray::TrialTrainable", signal.SIGKILL, {}),
        ("engine that hangs (SIGSTOP)", "ray::engine 1:", signal.SIGSTOP, {"search__hung_after_s": "6"}),
    ],
)
def test_what_is_killed_or_hangs_costs_an_interval_at_most(what, title, number, settings, tiny, control, fault):
    folder = tiny / "runs" / "hurt"
    process = start(sweep_command("hurt", **settings), tiny)
    wait_until(lambda: count_rows(folder) >= 15, 100, "no 15 rows")
    hurt = fault(what)
    hurt.injected()
    wait_until(lambda: victims(process, title), 10, f"no {title}")  # Ray changes titles for moments
    victim = min(victims(process, title))
    os.kill(victim, number)
    began, struck = time.monotonic(), time.time()
    redo = steps_to_redo(folder)
    wait_until(
        lambda: any(
            row[col.RETRIES] or (title == "ray::TrialTrainable" and row[col.DECIDED_AT] > struck)
            for rows in rows_of(folder).values()
            for row in rows
        ),
        60,
        "no row of a trial that was begun anew",
    )
    seconds = time.monotonic() - began
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    assert max(redo.values(), default=0) <= EVERY
    if number == signal.SIGSTOP:
        assert re.search(r"engine 1 was busy for [67] s: started again", out)
    hurt.survived(seconds=seconds)
