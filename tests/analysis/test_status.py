"""`lmsweep status`: how far a sweep is, as tables and as JSON, read while it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from analysis.status import main, sweep_status

ROOT = Path(__file__).resolve().parents[2]


def snapshot(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


def test_trials_are_counted_by_size_and_status_with_the_best_and_the_running_ones(folder):
    status = sweep_status(folder.path)
    xs, s = status.studies
    assert (xs.study, s.study) == ("xs", "s")
    assert xs.trials == {"complete": 3, "pruned": 1, "running": 0, "diverged": 1, "failed": 1}
    assert s.trials == {"complete": 2, "pruned": 1, "running": 1, "diverged": 0, "failed": 0}
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


@pytest.mark.parametrize("prog", ["python analysis/status.py", "lmsweep status"])
def test_the_tables_fit_80_columns(folder, capsys, monkeypatch, prog):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([str(folder.path)], prog) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "9 of 4 trials have ended" in text
    assert "no process runs the sweep" in text
    assert "unfinished trial step loss" in text
    assert any(line.split()[:6] == ["xs", "3", "1", "0", "1", "1"] for line in lines)


def test_a_stopped_sweep_names_the_command_that_resumes_it(make_run, capsys):
    run = make_run()
    run.add("xs", "complete", 4.0)
    for prog, command in {"lmsweep status": "lmsweep run", "python analysis/status.py": "python sweeps/run.py"}.items():
        assert main([str(run.path)], prog) == 0
        text = "".join(capsys.readouterr().out.split())
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
    [(["nowhere"], "nowhere is not a folder"), (["."], "manifest.json"), ([], "RUN"), (["--jsno", "x"], "--jsno")],
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
