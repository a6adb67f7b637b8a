"""What the MLflow tracker writes to a real store in SQLite, as MLflow's own client finds it."""

import json

import pytest
from tracked_rows import line, new_folder

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.params import count_parameters
from sweeps.callbacks.mlflow_tracker import MlflowTracker
from sweeps.callbacks.tracking import Tracking
from sweeps.spec.settings import TrackingConfig

mlflow = pytest.importorskip("mlflow", reason="the extra lmsweep[mlflow] is not installed")

WAIT_S = 120.0  # importing mlflow and making its tables take long on a busy machine


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of a store, which the tests share because making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def folder(in_tmp):
    """A run's folder with two trials, without rows yet."""
    return new_folder()


def config_of(store, project, **fields):
    return TrackingConfig(wandb="off", mlflow=store, project=project, **fields)


def track(folder, config, *lines):
    """Log these lines in this process, to the end."""
    tracker = MlflowTracker(folder, config, MlflowTracker.mode(config))
    with folder.metrics.open("a") as file:
        file.writelines(lines)
    for text in lines:
        tracker.log(json.loads(text))
    tracker.close()


def runs_of(store, project):
    """Every run of an experiment, by its trial."""
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(project)
    return {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}


def curve(store, run, name):
    history = mlflow.MlflowClient(tracking_uri=store).get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in sorted(history, key=lambda metric: metric.step)]


def test_a_sweep_is_logged_by_a_process_of_its_own(folder, store):
    tracking = Tracking(folder, config_of(store, "by a process"))
    folder.metrics.write_text(line("xs-0000", 25) + line("xs-0000", 50, col.PRUNED, val_loss=3.0))
    assert tracking.finish(WAIT_S) is None
    (run,) = runs_of(store, "by a process").values()
    assert (run.info.run_name, run.info.status, run.data.tags["status"]) == ("name-of-xs-0000", "FINISHED", "pruned")
    assert curve(store, run, "val/loss") == [(25, 1.5), (50, 3.0)]


def test_a_run_has_the_trials_fields_counts_tags_and_curves(folder, store):
    fields = {"tags": ("draft", "a: b, ü"), "group": "ablations", "notes": "First try."}
    lines = line("xs-0000", 25, val_loss=None), line("xs-0000", 50, col.COMPLETE, val_loss=3.25, final_val_loss=3.0)
    track(folder, config_of(store, "fields", **fields), *lines)
    run = runs_of(store, "fields")["xs-0000"]
    assert run.data.params["optim.lr"] == "0.003"
    assert run.data.params["model.tie_embeddings"] == "False"
    assert run.data.params["params_exact"] == str(count_parameters(RunSpec().model).total)
    tags = run.data.tags
    assert (tags["sweep"], tags["size"], tags["phase"], tags["status"]) == ("tracked", "xs", "search", "complete")
    assert (tags["tags"], tags["group"], tags["mlflow.note.content"]) == ("draft, a: b, ü", "ablations", "First try.")
    assert curve(store, run, "val/loss") == [(50, 3.25)]
    assert curve(store, run, "val/final_loss") == curve(store, run, "loss") == [(50, 3.0)]
    assert [step for step, _ in curve(store, run, "train/loss")] == [25, 50]


def test_trials_whose_last_row_never_came_have_failed_or_were_killed(folder, store):
    (folder.trial("xs-0001") / "error.txt").write_text("MemoryError")
    track(folder, config_of(store, "unfinished"), line("xs-0000", 25), line("xs-0001", 25))
    interrupted, failed = (runs_of(store, "unfinished")[trial] for trial in ("xs-0000", "xs-0001"))
    assert (interrupted.info.status, interrupted.data.tags["status"]) == ("KILLED", "running")
    assert (failed.info.status, failed.data.tags["status"]) == ("FAILED", "failed")


def test_a_resumed_trial_continues_its_run(folder, store):
    config = config_of(store, "resumed")
    track(folder, config, line("xs-0000", 25, val_loss=3.0), line("xs-0001", 25))
    before = runs_of(store, "resumed")["xs-0000"]
    track(folder, config, line("xs-0000", 50, col.COMPLETE, val_loss=3.5))
    after = runs_of(store, "resumed")
    assert len(after) == 2
    run = after["xs-0000"]
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    assert curve(store, run, "val/loss") == [(25, 3.0), (50, 3.5)]
    assert curve(store, run, "best_val_loss") == [(50, 3.0)]  # of a row that an earlier driver logged


def test_a_sweep_of_the_same_name_has_runs_of_its_own(folder, store):
    config = config_of(store, "two sweeps")
    for created in ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:06+00:00"):
        folder.manifest.write_text(json.dumps({"created": created, "studies": []}))
        track(folder, config, line("xs-0000", 200, col.COMPLETE))
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("two sweeps")
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_the_run_of_a_paused_trial_stays_open_and_says_so_until_it_goes_on_or_is_pruned(folder, store):
    config = config_of(store, "paused")
    tracker = MlflowTracker(folder, config, MlflowTracker.mode(config))

    def log(*lines):
        with folder.metrics.open("a") as file:
            file.writelines(lines)
        for text in lines:
            tracker.log(json.loads(text))
        run = runs_of(store, "paused")["xs-0000"]
        return run.info.status, run.data.tags["status"]

    assert log(line("xs-0000", 25, col.PAUSED)) == ("RUNNING", "paused")
    assert log(line("xs-0000", 50)) == ("RUNNING", "running")
    assert log(line("xs-0000", 75, col.PAUSED), line("xs-0000", 75, col.PRUNED)) == ("FINISHED", "pruned")
    tracker.close()
