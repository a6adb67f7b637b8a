"""TensorBoard as a tracker: event files in the run's folder, one folder per trial.

    tensorboard --logdir runs/quick/tensorboard

Scalars have the names that wandb gets. When a trial ends, its hyperparameters and its loss are written for the page
HParams. A trial that is resumed begins a new file, and TensorBoard drops what older files have from that step on.
"""

import shlex
from typing import TYPE_CHECKING

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import flatten
from sweeps.callbacks.tracked_trial import BEST_VAL_LOSS, TrackedTrial, logged_values
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import TrackingConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_S = 10  # a curve that is watched is at most so old
HPARAM_METRICS = {col.LOSS: "hparam/loss", BEST_VAL_LOSS: "hparam/best_val_loss"}
"""Columns of the page HParams, which must have other names than scalars."""


class TensorboardTracker:
    """A `sweeps.callbacks.tracking.Tracker` for TensorBoard.

    Example:
        tracker = TensorboardTracker(RunFolder.named("quick"), TrackingConfig(tensorboard=True), "offline")
        tracker.log(row)
        tracker.close()
    """

    def __init__(self, folder: RunFolder, config: TrackingConfig, mode: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._new_writer = SummaryWriter
        self._folder = folder
        self._open_trials: dict[str, tuple[SummaryWriter, TrackedTrial]] = {}

    @staticmethod
    def hint(folder: RunFolder, mode: str) -> str | None:
        """How to look at the curves."""
        return f"Show in TensorBoard: tensorboard --logdir {shlex.quote(folder.display)}/{folder.tensorboard.name}"

    @staticmethod
    def mode(config: TrackingConfig) -> str:
        """offline if it is on, as nothing leaves the machine; else off."""
        return "offline" if config.tensorboard else "off"

    def log(self, row: Row) -> None:
        """Log a row. A trial's first row opens its event file, its last row closes it."""
        trial = row["trial"]
        if trial not in self._open_trials:
            self._open_trials[trial] = self._open(row)
        writer, tracked = self._open_trials[trial]
        for name, value in logged_values(row).items():
            writer.add_scalar(name, value, row["step"])
        summary = tracked.summary(row)
        if row["status"] not in col.UNFINISHED:
            del self._open_trials[trial]
            metrics = {name: summary[column] for column, name in HPARAM_METRICS.items() if column in summary}
            fields = flatten(tracked.run) | tracked.counts | tracked.study | {col.STATUS: row["status"]}
            hparams = {name: _hparam(value) for name, value in fields.items()}
            writer.flush()
            # "." is this trial's folder; by default it would be a subfolder, which TensorBoard shows as another run.
            writer.add_hparams(hparams, metrics, run_name=".", global_step=row["step"])
            writer.close()

    def _open(self, row: Row) -> "tuple[SummaryWriter, TrackedTrial]":
        tracked = TrackedTrial.opened(self._folder, row)
        place = str(self._folder.tensorboard / row["trial"])
        purge_step = row["step"] if tracked.resumed else None
        writer = self._new_writer(place, purge_step=purge_step, flush_secs=FLUSH_S)
        return writer, tracked

    def close(self) -> None:
        """Close the files of trials whose last row never came."""
        for writer, _ in self._open_trials.values():
            writer.close()


def _hparam(value: object) -> object:
    """A field of a run as TensorBoard takes it: a boolean in YAML's spelling, a list as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
