"""The trial proxy with scripted workers, without Ray: what it submits, reports and gives up."""

import math
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError

from lmcore import columns as col
from sweeps.engine.death_count import MAX_DEATHS
from sweeps.tune import trainable
from sweeps.tune.trainable import ERROR, KNOWN_STEP, TITLE, TrialTrainable

ROW = {col.STEP: 5, col.RETRIES: 0}


class ScriptedWorker:
    """Answers each call for a row with the next of `rows`, the last one for ever; an exception is raised."""

    def __init__(self, *rows, accepts=True):
        self.rows, self.accepts = list(rows), accepts
        self.submitted, self.released = [], []

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *args, **options: getattr(self, f"call_{method}")(*args, **options))

    def call_row(self, trial, step, proxy):
        return self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]

    def call_submit(self, trial, title, run, shared, worker_deaths):
        self.submitted.append(worker_deaths)
        return self.accepts

    def call_release(self, trial, ended):
        self.released.append((trial, ended))


@pytest.fixture
def proxy(monkeypatch):
    """Makes a proxy of trial xs-0002 on worker 0; its clock runs by its own pauses."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    def get(result, timeout=None):
        if isinstance(result, Exception):
            raise result
        return result

    actor = SimpleNamespace(current_actor="me")
    fake = SimpleNamespace(get=get, wait=lambda calls, timeout: (calls, []), get_runtime_context=lambda: actor)
    monkeypatch.setattr(trainable, "ray", fake)
    monkeypatch.setattr(trainable, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    monkeypatch.setattr(trainable, "show_in_dashboard", lambda title: None)

    def make(*workers):
        made = TrialTrainable.__new__(TrialTrainable)
        config = {col.TRIAL: "xs-0002", TITLE: "xs-0002", col.RUN: {}, col.ENGINE: 0, KNOWN_STEP: 0}
        made.setup(config, workers=list(workers), shared=[])
        return made

    return make


def test_a_trial_whose_worker_died_is_submitted_again_and_its_rows_count_the_deaths(proxy):
    died = RayActorError()
    worker = ScriptedWorker(died, died, None, ROW, died, None, ROW | {col.STEP: 10})
    trial = proxy(worker)
    assert trial.step() == {col.STEP: 5, col.RETRIES: 1}
    assert trial.step() == {col.STEP: 10, col.RETRIES: 2}
    assert worker.submitted == [1, 2]


def test_a_trial_that_the_worker_refuses_fails_with_the_reason(proxy):
    result = proxy(ScriptedWorker(None, accepts=False)).step()
    assert result[ERROR] == f"EngineError: the trial was given up after its engine died {MAX_DEATHS} times"
    assert math.isnan(result[col.VAL_LOSS])


@pytest.mark.parametrize("gone", [RayActorError(), GetTimeoutError()])
def test_a_trial_whose_worker_does_not_come_back_moves_to_the_next_one(proxy, gone):
    lost, other = ScriptedWorker(gone), ScriptedWorker(None, ROW)
    assert proxy(lost, other).step()[col.RETRIES] == 1
    assert other.submitted == [1]
    assert lost.released == [("xs-0002", False)]


def test_a_worker_that_cannot_be_started_is_not_tried_again_and_without_any_the_trial_fails(proxy):
    dead, alive = ScriptedWorker(ActorDiedError()), ScriptedWorker(None, ROW)
    assert proxy(dead, alive).step()[col.STEP] == 5
    assert ERROR in proxy(dead, ScriptedWorker(ActorDiedError())).step()
