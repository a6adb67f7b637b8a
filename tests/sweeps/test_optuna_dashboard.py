"""The real optuna-dashboard opens the studies of a sweep as they are, finished or not."""

import json
import math
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest

from lmcore import columns as col
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

DASHBOARD = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent)) or shutil.which("optuna-dashboard")
SPEC = {
    "name": "shown",
    "train": {"steps": 40, "eval_every": 10},
    "search": {"method": "random", "trials": 10, "scheduler": "asha"},
    "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.tie_embeddings": {"choices": [False, True]}},
    "compare": ["model.tie_embeddings"],
    "confirm": {"top": 1, "seeds": 1},
}


def row(step, loss):
    values = dict.fromkeys((col.TRAIN_LOSS, col.VAL_LOSS, col.FINAL_VAL_LOSS), loss)
    return values | {col.STEP: step, col.TOKENS: step * 2048, col.ELAPSED_S: float(step), col.TOKENS_PER_S: 100.0}


@pytest.fixture
def address(tmp_path):
    """The dashboard on a sweep's study.db: the first trial diverged, others have every status, and one is running."""
    if DASHBOARD is None:
        pytest.skip("optuna-dashboard is not installed")
    quiet_optuna()
    ledger = Ledger(SweepSpec.model_validate(SPEC), optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db"))
    losses = iter([math.nan, 3.5, 3.4, 5.0, 5.1, 3.3, 3.2])
    for loss in losses:
        trial = ledger.ask("main")
        for step in (10, 20, 30, 40):
            if ledger.report(trial.id, row(step, loss)) != col.RUNNING:
                break
        ledger.end(trial.id)
    failed = ledger.ask("main")
    ledger.fail(failed.id, "ValueError: boom", "Traceback")
    ledger.end(failed.id)
    ledger.report(ledger.ask("main").id, row(10, 4.0))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = subprocess.Popen([DASHBOARD, f"sqlite:///{tmp_path}/study.db", "--port", str(port), "--quiet"])
    yield f"http://127.0.0.1:{port}/api"
    process.terminate()
    process.wait(20)


def fetch(url):
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < end, "the dashboard does not answer"
            time.sleep(0.2)


def test_it_shows_every_study_with_its_trials_and_names_what_is_minimized(address):
    studies = {study["study_name"]: study["study_id"] for study in fetch(f"{address}/studies")["study_summaries"]}
    assert list(studies) == ["main-untied", "main-tied", "main-untied/confirm", "main-tied/confirm"]
    shown = [fetch(f"{address}/studies/{studies[name]}") for name in ("main-untied", "main-tied")]
    trials = [trial for study in shown for trial in study["trials"]]
    attributes = [{one["key"]: one["value"] for one in trial["user_attrs"]} for trial in trials]
    by_status = {attribute.get(col.STATUS, col.RUNNING): n for n, attribute in enumerate(attributes)}
    assert set(by_status) == {col.COMPLETE, col.PRUNED, col.DIVERGED, col.FAILED, col.RUNNING}
    states = {status: trials[n]["state"] for status, n in by_status.items()}
    assert states == {
        col.COMPLETE: "Complete",
        col.PRUNED: "Pruned",
        col.DIVERGED: "Complete",
        col.FAILED: "Fail",
        col.RUNNING: "Running",
    }
    # A trial that diverged is infeasible, so it is neither the best nor hides the line of best values.
    diverged = trials[by_status[col.DIVERGED]]
    assert (diverged["values"], diverged["constraints"]) == (["inf"], [1.0])
    complete = [trial for n, trial in enumerate(trials) if attributes[n].get(col.STATUS) == col.COMPLETE]
    assert all(trial["constraints"] == [0.0] for trial in complete)
    assert attributes[by_status[col.FAILED]][col.MESSAGE] == "ValueError: boom"
    assert "nan" in attributes[by_status[col.DIVERGED]][col.MESSAGE]
    sortable = {one["key"] for study in shown for one in study["union_user_attrs"] if one["sortable"]}
    assert {col.PARAMS_EXACT, col.PLANNED_FLOPS, col.TRAIN_FLOPS, col.STEP, col.TOKENS} <= sortable
    assert {attribute[col.SIZE] for attribute in attributes} == {"main"}
    assert {attribute[col.ARM] for attribute in attributes} == {"untied", "tied"}
    for study in shown:
        assert study["objective_names"] == ["validation loss (nats per token)"]
        finite = [trial["values"][0] for trial in study["trials"] if trial["constraints"] == [0.0] and trial["values"]]
        assert [best["values"][0] for best in study["best_trials"]] == [
            min(loss for loss in finite if loss in (3.5, 3.4, 3.3, 3.2))
        ]
