"""Weights & Biases as a tracker: one wandb run per trial, all of them in one process.

A run's group is the sweep, and its job type the size and arm, so that wandb's interface groups by sweep, then by size
and arm. Its config has the same to group and filter by, with the phase and, for confirmation runs, the trial that is
repeated. The id of a run follows from the sweep and the trial: a trial that is resumed continues its run.
"""

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import training_flops
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from lmcore.reports import previous_report
from lmcore.runfile.yaml_file import read_yaml
from sweeps.rundir.folder import RunFolder
from sweeps.spec.arms import REPEATS
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
PARTS = ("data", "model", "train", "optim")
BEST_VAL_LOSS = "best_val_loss"


@dataclass
class OpenRun:
    """A wandb run that has not been finished, and what its summary needs."""

    run: "wandb.Run"
    spec: RunSpec
    best: tuple[float, int]
    """Lowest val_loss so far, and its step."""

    def note(self, row: Row) -> None:
        """Update the summary by a row of metrics.jsonl, in which a loss that is not finite is None."""
        losses: dict[str, float | None] = {**row}  # type: ignore[dict-item]
        if (loss := losses[col.VAL_LOSS]) is not None:
            self.best = min(self.best, (loss, row[col.STEP]))
        summary: dict[str, Any] = {
            col.STATUS: row[col.STATUS],
            col.STEP: row[col.STEP],
            col.LOSS: losses[col.quoted_column(row)],
            col.TRAIN_FLOPS: flops_per_token(self.spec.model) * row[col.TOKENS],
            col.RETRIES: row[col.RETRIES],
        }
        if math.isfinite(self.best[0]):
            summary |= {BEST_VAL_LOSS: self.best[0], col.BEST_STEP: self.best[1]}
        self.run.summary.update({name: value for name, value in summary.items() if value is not None})


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
        self._runs: dict[str, OpenRun] = {}

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
            self._runs[trial] = self._open(row)
        opened = self._runs[trial]
        values: dict[str, object] = {**row}
        logged = {name: values[column] for column, name in LOGGED.items() if values[column] is not None}
        opened.run.log(logged, row["step"])
        opened.note(row)
        if row["status"] != col.RUNNING:
            self._runs.pop(trial).run.finish()

    def _open(self, row: Row) -> OpenRun:
        trial = row["trial"]
        file = read_yaml(self._folder.trial(trial) / "run.yaml").values
        spec = RunSpec.model_validate({part: file[part] for part in PARTS})
        study = self._study(trial, row["size"])
        run = self._wandb.init(
            project=self._project,
            id=run_id(self._folder, trial),
            resume="allow",
            group=self._folder.path.name,
            job_type="-".join(filter(None, (study[col.SIZE], study[col.ARM]))),
            name=file["name"],
            tags=[text for text in study.values() if text],
            config=spec.model_dump() | self._config(trial, file, spec) | study,
            mode=self._mode,
            dir=str(self._folder.path),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        best = math.inf, 0
        if previous_report(spec, row["step"]):  # it was resumed: the best of its earlier rows
            best = best_before(self._folder, trial, row["step"])
        return OpenRun(run, spec, best)

    def _config(self, trial: str, file: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
        counts = count_parameters(spec.model)
        of = next((note.removeprefix(REPEATS) for note in file.get("notes", ()) if note.startswith(REPEATS)), None)
        return {
            "sweep": self._folder.path.name,
            col.TRIAL: trial,
            col.OF: of,
            col.EXPERIMENT: None if file["name"] == trial else file["name"],
            col.PARAMS_ESTIMATE: estimate_parameters(spec.model),
            col.PARAMS_EXACT: counts.total,
            col.PARAMS_NON_EMBEDDING: counts.non_embedding,
            col.FLOPS_PER_TOKEN: flops_per_token(spec.model),
            "planned_flops": training_flops(spec),
        }

    def _study(self, trial: str, size: str) -> dict[str, str | None]:
        """Size, arm and phase of a trial, by the manifest."""
        studies = _manifest(self._folder).get("studies", ())
        found: dict[str, Any] = next((one for one in studies if one["id"] == trial.rpartition("-")[0]), {})
        return {col.SIZE: size, col.ARM: found.get(col.ARM), col.PHASE: found.get(col.PHASE, col.SEARCH)}

    def close(self) -> None:
        """Close the runs of trials whose last row never came, because they failed or were interrupted, as failed."""
        for trial, opened in self._runs.items():
            if (self._folder.trial(trial) / "error.txt").exists():
                opened.run.summary.update({col.STATUS: col.FAILED})
            opened.run.finish(exit_code=1)


def run_id(folder: RunFolder, trial: str) -> str:
    """The id of a trial's run in wandb: the same whenever the sweep is resumed, and no other sweep's."""
    sweep = [folder.path.name, _manifest(folder).get("created")]
    with suppress(OSError):
        sweep = [(folder.path / ".owner").read_text().strip()]
    return hashlib.sha256(json.dumps([*sweep, trial]).encode()).hexdigest()[:16]


def best_before(folder: RunFolder, trial: str, step: int) -> tuple[float, int]:
    """Lowest val_loss of a trial's rows before `step` in metrics.jsonl, and its step; inf if it has none."""
    best = math.inf, 0
    with folder.metrics.open() as file:
        for line in file:
            if trial in line and (row := json.loads(line))[col.TRIAL] == trial and row[col.STEP] < step:
                best = min(best, (math.inf if row[col.VAL_LOSS] is None else row[col.VAL_LOSS], row[col.STEP]))
    return best


def _manifest(folder: RunFolder) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads(folder.manifest.read_text()))
    return {}
