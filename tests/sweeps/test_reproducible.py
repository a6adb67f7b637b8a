"""A reproducible sweep in earnest: Ray, engines, checkpoints, kills. Its study and rows are those of any other run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from lmcore import columns as col
from sweeps.recorded.run_folder import read_run_folder
from sweeps.recorded.source import Source
from sweeps.replay import replay
from sweeps.spec.load import load_spec
from sweeps.study.storage import quiet_optuna
from sweeps.study.study_storage import REQUEST

RUN = Path(__file__).resolve().parents[2] / "sweeps" / "run.py"
QUIET = ("--no-dashboard", "--wandb", "off")
TIMED = {*col.PLACE_COLUMNS, col.TOKENS_PER_S, col.ELAPSED_S}
CONCURRENT = 3
CONFIG = f"""\
data: {{source: tokens.npy, vocab_size: 61}}
model: {{d_model: 32, num_layers: 1, d_ff: 64, context_length: 32}}
train: {{steps: 160, eval_every: 20, device: cpu}}
search: {{method: tpe, trials: 8, startup_trials: 3, scheduler: asha, grace_steps: 20, reproducible: true,
  concurrent: {CONCURRENT}}}
space:
  optim.lr: {{low: 1e-4, high: 1e-1, log: true}}
  model.num_layers: {{choices: [1, 2]}}
confirm: {{top: 1, seeds: 1}}
"""


def start(cwd, *arguments):
    """A sweep in a process of its own."""
    output = (cwd / "output.txt").open("a")
    command = [sys.executable, str(RUN), *arguments, *QUIET]
    return subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output, start_new_session=True, env=os.environ)


def finish(process, cwd):
    assert process.wait(timeout=280) == 0, (cwd / "output.txt").read_text()


def rows_of(folder):
    """All rows in the order of the file, without what depends on time and place."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def studies_of(folder):
    """Everything that the studies have, up to times."""
    storage, found = f"sqlite:///{folder}/study.db", {}
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials():
            attributes = dict(trial.user_attrs)
            attributes[col.LAST] = {k: v for k, v in attributes.get(col.LAST, {}).items() if k not in TIMED}
            system = {k: v for k, v in trial.system_attrs.items() if k != REQUEST}
            values = trial.state, trial.values, trial.params, trial.intermediate_values, system
            found[name, trial.number] = values, attributes
    return found


@pytest.fixture
def here(tmp_path):
    """A folder with a sweep's file and its data, a random walk over 61 symbols."""
    steps = np.random.default_rng(0).integers(0, 3, 20_000)
    np.save(tmp_path / "tokens.npy", np.cumsum(steps).astype(np.uint16) % 61)
    (tmp_path / "sweep.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.ray
def test_few_slots_and_many_with_a_killed_driver_make_the_same_sweep_which_its_replay_repeats(here, monkeypatch):
    one, four = here / "runs" / "one", here / "runs" / "four"
    finish(start(here, "--config", "sweep.yaml", "--name", "one", "--set", "search.slots=1"), here)

    killed = start(here, "--config", "sweep.yaml", "--name", "four", "--set", "search.slots=4")
    rows, until = four / "metrics.jsonl", time.monotonic() + 200
    while (len(rows.read_bytes().splitlines()) if rows.exists() else 0) < 12:
        assert killed.poll() is None, (here / "output.txt").read_text()
        assert time.monotonic() < until
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(rows_of(four)) < len(rows_of(one))
    finish(start(here, "--resume", "runs/four"), here)

    assert rows_of(four) == rows_of(one)
    names = dict.fromkeys(studies_of(one))
    assert {(name.replace("one", "four"), number) for name, number in names} == set(studies_of(four))
    assert list(studies_of(four).values()) == list(studies_of(one).values())

    quiet_optuna()
    monkeypatch.chdir(here)
    replayed = replay(load_spec(one / "sweep.yaml"), Source(read_run_folder(one)), slots=CONCURRENT)
    last = {row[col.TRIAL]: row[col.STATUS] for row in rows_of(one)}
    assert {trial.id: trial.status for trial in replayed.trials} == last
    assert [trial.id for trial in replayed.trials if trial.phase == col.SEARCH] == [f"main-{n:04d}" for n in range(8)]
    assert all(trial.recorded for trial in replayed.trials)
