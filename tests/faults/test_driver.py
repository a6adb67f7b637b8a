"""The driver killed again and again, and two drivers at once: nothing is lost, nothing runs twice."""

import random
import socket
import time

import pytest
from sweeping import (
    count_rows,
    curves,
    descendants,
    kill,
    points_of,
    resume_command,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    table_of,
    wait_until,
    windows_of,
)

from lmcore import columns as col


@pytest.mark.ray
@pytest.mark.smoke
def test_a_driver_that_is_killed_and_resumed_ends_with_the_rows_of_one_that_was_not(tiny, control, fault):
    folder = tiny / "runs" / "killed"
    process = start(sweep_command("killed"), tiny)
    wait_until(lambda: count_rows(folder) >= 25, 100, "no 25 rows")
    family = descendants(process.pid)
    driver = fault("driver kill -9")
    driver.injected()
    kill(process)
    wait_until(lambda: not running(family), 10, "processes were left")
    before = curves(folder)
    assert 0 < sum(map(len, before.values())) < 60
    (tiny / "tokens.npy").unlink()  # the run has its own
    resumed = start(resume_command("killed"), tiny)
    began, known = time.monotonic(), count_rows(folder)
    wait_until(lambda: count_rows(folder) > known, 100, "no new row")
    seconds = time.monotonic() - began
    out, error = resumed.communicate(timeout=150)
    assert resumed.returncode == 0, out + error
    assert curves(folder) == control.curves
    assert windows_of(folder) == windows_of(control.folder)
    assert points_of(folder) == points_of(control.folder)
    assert table_of(folder) == control.table
    ended = sum(trial[-1][col.STATUS] != col.RUNNING for trial in before.values())
    assert f"Resumed: {ended} trials have ended, " in out
    driver.survived(seconds=seconds)


KILLS = 8


@pytest.mark.ray
@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("search", "options"),
    [("random", {}), ("optuna", {"search__concurrent": "1", "search__startup_trials": "2", "slots": 1})],
    ids=["random", "TPE, one trial at a time"],
)
def test_a_driver_that_is_killed_at_eight_moments_ends_as_one_that_was_not(search, options, tiny, control, fault):
    whole, folder = tiny / "runs" / "whole", tiny / "runs" / "killed"
    if search != "random":
        run(sweep_command("whole", search=search, **options), tiny, check=0)
    else:
        whole = control.folder
    wanted, windows, table = curves(whole), windows_of(whole), table_of(whole)
    moments = random.Random(8)
    driver = fault(f"driver kill -9 at {KILLS} moments, {search}")
    for number in range(KILLS):
        command = (
            resume_command("killed")
            if (folder / "sweep.yaml").exists()
            else sweep_command("killed", search=search, **options)
        )
        process = start(command, tiny)
        if number in (2, 5):  # while it starts
            time.sleep(moments.uniform(1, 8))
        else:
            goal = min(count_rows(folder) + moments.randint(1, 8), 59)
            wait_until(lambda goal=goal: count_rows(folder) >= goal, 100, f"no {goal} rows")
            time.sleep(moments.uniform(0, 0.2))
        driver.injected()
        kill(process)
        before = rows_of(folder)
        assert all(
            [row[col.STEP] for row in rows] == [row["step"] for row in wanted[trial][: len(rows)]]
            for trial, rows in before.items()
        )  # no row lost, none twice
    began = time.monotonic()
    run(resume_command("killed"), tiny, check=0)
    assert curves(folder) == wanted  # of TPE: the same suggestions led to the same curves
    assert windows_of(folder) == windows
    assert points_of(folder) == points_of(whole)
    assert table_of(folder) == table
    driver.survived(KILLS, time.monotonic() - began)


@pytest.mark.ray
def test_a_second_driver_is_refused_and_the_first_is_unharmed(tiny, control, fault):
    folder = tiny / "runs" / "both"
    first = start(sweep_command("both"), tiny)
    wait_until(lambda: count_rows(folder) >= 5, 100, "no 5 rows")
    second_driver = fault("two drivers on one folder")
    for command in (sweep_command("both"), resume_command("both")):
        second_driver.injected()
        second = run(command, tiny, check=3)
        assert f"process {first.pid} on {socket.gethostname()} is writing" in second.stderr
        assert second.stderr.count("\n") == 1
        second_driver.survived()
    out, error = first.communicate(timeout=150)
    assert first.returncode == 0, out + error
    assert curves(folder) == control.curves
