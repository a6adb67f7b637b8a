"""A run's folder as trackers find it, and lines for its metrics.jsonl."""

import json

import yaml

from lmcore import columns as col
from lmcore.config import RunSpec
from sweeps.rundir.folder import RunFolder

TRIALS = ("xs-0000", "xs-0001")


def line(trial, step, status=col.RUNNING, **values):
    """A line of metrics.jsonl; the trial has a final loss when it has ended."""
    row = dict.fromkeys(col.ROW_COLUMNS, 1.5) | {col.TRIAL: trial, col.SIZE: "xs", col.STATUS: status, col.STEP: step}
    row |= {col.BRANCH: None, **values}
    if status == col.RUNNING:
        row |= dict.fromkeys(col.FINAL_COLUMNS)
    return json.dumps(row) + "\n"


def new_folder():
    """The folder of a sweep called `tracked` with two trials, without rows yet."""
    folder = RunFolder.named("tracked")
    for trial in TRIALS:
        folder.trial(trial).mkdir(parents=True)
        text = yaml.safe_dump({"name": f"name-of-{trial}", **RunSpec().model_dump()})
        (folder.trial(trial) / "run.yaml").write_text(text)
    folder.metrics.touch()
    return folder
