"""The trial proxy with scripted workers, without Ray: what it submits, reports and gives up."""

import math
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from lmcore import columns as col
from sweeps.engine.death_count import MAX_DEATHS
from sweeps.engine.environment_fault import MAX_FAULTS, EnvironmentFaultError
from sweeps.engine.roster import EngineGoneError
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
    """Makes a proxy of trial xs-0002 on worker 0; its clock runs by its own pauses. None is a worker that is gone."""
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
        def handle(number):
            if workers[number] is None:
                raise EngineGoneError(number)
            return workers[number]

        numbers = [number for number, worker in enumerate(workers) if worker is not None]
        monkeypatch.setattr(trainable, "engine_handle", handle)
        monkeypatch.setattr(trainable, "engine_numbers", lambda: numbers)
        made = TrialTrainable.__new__(TrialTrainable)
        config = {col.TRIAL: "xs-0002", TITLE: "xs-0002", col.RUN: {}, col.ENGINE: 0, KNOWN_STEP: 0}
        made.shared = []
        made.setup(config)
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


@pytest.mark.parametrize("lost", [None, ScriptedWorker(ActorDiedError())])
def test_a_trial_leaves_a_worker_that_is_lost_for_good_at_once(proxy, lost):
    other = ScriptedWorker(None, ROW)
    assert proxy(lost, None, other).step() == {col.STEP: 5, col.RETRIES: 0}
    assert other.submitted == [0]


def given_back(well):
    return RayTaskError("row", "traceback", EnvironmentFaultError("OSError: [Errno 5]", engine_is_well=well))


def test_a_trial_that_unfit_workers_give_back_goes_on_elsewhere_however_often(proxy):
    unfit = [ScriptedWorker(given_back(well=False)) for _ in range(MAX_FAULTS + 1)]
    assert proxy(*unfit, ScriptedWorker(None, ROW)).step() == {col.STEP: 5, col.RETRIES: 0}
    assert [worker.released for worker in unfit] == [[("xs-0002", False)]] * len(unfit)


def test_a_trial_that_workers_give_back_although_they_are_well_fails_in_the_end(proxy):
    result = proxy(*(ScriptedWorker(given_back(well=True)) for _ in range(MAX_FAULTS))).step()
    assert result[ERROR] == f"EngineError: {MAX_FAULTS} engines gave the trial back (OSError: [Errno 5])"


def test_an_error_of_the_trials_own_is_a_result_whatever_its_type(proxy):
    result = proxy(ScriptedWorker(RayTaskError("row", "ValueError: bad", ValueError("bad")))).step()
    assert "ValueError: bad" in result[ERROR]
