"""`--timings` tells when each stage of a command was reached, counted from its start."""

import json
import subprocess
import sys
import time

import pytest

from sweeps.callbacks.last_trials import LastTrials
from sweeps.callbacks.row_times import RowTimes
from sweeps.cli.timings import Timings, process_age_s
from sweeps.provenance.timed import keep_timings
from sweeps.rundir.folder import RunFolder, write_json


def test_stages_are_in_order_of_time_even_if_one_is_learnt_of_later():
    timings = Timings(age_s=10.0)
    timings.mark("trials_ended")
    timings.mark("first_update", time.time() - 4.0)
    assert list(timings.stages) == ["first_update", "trials_ended"]
    assert timings.stages["first_update"] == pytest.approx(6.0, abs=0.2)
    assert timings.stages["trials_ended"] == pytest.approx(10.0, abs=0.2)
    assert timings.table().splitlines()[1] == "    6.0     6.0  first update"
    assert timings.table().splitlines()[2] == "   10.0     4.0  trials ended"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process was started")
def test_the_seconds_before_the_first_line_of_python_count():
    code = "import time; time.sleep(0.5); from sweeps.cli.timings import process_age_s; print(process_age_s())"
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.5 <= age <= time.monotonic() - began + 0.02
    assert process_age_s() > 0


def test_a_program_that_calls_the_command_is_not_counted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    timings = Timings.of_command()
    timings.mark("config_read")
    assert timings.stages["config_read"] < 0.1


def test_the_manifest_keeps_the_stages_of_the_last_command_beside_what_it_had(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"name": "x", "timings": {"config_read": 1.0, "Ray_up": 2.0}})
    keep_timings(folder, {"config_read": 0.5})
    assert json.loads(folder.manifest.read_text()) == {"name": "x", "timings": {"config_read": 0.5}}


def test_timings_that_cannot_be_kept_spoil_nothing(tmp_path):
    folder = RunFolder(tmp_path / "gone")
    keep_timings(folder, {"config_read": 0.5})
    assert not folder.path.exists()


def test_the_first_update_and_the_last_report_are_those_of_any_trial():
    times = RowTimes()
    assert times.stages == {}
    for began_at, reported_at in ((5.0, 9.0), (3.0, 10.0), (9.0, 9.5)):
        times.on_report(None, {"began_at": began_at, "reported_at": reported_at})
    assert times.stages == {"first_update": 3.0, "first_report": 9.0, "last_report": 10.0}


def test_the_end_is_told_of_once():
    told = []
    last = LastTrials(lambda: told.append(1))
    for _ in range(3):
        last.on_idle()
    assert told == [1]
