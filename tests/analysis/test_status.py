"""`lmsweep status`: how far a sweep is, as tables and as JSON, read while it runs."""

import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from rich.console import Console

from analysis.document.status_text import status_text
from analysis.status import main, sweep_status
from lmcore.terminal.console import as_text
from tests.analysis.conftest import armed

ROOT = Path(__file__).resolve().parents[2]


def snapshot(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


def test_trials_are_counted_by_size_and_status_with_the_best_and_the_running_ones(folder):
    status = sweep_status(folder.path)
    xs, s = status.studies
    assert (xs.study, s.study) == ("xs", "s")
    assert xs.trials == {"complete": 3, "pruned": 1, "running": 0, "paused": 0, "diverged": 1, "failed": 1}
    assert s.trials == {"complete": 2, "pruned": 1, "running": 1, "paused": 0, "diverged": 0, "failed": 0}
    assert (status.ended, status.planned) == (9, 4)
    losses = {"xs": {}, "s": {}}
    import analysis

    for _, trial in analysis.load(folder.path).trials.query("status == 'complete'").iterrows():
        losses[trial["size"]][trial["trial"]] = trial["val_loss"]
    for study in status.studies:
        assert study.best.trial == min(losses[study.study], key=losses[study.study].get)
        assert study.best.loss == min(losses[study.study].values())
        assert study.best.steps == 100
    assert [trial.trial for trial in s.running] == ["s-0003"]


def test_a_paused_trial_has_not_ended_and_does_not_run(make_run, capsys):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", None, None, paused_at=25)
    run.add("xs", None, None, paused_at=None)  # it was promoted
    status = sweep_status(run.path)
    assert status.studies[0].trials["paused"] == status.studies[0].trials["running"] == 1
    assert status.ended == 1
    assert [trial.trial for trial in status.studies[0].running] == ["xs-0002"]
    main([str(run.path)])
    assert "paused" in capsys.readouterr().out


def test_a_size_without_a_complete_trial_has_no_best(make_run):
    run = make_run()
    run.add("xs", "diverged", float("inf"))
    run.add("xs", None, None)
    status = sweep_status(run.path)
    assert status.studies[0].best is None
    assert (status.studies[0].running[0].step, status.studies[0].running[0].loss) == (None, None)
    assert set(status.studies[1].trials.values()) == {0}


def test_a_sweep_that_makes_as_many_trials_as_fit_has_no_planned_number(make_run, capsys):
    run = make_run(search={"method": "random", "trials": None})
    run.add("xs", "complete", 4.0)
    assert sweep_status(run.path).planned is None
    assert main([str(run.path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 trials have ended" in text
    assert "resume it with" in text


def test_the_runs_that_confirmed_an_excluded_trial_stay_planned_because_another_setting_gets_them(make_run):
    run = make_run(**armed(sizes=("xs",)), search={"method": "random", "trials": 2, "most_trials": 4})
    best, _ = run.add("xs", "complete", 4.0), run.add("xs", "complete", 4.1, optim__lr=1e-3)
    run.confirm(best, {1: 4.1, 2: 4.2})
    assert (sweep_status(run.path).planned, sweep_status(run.path).over) == (4, True)
    for study in ("xs", "xs-confirm"):
        run.study(study).set_user_attr("excluded", {best: "a bad node"})
    status = sweep_status(run.path)
    assert (status.ended, status.planned, status.over) == (1, 3, False)


def test_the_driver_is_the_process_that_holds_the_lock_and_the_folder_is_only_read(folder):
    assert not sweep_status(folder.path).driver  # no lock file: no sweep was started by this version
    (folder.path / ".lock-holder").write_text("4711\n")
    with filelock.FileLock(folder.path / ".lock"):
        before = snapshot(folder.path)
        status = sweep_status(folder.path)
        assert (status.driver, status.pid) == (True, 4711)
        assert snapshot(folder.path) == before
    (folder.path / ".lock").touch()
    before = snapshot(folder.path)
    status = sweep_status(folder.path)
    assert (status.driver, status.pid) == (False, None)
    assert snapshot(folder.path) == before
    with filelock.FileLock(folder.path / ".lock", timeout=0):
        pass  # a sweep can start


def hold(folder, host, seconds_ago):
    """Write .lock-holder as a driver on `host` that was last alive so long ago."""
    file = folder.path / ".lock-holder"
    file.write_text(json.dumps({"host": host, "pid": 4711, "started": time.time() - 3600}))
    os.utime(file, (time.time() - seconds_ago,) * 2)


def test_a_driver_on_another_machine_lives_as_long_as_it_is_seen(make_run, capsys):
    folder = make_run()
    folder.add("xs", "complete", 4.0)
    hold(folder, "node7", 12)
    status = sweep_status(folder.path)
    assert (status.driver, status.pid, status.host) == (True, 4711, "node7")
    assert status.seen_s == pytest.approx(12, abs=5)
    assert main([str(folder.path)]) == 0
    assert "the sweep is running on node7 (process 4711)" in " ".join(capsys.readouterr().out.split())

    hold(folder, "node7", 3600)
    status = sweep_status(folder.path)
    assert (status.driver, status.slots_in_use, status.seconds_left) == (False, 0, None)
    assert main([str(folder.path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the one on node7 (process 4711) was killed, last seen 1 h 0 min ago" in text


def test_on_the_drivers_own_machine_its_lock_tells_at_once_that_it_was_killed(folder):
    hold(folder, socket.gethostname(), 1)
    (folder.path / ".lock").touch()
    assert not sweep_status(folder.path).driver
    with filelock.FileLock(folder.path / ".lock"):
        assert sweep_status(folder.path).driver


def test_what_a_sweep_wrote_about_its_driver_is_what_is_read(tmp_path):
    """One file, two packages: `sweeps` writes it, `analysis` may not import `sweeps`."""
    from analysis.runs.driver import ALIVE_WITHIN_S, driver_of
    from sweeps.rundir.folder import RunFolder
    from sweeps.rundir.lock_holder import BEAT_S

    began = time.time()
    with RunFolder(tmp_path / "quick").claimed():
        driver = driver_of(tmp_path / "quick")
    assert (driver.alive, driver.host, driver.pid) == (True, socket.gethostname(), os.getpid())
    assert began <= driver.started <= time.time()
    assert not driver_of(tmp_path / "quick").alive
    assert driver_of(tmp_path / "quick").host is None
    assert ALIVE_WITHIN_S > 3 * BEAT_S


@pytest.fixture
def timed(make_run):
    """A sweep of 4 trials, one engine with 2 slots: two have ended after 100 s, a third is half done after 200 s."""
    hardware = {"engines": 1, "peak_flops_per_s": [25_600 * 7000 / 50]}
    run = make_run(hardware=hardware, slots={"xs": {"per_engine": 2, "measured": []}})
    for trial in (run.add("xs", "complete", 4.2), run.add("xs", "complete", 4.1)):
        run.row(trial, 100, 4.2, began_at=1000.0, reported_at=1100.0, decided_at=1100.0, width=2)
    running = run.add("xs", None)
    run.row(running, 50, 4.3, began_at=1100.0, reported_at=1200.0, decided_at=time.time() - 30, width=1)
    return run


def test_time_left_cost_slots_and_the_last_report_follow_from_the_rows(timed):
    hold(timed, "node7", 1)
    status = sweep_status(timed.path)
    # 2.5 trials in 200 s, 1.5 are left.
    assert status.seconds_left == pytest.approx(1.5 * 200 / 2.5)
    assert status.report_s == pytest.approx(30, abs=5)
    assert (status.slots, status.slots_in_use, status.queued) == (2, 1, 0)
    # The program of width 2 costs each trial half of its 100 s.
    assert status.cost.device_hours == pytest.approx(200 / 3600)
    assert status.cost.flops == pytest.approx(2.5 * 25_600 * 7000)
    assert status.cost.peak_share == pytest.approx((2.5 / 200) / (1 / 50))


def test_more_running_trials_than_slots_are_queued_and_the_deadline_limits_the_time_left(timed):
    hold(timed, "node7", 1)
    timed.add("xs", None)
    timed.add("xs", None)
    (timed.path / "sweep.yaml").write_text("search: {time: 3660.0, concurrent: null}\n")
    status = sweep_status(timed.path)
    assert (status.slots_in_use, status.queued) == (2, 1)
    assert status.seconds_left == pytest.approx(60, abs=5)


def test_a_confirmed_study_shows_the_mean_over_seeds_with_its_interval(make_run, capsys):
    run = make_run(**armed("tied", sizes=("xs",)))
    best = run.add("xs-tied", "complete", 4.0)
    run.confirm(best, {1: 4.1, 2: 4.2, 3: 4.3})
    search, confirmed = sweep_status(run.path).studies
    assert (search.leader.setting, search.leader.loss, search.leader.half) == (best, 4.0, None)
    assert (confirmed.leader.setting, confirmed.leader.seeds) == (best, 3)
    assert confirmed.leader.loss == pytest.approx(4.2)
    assert confirmed.leader.half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert main([str(run.path)]) == 0
    assert "confirmed 3 0 0 xs-tied-0000 4.200 +- 0.248" in " ".join(capsys.readouterr().out.split())


def test_a_list_of_running_trials_that_is_longer_than_the_screen_is_cut(make_run):
    run = make_run()
    for _ in range(40):
        run.add("xs", None)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(status_text(sweep_status(run.path), "resume", lines=24))
    text = console.export_text()
    assert len(text.splitlines()) <= 24
    assert "more" in text


def watching(folder, *options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "analysis" / "status.py"), str(folder.path), "--watch", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_watching_ends_when_the_sweep_does(folder):
    with filelock.FileLock(folder.path / ".lock"):
        process = watching(folder, "--interval", "0.1")
        lines = process.stdout.readline() + process.stdout.readline()  # a long path breaks the line anywhere
        assert "9 of 4" in " ".join(lines.split())
        assert process.poll() is None
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert out.rstrip().count("no process runs the sweep") == 1


def test_ctrl_c_leaves_quietly(folder):
    with filelock.FileLock(folder.path / ".lock"):
        process = watching(folder)
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


def test_a_sweep_that_has_not_begun_its_first_trial_is_waited_for(tmp_path):
    folder = SimpleNamespace(path=tmp_path)
    with filelock.FileLock(tmp_path / ".lock"):
        process = watching(folder, "--interval", "0.1")
        assert "waiting for the first trial" in process.stdout.readline()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.count("\n") == 1


@pytest.mark.parametrize("prog", ["python analysis/status.py", "lmsweep status"])
def test_the_tables_fit_80_columns(folder, capsys, monkeypatch, prog):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([str(folder.path)], prog) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "9 of 4 trials have ended" in text
    assert "no process runs the sweep" in text
    assert "unfinished trial step loss" in text
    assert any(line.split()[:6] == ["xs", "3", "1", "0", "1", "1"] for line in lines)
    assert "1 diverged: loss is nan at step 3 (xs-0004)" in text
    assert "1 failed: MemoryError: 3 GB | 2 GB (xs-0005)" in text


def test_a_stopped_sweep_names_the_command_that_resumes_it(make_run, capsys):
    run = make_run()
    run.add("xs", "complete", 4.0)
    for prog, command in {"lmsweep status": "lmsweep run", "python analysis/status.py": "python sweeps/run.py"}.items():
        assert main([str(run.path)], prog) == 0
        text = "".join(capsys.readouterr().out.replace("\\\n", "").split())  # a long command is continued
        assert "1of4trialshaveended" in text
        assert f"resumeitwith {command} --resume {run.path}".replace(" ", "") in text


def test_json_says_the_same(folder, capsys):
    assert main([str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(folder.path)
    assert found["studies"][0]["trials"]["complete"] == 3
    assert found["studies"][1]["running"][0]["trial"] == "s-0003"
    assert found["studies"][1]["running"][0]["loss"] == 4.0
    assert (found["driver"], found["pid"]) == (False, None)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["nowhere", "--watch"], "nowhere is not a folder"),
        (["."], "manifest.json"),
        ([], "RUN"),
        (["--jsno", "x"], "--jsno"),
        (["x", "--json", "--watch"], "--watch"),
        (["x", "--interval", "2"], "--interval is for --watch"),
        (["x", "--watch", "--interval", "0"], "above 0"),
        (["x", "--watch", "--interval", "soon"], "--interval"),
    ],
)
def test_a_wrong_folder_or_option_is_one_line_and_exit_code_2(arguments, fragment, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "analysis" / "status.py"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert fragment in done.stderr


def test_the_imports_of_the_first_reading_do_not_delay_the_second(folder):
    with filelock.FileLock(folder.path / ".lock"):
        process = watching(folder)
        shown = next(line for line in process.stdout if "again in" in line)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert shown.rstrip().endswith("again in 5 s")


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (60, "4 columns are left out: pruned, paused, diverged, failed; a wider terminal or --json has them"),
        (80, "2 columns are left out: pruned, paused; a wider terminal or --json has them"),
        (140, ""),
    ],
)
def test_at_any_width_lines_fit_and_the_command_that_resumes_can_be_copied(make_run, width, left_out):
    run = make_run(**armed("untied", "tied", sizes=("medium",)))
    for status in ("complete", "pruned", "diverged", "failed"):
        run.add("medium-untied", status, 4.0, message="a reason of several words that does not fit into one line of 60")
    run.add("medium-untied", None, None, paused_at=25)
    status = sweep_status(run.path)
    status = dataclasses.replace(status, run="runs/quick", planned=9)
    text = as_text(status_text(status, "lmsweep run --resume", width=width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\n  lmsweep run --resume runs/quick\n" in text
    assert "medium-untied-0000  4.0000" in text
    flat = " ".join(text.split())
    assert ("left out" in flat) == bool(left_out)
    assert left_out in flat


@pytest.mark.parametrize("height", [8, 12, 20, 40])
@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_long_status_is_cut_to_the_height_and_counts_what_is_cut(make_run, width, height):
    run = make_run(**armed("untied", "tied", sizes=tuple(f"size{n}" for n in range(6))))
    for n in range(6):
        run.add(f"size{n}-tied", "failed", None, message=f"reason {n}")
        for _ in range(4):
            run.add(f"size{n}-untied", None)
    status = dataclasses.replace(sweep_status(run.path), run="runs/quick", driver=True)
    lines = as_text(status_text(status, "resume", height, width), width).splitlines()
    least = 11  # the head, a study, and how many more studies, running trials and failures there are
    assert len(lines) <= max(height, least)
    rows = sum("0 of ?" in line or "of 100" in line for line in lines)
    assert rows or "24 running trials" in lines
    if height == 8:
        assert "and 23 more" in lines  # of 12 studies and their confirmations
        assert "6 trials did not finish" in lines
