"""The time left is what is still to be trained, with the early stopping that is expected, over the measured speed."""

import optuna
import pytest

from lmcore import columns as col
from lmcore.device import training_flops
from sweeps.callbacks.time_left import Speed, seconds_left
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.work_left import EXPECTED_COUNTS, WorkLeft

STEPS, EVERY = 200, 50


def ledger_of(trials=8, scheduler="asha", storage=None, last_rows=None, **more):
    spec = SweepSpec.model_validate(
        {
            "name": "left",
            "train": {"steps": STEPS, "eval_every": EVERY},
            "search": {"method": "random", "scheduler": scheduler, "trials": trials, "grace_steps": 50},
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
            **more,
        }
    )
    return Ledger(spec, storage or optuna.storages.InMemoryStorage(), last_rows or {})


def row(step, loss):
    return {
        **{col.STEP: step, col.TOKENS: 10 * step, col.TRAIN_LOSS: 4.0, col.VAL_LOSS: loss, col.VAL_LOSS_SE: 0.01},
        **{col.GRAD_NORM: 1.0, col.LR: 1e-3, col.TOKENS_PER_S: 1234.0, col.ELAPSED_S: float(step)},
    }


class Sweep:
    """A ledger whose trials are counted by a WorkLeft."""

    def __init__(self, ledger):
        self.ledger, self.work = ledger, WorkLeft(ledger)

    def ask(self):
        handle = self.ledger.ask(self.ledger.sizes_left[0])
        self.work.start(handle)
        return handle

    def train(self, handle, step, loss):
        if self.ledger.report(handle.id, row(step, loss)) != col.RUNNING:
            ended = self.ledger.end(handle.id)
            if ended.status != col.PAUSED:
                self.work.end(ended)
        return handle

    @property
    def steps_left(self):
        """What is left, in updates of one trial."""
        run = self.ledger.spec.run_for("main", {})
        return self.work.flops / training_flops(run) * STEPS


def test_promotions_leave_what_their_budget_has_left():
    sweep = Sweep(ledger_of())
    # 8 trials to step 50, 4 of them to 100, 2 to 200.
    assert sweep.steps_left == pytest.approx(8 * 50 + 4 * 50 + 2 * 100)
    first, second, third = (sweep.ask() for _ in range(3))
    assert sweep.steps_left == pytest.approx(800)
    sweep.train(first, 50, 3.0)  # goes on
    sweep.train(second, 50, 3.1)  # pauses
    assert sweep.steps_left == pytest.approx(800 - 100)
    sweep.train(first, 100, 2.9)
    sweep.train(third, 50, 3.2)
    assert sweep.steps_left == pytest.approx(800 - 100 - 50 - 50)


def test_nothing_is_left_at_the_end_of_a_search_that_promotes():
    sweep = Sweep(ledger_of(trials=4))
    while not sweep.ledger.over:
        handle = sweep.ask()
        step = 0 if handle.last_row is None else handle.last_row[col.STEP]
        while handle.status == col.RUNNING:
            step += EVERY
            sweep.train(handle, step, 4.0 - step / 100 + handle.trial.number / 10)
    assert sweep.steps_left == 0


def test_without_early_stopping_every_trial_counts_in_full():
    sweep = Sweep(ledger_of(trials=4, scheduler="none"))
    assert sweep.steps_left == pytest.approx(4 * 200)
    first, _ = sweep.ask(), sweep.ask()
    sweep.train(first, 150, 3.0)
    assert sweep.steps_left == pytest.approx(50 + 200 + 2 * 200)
    sweep.train(first, 200, 3.0)
    assert sweep.steps_left == pytest.approx(200 + 2 * 200)


def test_of_trials_that_will_be_stopped_the_expected_share_counts_and_then_what_they_trained():
    sweep = Sweep(ledger_of(trials=4, scheduler="asha-stop"))
    expected = 50 + 50 / 2 + 100 / 4  # half of them go on at 50, half of those at 100
    assert sweep.steps_left == pytest.approx(4 * expected)
    first, second = sweep.ask(), sweep.ask()
    sweep.train(first, 50, 3.0)
    assert sweep.steps_left == pytest.approx((50 + 100 / 2) + expected + 2 * expected)
    sweep.train(second, 50, 3.5)  # stopped
    mean = (EXPECTED_COUNTS * expected + 50) / (EXPECTED_COUNTS + 1)
    assert sweep.ledger.statuses()[second.id] == col.PRUNED
    assert sweep.steps_left == pytest.approx((50 + 100 / 2) + 2 * mean)


def test_confirmation_runs_count_in_full():
    sweep = Sweep(ledger_of(trials=2, scheduler="none", confirm={"top": 1, "seeds": 3}))
    assert sweep.steps_left == pytest.approx((2 + 3) * 200)
    for loss in (3.0, 3.1):
        sweep.train(sweep.ask(), 200, loss)
    assert sweep.steps_left == pytest.approx(3 * 200)
    sweep.train(sweep.ask(), 100, 3.0)
    assert sweep.steps_left == pytest.approx(2 * 200 + 100)


def test_a_resumed_sweep_knows_what_was_trained_before():
    storage = optuna.storages.InMemoryStorage()
    before = Sweep(ledger_of(trials=4, scheduler="none", storage=storage))
    rows = {}
    for step in (200, 100):
        handle = before.ask()
        before.train(handle, step, 3.0)
        rows[handle.id] = row(step, 3.0) | {col.TRIAL: handle.id, col.STATUS: handle.status}
    after = Sweep(ledger_of(trials=4, scheduler="none", storage=storage, last_rows=rows))
    assert after.steps_left == pytest.approx(100 + 2 * 200)
    run = after.ledger.spec.run_for("main", {})
    whole = training_flops(run)
    per_token = whole / (run.tokens_per_step * STEPS)
    assert after.work.done_flops == pytest.approx(2000 * per_token + whole / 2)  # the first row's tokens are made up


def test_the_time_left_is_what_is_left_over_the_speed_of_all_engines():
    speed = Speed(window_s=900.0)
    assert speed.per_s(training=2) is None
    speed.add(now=10.0, amount=1e12, seconds=10.0)
    assert speed.per_s(training=2) == 2e11  # the other trial is as fast
    speed.add(now=20.0, amount=1e12, seconds=20.0)
    assert speed.per_s(training=2) == 1e11  # 2e12 in 20 s
    speed.add(now=20.0, amount=1e12, seconds=10.0)
    assert speed.per_s(training=2) == 1.5e11
    assert seconds_left(6e12, speed.per_s(2)) == 40.0
    assert speed.since_report(now=24.0) == 4.0
    assert seconds_left(6e12, speed.per_s(2), speed.since_report(24.0)) == 36.0
    assert speed.since_report(now=1000.0) == 10.0  # no more than an interval was trained meanwhile


def test_the_speed_is_that_of_the_last_reports():
    speed = Speed(window_s=60.0)
    for now in (10.0, 20.0, 100.0, 110.0):
        speed.add(now, amount=50.0 if now < 50 else 100.0, seconds=10.0)
    assert speed.per_s(training=1) == 10.0


def test_a_time_limit_limits_it_and_is_all_that_is_known_of_as_many_trials_as_fit():
    assert seconds_left(6e12, 1e11, limit=30.0) == 30.0
    assert seconds_left(None, 1e11, limit=30.0) == 30.0
    assert seconds_left(None, 1e11) is None
    assert seconds_left(6e12, None) is None
