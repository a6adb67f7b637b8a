"""Which trial gets a free process, and which line of an error is its message."""

from types import SimpleNamespace

import pytest

from lmcore import columns as col
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
