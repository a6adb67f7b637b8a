"""Weights & Biases as a tracker: one wandb run per trial, all of them in one process.

A run's group is the sweep (or `tracking.group`), and its job type the size and arm, so that wandb's interface groups by
sweep, then by size and arm. Its config has the same to group and filter by, with the phase and, for confirmation runs,
the trial that is repeated. The id of a run follows from the sweep and the trial: a trial that is resumed continues its
run.
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.callbacks.tracked_trial import LOGGED, TrackedTrial, failed, logged_values, run_id
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import TrackingConfig

if TYPE_CHECKING:
    import wandb


class WandbTracker:
    """A `sweeps.callbacks.tracking.Tracker` for wandb.

    Example:
        tracker = WandbTracker(RunFolder.named("quick"), TrackingConfig(tags=("draft",)), "offline")
        tracker.log(row)
        tracker.close()
    """

    def __init__(self, folder: RunFolder, config: TrackingConfig, mode: str) -> None:
        self._mode: Literal["online", "offline"] = "online" if mode == "online" else "offline"
        # For whatever of wandb reads the environment; it must be set before the import.
        os.environ["WANDB_MODE"] = mode
        import wandb

        self._wandb = wandb
        self._folder = folder
        self._config = config
        self._open_runs: dict[str, tuple[wandb.Run, TrackedTrial]] = {}

    @staticmethod
    def hint(folder: RunFolder, mode: str) -> str | None:
        """How to upload offline runs."""
        if mode != "offline" or not any(folder.path.glob("wandb/offline-run-*")):
            return None
        return f"Upload to wandb: wandb sync {shlex.quote(folder.display)}/wandb/offline-run-*"

    @staticmethod
    def mode(config: TrackingConfig) -> str:
        """off, offline or online. auto obeys WANDB_MODE if it is set, else is online if there is an API key."""
        if config.wandb != "auto":
            return config.wandb
        modes = {"offline": "offline", "online": "online", "disabled": "off", "dryrun": "offline"}
        if (mode := os.environ.get("WANDB_MODE", "")) in modes:
            return modes[mode]
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        in_netrc = netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
        return "online" if os.environ.get("WANDB_API_KEY") or in_netrc else "offline"

    def log(self, row: Row) -> None:
        """Log a row. A trial's first row opens its wandb run, its last row closes it."""
        trial = row["trial"]
        if trial not in self._open_runs:
            self._open_runs[trial] = self._open(row)
        run, tracked = self._open_runs[trial]
        run.log({**logged_values(row), col.STEP: row["step"]}, row["step"])
        run.summary.update(tracked.summary(row))
        if row["status"] not in col.UNFINISHED:
            del self._open_runs[trial]
            run.finish()

    def _open(self, row: Row) -> "tuple[wandb.Run, TrackedTrial]":
        tracked = TrackedTrial.opened(self._folder, row)
        run = self._wandb.init(
            entity=self._config.entity,
            project=self._config.project,
            id=run_id(self._folder, row["trial"]),
            resume="allow",
            group=self._config.group or self._folder.path.name,
            job_type=tracked.size_and_arm,
            name=tracked.name,
            tags=list(dict.fromkeys([*tracked.labels, *self._config.tags])),
            notes=self._config.notes,
            config=tracked.run.model_dump() | tracked.config | tracked.study,
            mode=self._mode,
            dir=str(self._folder.path),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        define_axes(run)
        run.summary.update(tracked.counts)
        return run, tracked

    def close(self) -> None:
        """Close the runs of trials whose last row never came, because they failed or were interrupted, as failed."""
        for trial, (run, _) in self._open_runs.items():
            if failed(self._folder, trial):
                run.summary.update({col.STATUS: col.FAILED})
            run.finish(exit_code=1)


def define_axes(run: "wandb.Run") -> None:
    """Have wandb draw every curve over the updates made, and keep the lowest validation loss in the table of runs.

    `tokens` is logged as well, and may be chosen as the axis instead.
    """
    run.define_metric(col.STEP)
    run.define_metric("*", step_metric=col.STEP)
    run.define_metric(LOGGED[col.VAL_LOSS], step_metric=col.STEP, summary="min")
