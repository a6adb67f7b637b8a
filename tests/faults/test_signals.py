"""Ctrl-C and SIGTERM in the middle of a real sweep: it ends soon, says how to resume, and leaves no process."""

import signal
import time

import optuna
import pytest
from optuna.trial import TrialState
from sweeping import (
    count_rows,
    curves,
    descendants,
    remedy,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    wait_until,
)

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.rundir.checkpoints import checkpoint_files

REMEDY = f"{remedy('stopped')}\n"
SLOWER = {"train__steps": "2000", "train__checkpoint_every": "1000"}
"""Checkpoints come rarely enough for the stop to have to write some."""


def statuses(folder):
    return {trial: rows[-1][col.STATUS] for trial, rows in rows_of(folder).items()}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "code", "wandb"),
    [
        pytest.param(signal.SIGINT, 130, "offline", marks=pytest.mark.smoke),
        (signal.SIGTERM, 143, "off"),
    ],
    ids=["SIGINT with wandb", "SIGTERM"],
)
def test_a_sweep_that_is_interrupted_loses_nothing_and_leaves_no_process(number, code, wandb, tiny, fault):
    quiet = ("--no-dashboard", "--wandb", wandb)
    process = start(sweep_command("stopped", quiet=quiet, slots=1, trials=5, **SLOWER), tiny)
    folder = tiny / "runs" / "stopped"
    wait_until(lambda: count_rows(folder) >= 12 or process.poll() is not None, 240, "no 12 rows")
    family = descendants(process.pid)
    assert len(family) > 5  # Ray's servers, its workers, tracking
    record = fault(f"{signal.Signals(number).name}, {'with' if wandb == 'offline' else 'without'} wandb")
    record.injected()
    began = time.monotonic()
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert process.returncode == code, out + error
    assert error == f"\nstopped; {REMEDY}"
    assert seconds < 30
    wait_until(lambda: not running(family), 10, "processes are still running")

    trials = optuna.load_study(study_name="xs", storage=f"sqlite:///{folder}/study.db").trials
    recorded = {trial.user_attrs[col.TRIAL]: trial.user_attrs.get(col.STATUS, col.RUNNING) for trial in trials}
    assert {trial: status for trial, status in recorded.items() if trial in statuses(folder)} == statuses(folder)
    assert TrialState.RUNNING in {trial.state for trial in trials}
    for trial, rows in rows_of(folder).items():
        if rows[-1][col.STATUS] == col.RUNNING:
            saved = read_checkpoint(checkpoint_files(folder / "trials" / trial)[-1])[1]["step"]
            assert saved >= rows[-1][col.STEP], trial  # checkpoints were due every 1000 updates only
    record.survived(seconds=seconds)


@pytest.mark.ray
def test_the_second_ctrl_c_ends_at_once_and_nothing_is_lost(tiny, fault):
    process = start(sweep_command("stopped"), tiny)
    folder = tiny / "runs" / "stopped"
    wait_until(lambda: count_rows(folder) >= 12 or process.poll() is not None, 240, "no 12 rows")
    family = descendants(process.pid)
    record = fault("SIGINT twice")
    record.injected()
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two signals that are pending together are one
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    seconds = time.monotonic() - began
    assert seconds < 1
    assert process.returncode == 130
    assert error == f"\nstopped at once; {REMEDY}"
    wait_until(lambda: not running(family), 10, "processes are still running")
    before = curves(folder)
    run(error.rpartition("resume with ")[2], tiny, check=0)  # as it was printed
    after = curves(folder)
    assert all(after[trial][: len(rows)] == rows for trial, rows in before.items())
    assert [len(rows) for rows in after.values()] == [10] * 6
    record.survived(seconds=seconds)
