"""A sweep in a thread or a notebook: the process is not its own, and goes on afterwards as it was."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps.cli import interrupts as module
from sweeps.cli.interrupts import Interrupts
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[2]
TINY = """\
model: {d_model: 32, d_ff: 64, num_layers: 1}
train: {steps: 4, eval_every: 2, eval_windows: 4, final_eval_windows: 4}
search: {method: random, trials: 1, scheduler: none}
tracking: {wandb: "off"}
space: {optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""


def in_thread(function):
    """What `function` returns in a thread of its own."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(function()))
    thread.start()
    thread.join()
    [result] = returned
    return result


@pytest.mark.ray
def test_two_sweeps_in_threads_of_one_process_complete_and_leave_its_handlers_and_children_alone(in_tmp):
    (in_tmp / "tiny.yaml").write_text(TINY)
    script = """\
import signal, subprocess, sys, threading
from sweeps.run import main
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
codes = []
for name in ("first", "second"):
    argv = ["--config", "tiny.yaml", "--no-dashboard", "--name", name]
    thread = threading.Thread(target=lambda: codes.append(main(argv)))
    thread.start()
    thread.join()
after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
print("codes", codes, "handlers", after == before, "child", child.poll())
child.kill()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.stdout.splitlines()[-1] == "codes [0, 0] handlers True child None", done.stderr
    assert "Traceback" not in done.stderr


def test_the_handlers_of_a_script_are_as_before_once_main_has_returned(in_tmp):
    before = [signal.getsignal(number) for number in module.SIGNALS]
    assert main(["--config", "quick", "--dry-run"]) == 0
    assert [signal.getsignal(number) for number in module.SIGNALS] == before


def test_an_interactive_python_or_a_thread_makes_a_guest_which_handles_no_signal(monkeypatch):
    def installed():
        interrupts = Interrupts()
        interrupts.install()
        return interrupts

    before = [signal.getsignal(number) for number in module.SIGNALS]
    assert in_thread(installed).guest
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    assert installed().guest
    assert [signal.getsignal(number) for number in module.SIGNALS] == before


def test_a_mistake_on_the_command_line_returns_its_code_to_a_guest_and_does_not_end_it(capsys):
    assert in_thread(lambda: main(["--trials", "many"])) == 2
    assert "--trials" in capsys.readouterr().err
    assert in_thread(lambda: main(["--help"])) == 0


def test_the_interrupt_button_of_a_notebook_counts_as_received(monkeypatch):
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts.repeating():
        raise KeyboardInterrupt
    assert interrupts.exit_code == 130


def test_what_would_exit_at_once_ends_the_guests_thread_even_if_it_swallows_an_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    swallowed = []

    def sweep():
        interrupts = Interrupts()
        interrupts.resume_hint = "; resume with it"
        threading.Timer(0.05, interrupts.exit_now, ("the cluster is gone", 1)).start()
        try:
            with interrupts.repeating():
                while True:
                    try:
                        for _ in range(1000):
                            time.sleep(0.01)
                    except KeyboardInterrupt:
                        swallowed.append(1)
                        if len(swallowed) == 3:
                            raise
        except KeyboardInterrupt:
            time.sleep(0.2)  # nothing more is raised
            return interrupts.exit_code

    assert in_thread(sweep) == 1
    assert len(swallowed) == 3
    assert "\nthe cluster is gone; resume with it\n" in capsys.readouterr().err


def test_a_process_that_has_joined_a_cluster_already_is_refused_in_one_line(in_tmp, monkeypatch, capsys):
    import ray

    (in_tmp / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert main(["--config", "tiny.yaml", "--no-dashboard"]) == 2
    assert capsys.readouterr().err == (
        "ray: a sweep starts or joins Ray itself, and this process has joined a cluster already; call ray.shutdown() "
        "first, or run the sweep in another process\n"
    )
