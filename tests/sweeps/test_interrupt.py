"""Ctrl-C or SIGTERM in the middle of a real sweep: it ends soon, says what is kept, and leaves nothing running."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from lmcore import columns as col

RUN = Path(__file__).resolve().parents[2] / "sweeps" / "run.py"


def wait_until(condition, seconds, what):
    """Until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} in {seconds} s"
        time.sleep(0.1)


def processes():
    """Parent and state of every process, by pid."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    return {int(pid): (int(parent), state) for pid, parent, state in map(str.split, table.splitlines())}


def descendants(pid):
    """The process and everything it has started that has not been orphaned."""
    table, family = processes(), {pid}
    while more := {child for child, (parent, _) in table.items() if parent in family} - family:
        family |= more
    return family


def running(pids):
    """Those of `pids` that have not ended; one that nobody has waited for yet has."""
    return {pid for pid, (_, state) in processes().items() if pid in pids and not state.startswith("Z")}


def statuses(folder):
    """The newest row's status of each trial, in the order of their first rows."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row[col.TRIAL]: row[col.STATUS] for row in rows}


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_sweep_that_is_told_to_stop_keeps_its_ended_trials_and_leaves_no_process(number, code, tmp_path):
    np.save(tmp_path / "tokens.npy", np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)).astype(np.uint16) % 61)
    settings = {
        "sizes": "[{name: xs, model.d_model: 32, model.d_ff: 64, model.num_layers: 1}]",
        "model.context_length": "64",
        "train.steps": "400",
        "data.source": "tokens.npy",
        "data.vocab_size": "61",
        "search.concurrent": "1",  # the first trial has ended when the second one reports
    }
    options = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    flags = ["--trials", "40", "--scheduler", "none", "--name", "stopped", "--no-dashboard", "--wandb", "offline"]
    process = subprocess.Popen(
        [sys.executable, RUN, *options, *flags],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "runs" / "stopped"
    try:
        wait_until(lambda: len(statuses(folder)) > 1 or process.poll() is not None, 60, "no second trial")
        family = descendants(process.pid)
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, out + error
    assert error == "\nstopped; go on with python sweeps/run.py --resume runs/stopped\n"
    assert len(family) > 5  # Ray's servers, its worker, tracking
    wait_until(lambda: not running(family), 10, "processes were left")

    trials = optuna.load_study(study_name="xs", storage=f"sqlite:///{folder}/study.db").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * (len(trials) - 1) + [TrialState.RUNNING]
    recorded = {trial.user_attrs[col.TRIAL]: trial.user_attrs.get(col.STATUS, col.RUNNING) for trial in trials}
    assert recorded == statuses(folder)
    assert list(recorded.values()) == [col.COMPLETE] * (len(trials) - 1) + [col.RUNNING]
