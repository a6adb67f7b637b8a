"""MLflow as a tracker: one MLflow run per trial, in the experiment that `tracking.project` names.

A run's tags say sweep, size, arm, phase, trial and status, to filter by (`tags.sweep = 'quick'`), its params are the
fields of the run, and its metrics have the names that wandb gets. A trial that is resumed continues its run, which is
found by a tag. Credentials come from MLflow's own environment variables, such as MLFLOW_TRACKING_TOKEN.
"""

import os
import time
from typing import TYPE_CHECKING, Any

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import flatten
from sweeps.callbacks.tracked_trial import TrackedTrial, failed, logged_values, run_id
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import OFF, TrackingConfig

if TYPE_CHECKING:
    from mlflow.entities import Metric

ID = "lmsweep.id"  # tag by which a resumed trial finds its run
NOTES = "mlflow.note.content"  # tag that MLflow's interface shows as the run's description
SUMMARIES = ("loss", "best_val_loss", "train_flops")  # numbers of a trial's summary that are metrics when it ends


class MlflowTracker:
    """A `sweeps.callbacks.tracking.Tracker` for MLflow.

    Example:
        tracker = MlflowTracker(RunFolder.named("quick"), TrackingConfig(mlflow="sqlite:///mlflow.db"), "online")
        tracker.log(row)
        tracker.close()
    """

    def __init__(self, folder: RunFolder, config: TrackingConfig, mode: str) -> None:
        # MLflow reports its use to its makers unless it is told not to, before the import.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        self._folder = folder
        self._config = config
        self._client = mlflow.MlflowClient(tracking_uri=config.mlflow)
        self._experiment = self._experiment_id(config.project)
        self._open_runs: dict[str, tuple[str, TrackedTrial]] = {}
        self._statuses: dict[str, str] = {}  # of each trial, as its run's tag has it

    @staticmethod
    def hint(folder: RunFolder, mode: str) -> str | None:
        """Nothing: the runs are where the user said."""
        return None

    @staticmethod
    def mode(config: TrackingConfig) -> str:
        """online if there is an address, else off."""
        return "off" if config.mlflow == OFF else "online"

    def log(self, row: Row) -> None:
        """Log a row. A trial's first row opens its run, its last row closes it."""
        trial = row["trial"]
        if trial not in self._open_runs:
            self._open_runs[trial] = self._open(row)
        run, tracked = self._open_runs[trial]
        values, summary = logged_values(row), tracked.summary(row)
        if row["status"] not in col.UNFINISHED:
            values |= {name: summary[name] for name in SUMMARIES if name in summary}
        self._client.log_batch(run, metrics=_metrics(values, row["step"]))
        if row["status"] not in col.UNFINISHED:
            del self._open_runs[trial]
            self._client.set_terminated(run)
        if row["status"] != self._statuses.get(trial, col.RUNNING):
            self._client.set_tag(run, col.STATUS, row["status"])
        self._statuses[trial] = row["status"]

    def _open(self, row: Row) -> tuple[str, TrackedTrial]:
        from mlflow.entities import Param

        tracked = TrackedTrial.opened(self._folder, row)
        own_id = run_id(self._folder, row["trial"])
        if found := self._client.search_runs([self._experiment], f"tags.`{ID}` = '{own_id}'"):
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            self._client.set_tag(run, col.STATUS, col.RUNNING)
            return run, tracked
        counts = {name: value for name, value in tracked.config.items() if isinstance(value, int | float)}
        facts = {name: value for name, value in tracked.config.items() if isinstance(value, str)}
        tags: dict[str, Any] = {
            **facts,
            **{name: value for name, value in tracked.study.items() if value},
            ID: own_id,
            col.STATUS: col.RUNNING,
        }
        if self._config.tags:  # one tag for all: the names of MLflow's tags may not have every character
            tags["tags"] = ", ".join(self._config.tags)
        if self._config.group:
            tags["group"] = self._config.group
        if self._config.notes:
            tags[NOTES] = self._config.notes
        run = str(self._client.create_run(self._experiment, tags=tags, run_name=tracked.name).info.run_id)
        fields = flatten(tracked.run) | counts
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in fields.items()])
        return run, tracked

    def close(self) -> None:
        """Close the runs of trials whose last row never came: as failed, or as killed if they were interrupted."""
        for trial, (run, _) in self._open_runs.items():
            if failed(self._folder, trial):
                self._client.set_tag(run, col.STATUS, col.FAILED)
            self._client.set_terminated(run, "FAILED" if failed(self._folder, trial) else "KILLED")

    def _experiment_id(self, name: str) -> str:
        """The id of an experiment, which is created if there is none; another sweep may do so at the same time."""
        from mlflow.exceptions import MlflowException

        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            if found := self._client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise


def _metrics(values: dict[str, float], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(name, float(value), now_ms, step) for name, value in values.items()]
