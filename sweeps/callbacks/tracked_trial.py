"""What trackers say about a trial: names of the logged columns, the run's fields and counts, and its best loss so far.

`sweeps.callbacks.tracking` has the process that trackers run in; each tracker is in a file of its own.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.device import training_flops
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from lmcore.reports import previous_report
from lmcore.runfile.yaml_file import read_yaml
from sweeps.rundir.folder import RunFolder
from sweeps.spec.arms import REPEATS

# The name in trackers of each column that is logged.
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


def logged_values(row: Row) -> dict[str, float]:
    """The numbers of a row by their names in trackers, without those that are missing or not finite.

    >>> logged_values(row)
    {'train/loss': 6.31, 'train/grad_norm': 0.82, 'val/loss': 6.28, 'lr': 0.003, 'tokens': 51200, ...}
    """
    values: dict[str, Any] = {**row}
    return {name: values[column] for column, name in LOGGED.items() if values[column] is not None}


@dataclass
class TrackedTrial:
    """A trial of which rows are logged.

    >>> trial = TrackedTrial.opened(folder, row)
    >>> trial.summary(row)["best_val_loss"]
    6.28
    """

    name: str  # of the trial, or of its experiment
    run: RunSpec
    study: dict[str, str | None]  # size, arm and phase
    config: dict[str, Any]  # sweep, trial, counts of parameters and FLOPs
    resumed: bool  # an earlier driver, or an earlier try, logged rows of it
    best: tuple[float, int]
    """Lowest val_loss so far, and its step."""

    @classmethod
    def opened(cls, folder: RunFolder, row: Row) -> "TrackedTrial":
        """The trial whose first row to log this is."""
        trial = row["trial"]
        file = read_yaml(folder.trial(trial) / "run.yaml").values
        run = RunSpec.model_validate({part: file[part] for part in PARTS})
        resumed = previous_report(run, row["step"]) > 0
        best = best_before(folder, trial, row["step"]) if resumed else (math.inf, 0)
        study = _study(folder, trial, row["size"])
        return cls(file["name"], run, study, _config(folder, trial, file, run), resumed, best)

    @property
    def labels(self) -> list[str]:
        """Size, arm (if there is one) and phase."""
        return [text for text in self.study.values() if text]

    @property
    def counts(self) -> dict[str, int | float]:
        """The counts of parameters and FLOPs in the config: for the table of runs, beside the loss."""
        return {name: self.config[name] for name in (*col.COUNT_COLUMNS, col.PLANNED_FLOPS)}

    @property
    def size_and_arm(self) -> str:
        """`xs`, or `xs-tied`."""
        return "-".join(filter(None, (self.study[col.SIZE], self.study[col.ARM])))

    def summary(self, row: Row) -> dict[str, Any]:
        """What is known after a row of metrics.jsonl, in which a loss that is not finite is None; without such."""
        losses: dict[str, float | None] = {**row}  # type: ignore[dict-item]
        if (loss := losses[col.VAL_LOSS]) is not None:
            self.best = min(self.best, (loss, row[col.STEP]))
        summary: dict[str, Any] = {
            col.STATUS: row[col.STATUS],
            col.STEP: row[col.STEP],
            col.LOSS: losses[col.quoted_column(row)],
            col.TRAIN_FLOPS: flops_per_token(self.run.model) * row[col.TOKENS],
            col.RETRIES: row[col.RETRIES],
        }
        if math.isfinite(self.best[0]):
            summary |= {BEST_VAL_LOSS: self.best[0], col.BEST_STEP: self.best[1]}
        return {name: value for name, value in summary.items() if value is not None}


def run_id(folder: RunFolder, trial: str) -> str:
    """The id of a trial's run in a tracker: the same whenever the sweep is resumed, and no other sweep's."""
    sweep = [folder.path.name, _manifest(folder).get("created")]
    with suppress(OSError):
        sweep = [(folder.path / ".owner").read_text().strip()]
    return hashlib.sha256(json.dumps([*sweep, trial]).encode()).hexdigest()[:16]


def best_before(folder: RunFolder, trial: str, step: int) -> tuple[float, int]:
    """Lowest val_loss of a trial's rows before `step` in metrics.jsonl, and its step; inf if it has none."""
    best = math.inf, 0
    with folder.metrics.open() as file:
        for line in file:
            if trial not in line or (row := json.loads(line)).get(col.BRANCH) is not None:
                continue
            if row[col.TRIAL] == trial and row[col.STEP] < step:
                best = min(best, (math.inf if row[col.VAL_LOSS] is None else row[col.VAL_LOSS], row[col.STEP]))
    return best


def failed(folder: RunFolder, trial: str) -> bool:
    """Whether a trial whose last row never came has failed; otherwise it was interrupted."""
    return (folder.trial(trial) / "error.txt").exists()


def _config(folder: RunFolder, trial: str, file: dict[str, Any], run: RunSpec) -> dict[str, Any]:
    counts = count_parameters(run.model)
    of = next((note.removeprefix(REPEATS) for note in file.get("notes", ()) if note.startswith(REPEATS)), None)
    return {
        "sweep": folder.path.name,
        col.TRIAL: trial,
        col.OF: of,
        col.EXPERIMENT: None if file["name"] == trial else file["name"],
        col.PARAMS_ESTIMATE: estimate_parameters(run.model),
        col.PARAMS_EXACT: counts.total,
        col.PARAMS_NON_EMBEDDING: counts.non_embedding,
        col.FLOPS_PER_TOKEN: flops_per_token(run.model),
        col.PLANNED_FLOPS: training_flops(run),
    }


def _study(folder: RunFolder, trial: str, size: str) -> dict[str, str | None]:
    """Size, arm and phase of a trial, by the manifest."""
    studies = _manifest(folder).get("studies", ())
    found: dict[str, Any] = next((one for one in studies if one["id"] == trial.rpartition("-")[0]), {})
    return {col.SIZE: size, col.ARM: found.get(col.ARM), col.PHASE: found.get(col.PHASE, col.SEARCH)}


def _manifest(folder: RunFolder) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads(folder.manifest.read_text()))
    return {}
