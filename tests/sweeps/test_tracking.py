"""Tracking logs what the rows say, and a wandb that fails, hangs or is missing does not affect the sweep."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from offline_runs import read_offline_run
from pydantic import ValidationError
from tracked_rows import line, new_folder

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.errors import InputError
from lmcore.params import count_parameters
from lmcore.runfile.paths import describe
from sweeps.callbacks import tracking
from sweeps.callbacks.tensorboard_tracker import TensorboardTracker
from sweeps.callbacks.tracked_trial import run_id
from sweeps.callbacks.tracking import EXTRAS, TRACKERS, Tracking, check_installed, follow
from sweeps.callbacks.wandb_tracker import WandbTracker
from sweeps.spec.settings import TrackingConfig
from sweeps.spec.sweep_spec import SweepSpec

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = TrackingConfig(wandb="offline")
WANDB_KEYS = ("WANDB_MODE", "WANDB_API_KEY", "NETRC")
FAKE_THAT_FAILS = """
class Settings:
    def __init__(self, **settings): pass
def init(**settings):
    raise RuntimeError("no such server")
"""
FAKE_THAT_HANGS = """
import os, pathlib, time
class Settings:
    def __init__(self, **settings): pass
def init(**settings):
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def folder(in_tmp):
    """A run's folder with two trials, without rows yet."""
    return new_folder()


@pytest.fixture
def fake_wandb(in_tmp, monkeypatch):
    """`fake_wandb(source)` makes that text the package wandb of the tracking process."""

    def install(source):
        package = in_tmp / "fake" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return install


def offline_runs(folder):
    """Every offline run in the folder, by name."""
    runs = [read_offline_run(path) for path in folder.path.glob("wandb/offline-run-*/run-*.wandb")]
    return {run.name: run for run in runs}


def wait_until(condition, seconds=20):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.05)
    return value


def processes_of(path):
    """Command lines, of processes that have not ended, in which `path` occurs."""
    table = subprocess.run(["ps", "-A", "-ww", "-o", "stat=,args="], capture_output=True, text=True, check=True)
    return [row for row in table.stdout.splitlines() if str(path) in row and not row.startswith("Z")]


@pytest.mark.parametrize(
    ("environment", "netrc", "expected"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "k"}, None, "online"),
        ({"WANDB_API_KEY": ""}, None, "offline"),
        ({}, "machine api.wandb.ai login user password k", "online"),
        ({}, "machine example.com login user password k", "offline"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}, None, "offline"),
        ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": "k"}, None, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, None, "off"),
        ({"WANDB_MODE": "online"}, None, "online"),
    ],
)
def test_auto_is_online_only_with_a_key_and_obeys_wandb_mode(environment, netrc, expected, tmp_path, monkeypatch):
    for key in WANDB_KEYS:
        monkeypatch.delenv(key, raising=False)
    if netrc is not None:
        (tmp_path / "netrc").write_text(netrc)
    for key, value in {"NETRC": str(tmp_path / "netrc"), **environment}.items():
        monkeypatch.setenv(key, value)
    assert WandbTracker.mode(TrackingConfig()) == expected
    for setting in ("off", "offline", "online"):
        assert WandbTracker.mode(TrackingConfig(wandb=setting)) == setting


OFF = {"wandb": "off", "tensorboard": False, "mlflow": "off"}
ON = {"wandb": "offline", "tensorboard": True, "mlflow": "sqlite:///mlflow.db"}


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_is_switched_by_a_setting_of_its_own_name(name):
    assert TRACKERS[name].mode(TrackingConfig.model_validate({name: OFF[name]})) == "off"
    assert TRACKERS[name].mode(TrackingConfig.model_validate({name: ON[name]})) in ("offline", "online")


def test_trackers_of_extras_are_off_unless_asked_for_and_named_if_they_are_not_installed(monkeypatch):
    assert [TRACKERS[name].mode(TrackingConfig()) for name in EXTRAS] == ["off"] * len(EXTRAS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(TrackingConfig())
    for name, package in EXTRAS.items():
        with pytest.raises(InputError, match=rf"^tracking\.{name}: needs the package {package}, .*'lmsweep\[{name}\]'"):
            check_installed(TrackingConfig.model_validate({name: ON[name]}))


@pytest.mark.parametrize(
    "address", ["off", "databricks", "http://host:5000", "https://ann@host/ml", "sqlite:///a.db", "sqlite:////a/b.db"]
)
def test_addresses_of_mlflow(address):
    assert TrackingConfig(mlflow=address).mlflow == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mlruns", r"tracking\.mlflow: must be off, or an address .*\(got 'mlruns'\)"),
        ("", r"tracking\.mlflow: must be off, or an address"),
        ("https://ann:s3cret@host", r"tracking\.mlflow: must not hold a password, .*\(got https://ann:\*\*\*@host\)"),
    ],
)
def test_an_address_of_mlflow_that_is_none_or_holds_a_password_is_refused_without_showing_it(address, message):
    with pytest.raises(ValidationError) as error:
        SweepSpec.model_validate({"name": "a", "search": {"trials": 1}, "tracking": {"mlflow": address}})
    told = str(describe(error.value))
    assert re.match(message, told)
    assert "s3cret" not in told


def test_a_file_of_mlflow_is_found_from_any_working_directory(in_tmp):
    spec = SweepSpec.model_validate({"name": "a", "search": {"trials": 1}, "tracking": {"mlflow": "sqlite:///m.db"}})
    assert spec.absolute().tracking.mlflow == f"sqlite:///{in_tmp}/m.db"


def test_rows_are_followed_in_order_while_they_are_written_and_half_a_last_line_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "POLL_S", 0.005)
    path, ended = tmp_path / "metrics.jsonl", threading.Event()
    with path.open("a") as file:

        def append(text):
            file.write(text)
            file.flush()

        append(line("xs-0000", 10) + line("xs-0000", 20))
        rows = follow(path, ended)
        assert [next(rows)[col.STEP] for _ in range(2)] == [10, 20]

        third = line("xs-0000", 30)
        append(third[:40])
        later = threading.Timer(0.05, append, [third[40:]])
        later.start()
        assert next(rows) == json.loads(third)
        later.join()

        append(line("xs-0000", 40) + line("xs-0000", 50)[:40])
        ended.set()
        assert [row[col.STEP] for row in rows] == [40]


def test_a_trial_that_ended_is_a_finished_run_and_one_without_its_last_row_a_failed_one(folder):
    process = Tracking(folder, TrackingConfig(wandb="offline", project="a-project"))
    folder.metrics.write_text(
        line("xs-0000", 10) + line("xs-0001", 10) + line("xs-0000", 20, col.PRUNED) + line("xs-0001", 20)
    )
    assert process.finish() is None
    ended, unfinished = (offline_runs(folder)[f"name-of-xs-000{n}"] for n in range(2))
    assert (ended.exit_code, unfinished.exit_code) == (0, 1)
    assert ended.summary[col.STATUS] == '"pruned"'
    assert [int(row["_step"]) for row in unfinished.history] == [10, 20]
    assert ["val/final_loss" in row for row in ended.history] == [False, True]
    assert not any("val/final_loss" in row for row in unfinished.history)
    assert (ended.project, ended.group) == ("a-project", "tracked")


def test_a_run_is_grouped_by_sweep_size_and_arm_and_its_config_and_summary_are_complete(folder):
    trial = "xs-tied-confirm-0002"
    run = RunSpec(model={"tie_embeddings": True}, train={"seed": 5, "steps": 20, "eval_every": 10})
    study = {"id": "xs-tied-confirm", "study": "xs-tied/confirm", "size": "xs", "arm": "tied", "phase": "confirm"}
    folder.manifest.write_text(json.dumps({"created": "2026-01-02T03:04:05+00:00", "studies": [study]}))
    folder.trial(trial).mkdir()
    text = yaml.safe_dump({"name": trial, "notes": ["repeats xs-tied-0001"], **run.model_dump()})
    (folder.trial(trial) / "run.yaml").write_text(text)
    process = Tracking(folder, OFFLINE)
    rows = [line(trial, 10, val_loss=3.25, tokens=10_240), line(trial, 20, col.COMPLETE, val_loss=3.5, tokens=20_480)]
    folder.metrics.write_text("".join(rows))
    assert process.finish() is None

    [logged] = offline_runs(folder).values()
    assert (logged.group, logged.job_type, logged.tags) == ("tracked", "xs-tied", ["xs", "tied", "confirm"])
    config = {name: json.loads(value) for name, value in logged.config.items()}
    counts = count_parameters(run.model)
    assert (config["params_exact"], config["params_non_embedding"]) == (counts.total, counts.non_embedding)
    assert config["planned_flops"] == config["flops_per_token"] * run.tokens_per_step * 20
    assert [config[name] for name in ("sweep", "size", "arm", "phase", "of")] == [
        *("tracked", "xs", "tied", "confirm", "xs-tied-0001")
    ]
    assert config["train"]["seed"] == 5
    summary = {name: json.loads(value) for name, value in logged.summary.items()}
    assert (summary["status"], summary["step"], summary["loss"]) == ("complete", 20, 1.5)  # the final loss of `line`
    assert (summary["best_val_loss"], summary["best_step"]) == (3.25, 10)
    assert summary["train_flops"] == config["flops_per_token"] * 20_480
    assert summary["params_exact"] == counts.total
    assert summary["planned_flops"] == config["planned_flops"]


def test_curves_are_drawn_over_the_step_and_the_lowest_validation_loss_is_summarized(folder):
    process = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 10, tokens=640) + line("xs-0000", 20, col.COMPLETE, tokens=1280))
    assert process.finish() is None
    [logged] = offline_runs(folder).values()
    assert [(int(row["step"]), int(row["tokens"])) for row in logged.history] == [(10, 640), (20, 1280)]
    assert logged.metrics["step"].step_metric == ""
    assert logged.metrics["*"].step_metric == "step"
    loss = logged.metrics["val/loss"]
    assert (loss.step_metric, loss.summary.min) == ("step", True)


def test_the_end_of_a_sweep_says_how_to_upload_offline_runs_and_only_then(folder):
    process = Tracking(folder, OFFLINE)
    assert process.hints() == []  # there is nothing to upload yet
    folder.metrics.write_text(line("xs-0000", 10, col.COMPLETE))
    assert process.finish() is None
    assert process.hints() == ["Upload to wandb: wandb sync runs/tracked/wandb/offline-run-*"]
    assert WandbTracker.hint(folder, "online") is None
    hint = TensorboardTracker.hint(folder, "offline")
    assert hint == "Show in TensorBoard: tensorboard --logdir runs/tracked/tensorboard"


def test_entity_group_tags_and_notes_are_those_of_the_config(folder):
    fields = {"entity": "a-team", "group": "ablations", "tags": ("draft", "xs"), "notes": "First try."}
    process = Tracking(folder, TrackingConfig(wandb="offline", **fields))
    folder.metrics.write_text(line("xs-0000", 10, col.COMPLETE))
    assert process.finish() is None
    [logged] = offline_runs(folder).values()
    assert (logged.entity, logged.group, logged.notes) == ("a-team", "ablations", "First try.")
    assert sorted(logged.tags) == ["draft", "search", "xs"]


def test_a_resumed_trial_continues_its_run_and_other_trials_and_sweeps_have_others(folder):
    folder.manifest.write_text(json.dumps({"created": "2026-01-02T03:04:05+00:00", "studies": []}))
    folder.metrics.write_text("")
    first = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 100, val_loss=3.0) + line("xs-0001", 100, val_loss=3.0))
    assert first.finish() is None
    start = folder.metrics.stat().st_size
    second = Tracking(folder, OFFLINE, start)
    with folder.metrics.open("a") as file:
        file.write(line("xs-0000", 200, col.COMPLETE, val_loss=3.5))
    assert second.finish() is None

    files = sorted(folder.path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    before, after = (run for run in map(read_offline_run, files) if run.name == "name-of-xs-0000")
    assert before.id == after.id
    assert after.resume
    assert [row["_step"] for row in (*before.history, *after.history)] == ["100", "200"]
    assert json.loads(after.summary["best_val_loss"]) == 3.0  # of a row that an earlier driver logged
    ids = {read_offline_run(path).id for path in files}
    assert len(ids) == 2

    folder.manifest.write_text(json.dumps({"created": "2026-01-02T03:04:06+00:00", "studies": []}))
    assert run_id(folder, "xs-0000") not in ids


def test_a_trial_that_failed_says_so_in_its_run(folder):
    process = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 10) + line("xs-0001", 10))
    (folder.trial("xs-0001") / "error.txt").write_text("MemoryError")
    assert process.finish() is None
    running, failed = (offline_runs(folder)[f"name-of-xs-000{n}"] for n in range(2))
    assert (running.summary[col.STATUS], failed.summary[col.STATUS]) == ('"running"', '"failed"')


def test_tracking_ends_by_itself_and_closes_its_runs_when_the_driver_is_killed(folder):
    folder.metrics.write_text(line("xs-0000", 10))
    driver = (
        "import pathlib, time; from sweeps.rundir.folder import RunFolder\n"
        "from sweeps.callbacks.tracking import Tracking; from sweeps.spec.settings import TrackingConfig\n"
        f"folder = RunFolder(pathlib.Path({str(folder.path)!r}))\n"
        "tracking = Tracking(folder, TrackingConfig(wandb='offline')); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], env=os.environ | {"PYTHONPATH": str(ROOT)})
    wait_until(lambda: list(folder.path.glob("wandb/offline-run-*/run-*.wandb")))
    assert any("sweeps.callbacks.tracking" in row for row in processes_of(folder.path))
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(folder.path))
    assert offline_runs(folder)["name-of-xs-0000"].exit_code == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [("raise ModuleNotFoundError('no wandb')", "no wandb"), (FAKE_THAT_FAILS, "no such server")],
    ids=["missing", "fails at init"],
)
def test_a_wandb_that_fails_is_reported_in_one_line_and_raises_nothing(folder, fake_wandb, source, reason):
    fake_wandb(source)
    began = time.monotonic()
    process = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 10))
    problem = process.finish()
    assert time.monotonic() - began < 10
    assert problem == "wandb failed; no result is affected (see runs/tracked/wandb.log)"
    assert reason in (folder.path / "wandb.log").read_text()


@pytest.mark.parametrize("name", EXTRAS)
def test_a_tracker_of_an_extra_that_fails_is_reported_in_one_line_and_raises_nothing(folder, in_tmp, monkeypatch, name):
    package = in_tmp / "fake" / EXTRAS[name]
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('no such server')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    process = Tracking(folder, TrackingConfig.model_validate({**OFF, name: ON[name]}))
    folder.metrics.write_text(line("xs-0000", 10))
    assert process.finish(120) == f"{name} failed; no result is affected (see runs/tracked/{name}.log)"
    assert "no such server" in (folder.path / f"{name}.log").read_text()


def test_a_wandb_that_hangs_is_ended_after_the_wait(folder, fake_wandb, in_tmp):
    fake_wandb(FAKE_THAT_HANGS)
    process = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 10))
    wait_until(lambda: (in_tmp / "pid").exists() and (in_tmp / "pid").read_text())
    began = time.monotonic()
    problem = process.finish(0.5)
    assert time.monotonic() - began < 5
    assert problem.startswith("wandb did not finish")
    assert "\n" not in problem
    with pytest.raises(ProcessLookupError):
        os.kill(int((in_tmp / "pid").read_text()), 0)


def test_a_user_who_does_not_wait_for_wandb_leaves_no_process_of_it_running(folder, fake_wandb, in_tmp, monkeypatch):
    fake_wandb(FAKE_THAT_HANGS)
    process = Tracking(folder, OFFLINE)
    folder.metrics.write_text(line("xs-0000", 10))
    wait_until(lambda: (in_tmp / "pid").exists() and (in_tmp / "pid").read_text())
    wait = subprocess.Popen.wait

    def stopped(self, timeout=None):
        if timeout is not None:
            raise KeyboardInterrupt
        return wait(self)

    monkeypatch.setattr(subprocess.Popen, "wait", stopped)
    with pytest.raises(KeyboardInterrupt):
        process.finish()
    with pytest.raises(ProcessLookupError):
        os.kill(int((in_tmp / "pid").read_text()), 0)


def test_modules_in_the_users_working_directory_are_not_imported(folder, fake_wandb, in_tmp):
    fake_wandb("")
    (in_tmp / "sweeps").mkdir()
    for name in ("sweeps/__init__.py", "yaml.py", "wandb.py"):
        (in_tmp / name).write_text("raise SystemExit(7)")
    assert Tracking(folder, OFFLINE).finish() is None


def test_off_starts_nothing(folder):
    process = Tracking(folder, TrackingConfig(wandb="off"))
    assert not processes_of(folder.path)
    assert process.finish() is None
    assert not (folder.path / "wandb.log").exists()
