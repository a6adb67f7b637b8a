"""Which trial gets a free process, and which line of an error is its message."""

from types import SimpleNamespace

import optuna
import pytest
from ray.tune.schedulers import TrialScheduler
from test_ledger import row, spec

from lmcore import columns as col
from sweeps.callbacks.base import Callback, Callbacks
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder
from sweeps.tune import scheduler
from sweeps.tune.scheduler import StudyScheduler, error_line

CUDA = """Failure # 1 (occurred at 2026-01-01)
ray::TrialTrainable.train() (pid=1, ip=10.0.0.1)
torch.AcceleratorError: CUDA error: device-side assert triggered
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: boom\n\n", "ValueError: boom"),
        (CUDA, "torch.AcceleratorError: CUDA error: device-side assert triggered"),
        ("ValueError: first\nDuring handling\nray.exceptions.RayTaskError(KeyError): second\n", "second"),
        ("The actor died unexpectedly before finishing this task.\n", "The actor died"),
    ],
)
def test_the_line_that_names_the_error_is_kept(text, line):
    assert line in error_line(text)


def test_a_free_process_goes_to_a_trial_that_has_none_starting_or_has_waited_long_for_it(monkeypatch):
    now, pending = [100.0], {}
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])
    ended = SimpleNamespace(_stopped_trials=set(), _failed_trials=set())
    controller = SimpleNamespace(get_live_trials=pending.values, _tune_controller=ended)
    chosen_by = StudyScheduler(SimpleNamespace(ledger=SimpleNamespace(live=pending)), None, None)

    def add(name):
        pending[name] = SimpleNamespace(config={col.TRIAL: name}, status="PENDING", trial_id=f"tune-{name}")

    def chosen():
        trial = chosen_by.choose_trial_to_run(controller)
        return trial and trial.config[col.TRIAL]

    add("a")
    add("b")
    assert chosen() == "a"
    assert chosen() is None  # Tune has started a process for both
    now[0] += 25
    add("c")
    assert chosen() == "c"
    assert chosen() is None
    now[0] += 10
    assert chosen() == "a"  # in vain, so far
    pending["a"].status = "RUNNING"
    assert chosen() == "b"


class Engines:
    """A worker pool that notes what it is told about each trial."""

    def __init__(self):
        self.told = []

    def note_worker(self, trial, worker):
        pass

    def pause(self, trial):
        self.told.append(("pause", trial))

    def release(self, trial, ended=True):
        self.told.append(("release", trial))


class Statuses(Callback):
    """Notes the status of each row."""

    def __init__(self):
        self.seen = []

    def on_report(self, trial, row):
        self.seen.append((trial.id, row[col.STEP], trial.status))


def test_a_trial_that_is_paused_is_stopped_for_tune_and_its_worker_is_told_to_keep_it():
    ledger = Ledger(spec("random", trials=2), optuna.storages.InMemoryStorage())
    engines, statuses = Engines(), Statuses()
    answers = StudyScheduler(ArrivalOrder(ledger), engines, Callbacks([statuses]))
    first, second = (ledger.ask("main").id for _ in range(2))

    def answer(trial, step, loss):
        result = {**row(step, loss), col.SLOT: 0, col.ENGINE: 0}
        return answers.on_trial_result(None, SimpleNamespace(config={col.TRIAL: trial}), result)

    assert answer(first, 10, 3.0) == TrialScheduler.CONTINUE
    assert answer(second, 10, 3.5) == TrialScheduler.STOP
    assert answer(second, 10, 3.5) == TrialScheduler.STOP  # repeated: it changes nothing
    assert answer(first, 40, 2.9) == TrialScheduler.STOP
    assert engines.told == [("pause", second), ("release", first)]
    assert statuses.seen == [(first, 10, col.RUNNING), (second, 10, col.PAUSED), (first, 40, col.COMPLETE)]
