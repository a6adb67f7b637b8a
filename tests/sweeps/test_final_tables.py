"""The final tables come from a process that is started early, waits, and ends with its sweep."""

import os
import time

import pytest

from sweeps.cli.final_tables import LOWEST, FinalTables
from sweeps.rundir.folder import RunFolder


@pytest.fixture
def tables(tmp_path):
    with FinalTables(RunFolder(tmp_path / "no run"), "lmsweep run", None) as tables:
        yield tables


def test_a_process_that_is_not_needed_is_ended(tables):
    tables.prepare()
    process = tables._process
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == LOWEST
    tables.prepare()
    assert tables._process is process
    tables.__exit__()
    assert process.poll() is not None


def test_it_ends_by_itself_if_the_sweep_dies(tables):
    tables.prepare()
    tables._process.stdin.close()  # as the system does when a process ends
    assert tables._process.wait(30) == 0  # and has printed nothing


def test_it_waits_and_then_says_what_is_wrong(tables, capfd):
    tables.prepare()
    time.sleep(0.2)
    assert tables._process.poll() is None
    assert capfd.readouterr() == ("", "")
    tables.print()
    assert "no run" in capfd.readouterr().err
