"""A run's folder that is moved while its sweep runs: the sweep says so and ends, and goes on once it is back."""

import shutil
import time

import pytest
from sweeping import count_rows, curves, resume_command, run, start, sweep_command, wait_until

from lmcore import columns as col


@pytest.mark.ray
def test_a_folder_that_is_moved_ends_its_sweep_and_does_not_come_back(tiny, control, fault):
    moved = fault("run's folder moved during its sweep")
    folder, elsewhere = tiny / "runs" / "quick", tiny / "runs" / "elsewhere"
    process = start(sweep_command("quick"), tiny)
    wait_until(lambda: count_rows(folder) >= 10, 200, "no 10 rows")
    moved.injected()
    began = time.monotonic()
    folder.rename(elsewhere)
    out, error = process.communicate(timeout=100)
    seconds = time.monotonic() - began
    assert process.returncode == 1, out + error
    rule = "runs/quick: the folder of a running sweep must stay where it is, but it is gone"
    assert error.strip() == f"{rule}; move it when the sweep has ended"
    left = [path for path in folder.rglob("*") if path.is_file() and ".tune" not in path.parts]
    assert left == []  # Ray Tune makes its own folder again
    shutil.rmtree(folder, ignore_errors=True)
    elsewhere.rename(folder)
    assert all(row[col.STATUS] != col.FAILED for rows in curves(folder).values() for row in rows)
    run(resume_command("quick"), tiny, check=0)
    assert curves(folder) == control.curves
    moved.survived(seconds=seconds)
