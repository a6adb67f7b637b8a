"""Weights & Biases as a tracker: one wandb run per trial, all of them in one process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.runfile.yaml_file import read_yaml
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import TrackingConfig

if TYPE_CHECKING:
    import wandb

# The name in wandb of each column that is logged.
LOGGED = {
    col.TRAIN_LOSS: "train/loss",
    col.GRAD_NORM: "train/grad_norm",
    col.VAL_LOSS: "val/loss",
    col.FINAL_VAL_LOSS: "val/final_loss",
    col.LR: "lr",
    col.TOKENS: "tokens",
    col.TOKENS_PER_S: "tokens_per_s",
}


class WandbTracker:
    """A `sweeps.callbacks.tracking.Tracker` for wandb.

    Example:
        tracker = WandbTracker(RunFolder.named("quick"), "lmsweep", "offline")
        tracker.log(row)
        tracker.close()
    """

    def __init__(self, folder: RunFolder, project: str, mode: str) -> None:
        self._mode: Literal["online", "offline"] = "online" if mode == "online" else "offline"
        # For whatever of wandb reads the environment; it must be set before the import.
        os.environ["WANDB_MODE"] = mode
        import wandb

        self._wandb = wandb
        self._folder = folder
        self._project = project
        self._runs: dict[str, wandb.Run] = {}

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
        if trial not in self._runs:
            self._runs[trial] = self._open(trial, row["size"])
        run = self._runs[trial]
        values: dict[str, object] = {**row}
        run.log({name: values[column] for column, name in LOGGED.items() if values[column] is not None}, row["step"])
        if row["status"] != col.RUNNING:
            run.summary[col.STATUS] = row["status"]
            self._runs.pop(trial).finish()

    def _open(self, trial: str, size: str) -> "wandb.Run":
        config = read_yaml(self._folder.trial(trial) / "run.yaml").values
        return self._wandb.init(
            project=self._project,
            group=self._folder.path.name,
            name=config["name"],
            tags=[size],
            config={part: config[part] for part in ("data", "model", "train", "optim")} | {col.TRIAL: trial},
            mode=self._mode,
            dir=str(self._folder.path),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )

    def close(self) -> None:
        """Close the runs of trials whose last row never came, because they failed or were interrupted, as failed."""
        for run in self._runs.values():
            run.finish(exit_code=1)
