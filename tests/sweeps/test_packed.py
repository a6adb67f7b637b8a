"""Packed trials through the whole system: the numbers of the same runs alone, whatever happens to their neighbours."""

import io
import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.corpus.tokens import load_tokens
from lmcore.curve_batches import read_batches
from lmcore.trainer import Trainer
from sweeps.cli.interrupts import Interrupts
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.storage import open_storage
from sweeps.sweep import run_on, with_data

pytestmark = pytest.mark.ray

CURVE = (col.STEP, *col.LOSS_COLUMNS, col.GRAD_NORM, col.LR)
SIZES = [{"name": "xs"}, {"name": "s", "model.d_model": 64}]


@pytest.fixture
def sweep(cluster, in_tmp):
    """Runs a sweep of tiny models by its name and settings: (folder, rows by trial, printed text)."""
    rng = np.random.default_rng(0)
    np.save("tokens.npy", np.cumsum(rng.integers(0, 3, 20_000)).astype(np.uint16) % 61)

    def run(name, search, train=None, **sections):
        model = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 32, "vocab_size": 61}
        spec = SweepSpec.model_validate(
            {
                "name": name,
                "data": {"source": "tokens.npy", "vocab_size": 61},
                "model": model,
                "train": {"steps": 40, "batch_size": 4, "eval_every": 10, "eval_windows": 16} | (train or {}),
                "search": {"method": "random", "scheduler": "none"} | search,
                "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.tie_embeddings": [False, True]},
                "tracking": {"wandb": "off"},
            }
            | sections
        )
        text = io.StringIO()
        folder = RunFolder.named(name)
        with folder.claimed():
            storage = open_storage(None, folder)
            run_on(cluster, *with_data(spec), folder, storage, Console(file=text, width=300), Interrupts())
        return folder.path, rows_of(folder.path), text.getvalue()

    return run


def rows_of(folder):
    by_trial = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        by_trial.setdefault(row[col.TRIAL], []).append(row)
    return by_trial


def points_of(folder):
    """Points of curves.arrow by trial and step. A step that was repeated has the same numbers."""
    found = {}
    for batch, _ in read_batches((folder / "curves.arrow").read_bytes()):
        for trial, *point in (tuple(one.values()) for one in (batch.to_pylist() if batch else ())):
            kept = found.setdefault(trial, {}).setdefault(point[0], as_kept(point))
            assert kept == as_kept(point)
    return found


def as_kept(point):
    """A point as text, in which NaN equals NaN; the file has float32."""
    step, loss, grad_norm, lr = point
    return repr((step, float(np.float32(loss)), float(np.float32(grad_norm)), lr))


def curve(rows):
    return [[row[name] for name in CURVE] for row in rows]


def assert_each_trial_equals_its_run_alone(folder, rows):
    import yaml

    tokens, logged = load_tokens(folder / "tokens"), points_of(folder)
    for trial, reported in rows.items():
        alone = yaml.safe_load((folder / "trials" / trial / "run.yaml").read_text())
        run = RunSpec.model_validate({part: alone[part] for part in ("data", "model", "train", "optim")})
        alone = list(Trainer([run], tokens))[: len(reported)]
        assert curve(reported) == curve(alone), trial
        assert logged[trial] == {point[0]: as_kept(point) for row in alone for point in row[col.POINTS]}, trial


def test_one_slot_and_four_give_bitwise_the_same_losses_to_every_trial_of_two_sizes(sweep):
    _, alone, printed = sweep("one", {"slots": 1, "trials": 10}, sizes=SIZES)
    _, packed, _ = sweep("four", {"slots": 4, "trials": 10}, sizes=SIZES)
    assert sorted(alone) == sorted(packed)
    assert {trial: curve(rows) for trial, rows in alone.items()} == {t: curve(rows) for t, rows in packed.items()}
    assert "10 trials, 2 at a time" in printed
    assert {row[col.SLOT] for rows in alone.values() for row in rows} == {0}
    assert {row[col.SLOT] for rows in packed.values() for row in rows} > {0, 1}


@pytest.fixture
def processes(monkeypatch):
    """Ids of the processes that results came from."""
    from sweeps.tune.scheduler import StudyScheduler

    processes, answer = set(), StudyScheduler.on_trial_result

    def note_process(self, controller, trial, result):
        processes.add(result["pid"])
        return answer(self, controller, trial, result)

    monkeypatch.setattr(StudyScheduler, "on_trial_result", note_process)
    return processes


def test_slots_that_early_stopping_freed_are_refilled_and_every_curve_is_that_of_the_run_alone(sweep, processes):
    folder, rows, _ = sweep("refilled", {"slots": 3, "trials": 24, "scheduler": "asha-stop", "grace_steps": 10})
    assert len(rows) == 24
    assert {len(reported) for reported in rows.values()} >= {1, 4}  # some stopped at once, some went to the end
    places = {(reported[0][col.ENGINE], reported[0][col.SLOT]) for reported in rows.values()}
    assert len(places) <= 6
    assert_each_trial_equals_its_run_alone(folder, rows)
    # Trials that come after one another share a process: each worker has three slots and a queued trial.
    assert len(processes) <= 2 * (3 + 1)


def test_a_trial_that_was_paused_at_a_rung_goes_on_later_and_its_curve_is_that_of_the_run_alone(sweep, monkeypatch):
    from sweeps.study.study_state import StudyState

    promoted, promote = [], StudyState._promote

    def note(self, handle):
        promoted.append(handle.id)
        return promote(self, handle)

    monkeypatch.setattr(StudyState, "_promote", note)
    train = {"checkpoint_every": 1000}  # none is due at a rung
    folder, rows, printed = sweep("promoted", {"slots": 2, "trials": 16, "scheduler": "asha", "grace_steps": 10}, train)
    assert promoted
    last = {trial: reported[-1] for trial, reported in rows.items()}
    assert {row[col.STATUS] for row in last.values()} == {col.COMPLETE, col.PRUNED}
    # The last row of a trial that was given up is there twice: as it was paused, and with its final status.
    by_step = {trial: list({row[col.STEP]: row for row in reported}.values()) for trial, reported in rows.items()}
    assert_each_trial_equals_its_run_alone(folder, by_step)
    for trial, reported in by_step.items():
        steps = [row[col.STEP] for row in reported]
        assert steps == list(range(10, steps[-1] + 10, 10))
        assert reported[-1][col.STATUS] == last[trial][col.STATUS]
        if last[trial][col.STATUS] == col.PRUNED:
            assert not list((folder / "trials" / trial).glob("step-*"))
    assert any(by_step[trial][-1][col.STEP] > 10 for trial in promoted)
    assert "paused" in printed


def test_trials_of_many_shapes_share_the_engines(sweep):
    experiments = [
        {"name": f"{ffn}-{d_ff}", "model.ffn": ffn, "model.d_ff": d_ff}
        for ffn in ("swiglu", "gelu", "relu")
        for d_ff in (64, 96)
    ]
    search = {"method": "experiments", "slots": 2}
    folder, rows, _ = sweep("shapes", search, space={}, experiments=experiments)
    assert {len(reported) for reported in rows.values()} == {4}
    assert len(rows) == 6
    assert_each_trial_equals_its_run_alone(folder, rows)


def engine_process(number):
    """Process id of an engine; Ray's dashboard and ps know it by this title."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in table.splitlines() if f"ray::engine {number}:" in line]
    return int(found[0]) if found else None


def test_an_engine_that_is_killed_takes_nothing_with_it_its_trials_go_on_bitwise_in_the_next(sweep, in_tmp):
    killed = []

    def kill_engine_0():
        metrics = in_tmp / "runs" / "killed" / "metrics.jsonl"
        end = time.monotonic() + 150
        while time.monotonic() < end:
            rows = rows_of(metrics.parent) if metrics.exists() else {}
            begun = any(row[col.ENGINE] == 0 and row[col.STEP] >= 20 for reported in rows.values() for row in reported)
            if begun and (process := engine_process(0)) is not None:  # it has no title between two of them
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_engine_0)
    killer.start()
    folder, rows, _ = sweep("killed", {"slots": 2, "trials": 8}, train={"steps": 400})
    killer.join()
    assert killed
    assert len(rows) == 8
    for reported in rows.values():
        assert [row[col.STEP] for row in reported] == list(range(10, 401, 10))  # every row once, none lost
        assert reported[-1][col.STATUS] == col.COMPLETE
    assert_each_trial_equals_its_run_alone(folder, rows)
