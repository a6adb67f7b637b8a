"""The driver killed: nothing is lost, nothing runs twice."""

import pytest
from sweeping import count_rows, curves, kill, resume_command, run, start, sweep_command, table_of, wait_until

from lmcore import columns as col


@pytest.mark.ray
@pytest.mark.smoke
def test_a_driver_that_is_killed_and_resumed_ends_with_the_rows_of_one_that_was_not(tiny, fault, stopwatch):
    whole, killed = tiny / "runs" / "whole", tiny / "runs" / "killed"
    run(sweep_command("whole"), tiny, check=0)
    process = start(sweep_command("killed"), tiny)
    wait_until(lambda: count_rows(killed) >= 25, 100, "no 25 rows")
    driver = fault("driver kill -9, resumed")
    driver.injected()
    kill(process)
    before = curves(killed)
    assert 0 < sum(map(len, before.values())) < 60
    (tiny / "tokens.npy").unlink()  # the run has its own
    stopwatch()
    done = run(resume_command("killed"), tiny, check=0)
    seconds = stopwatch()
    assert curves(killed) == curves(whole)
    assert table_of(killed) == table_of(whole)
    ended = sum(trial[-1][col.STATUS] != col.RUNNING for trial in before.values())
    assert f"Resumed: {ended} trials have ended, " in done.stdout
    driver.survived(seconds=seconds)
