"""A signal is answered at once; it is raised again if it is swallowed, until the block that it must end was left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.cli import interrupts as module
from sweeps.cli.interrupts import Interrupts

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def interrupts(monkeypatch):
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    interrupts.restore()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_swallowed_interrupt_is_raised_again_until_the_block_is_left(interrupts, number):
    swallowed = []

    def swallow_three():
        with interrupts.repeating():
            while len(swallowed) < 3:
                try:
                    if not swallowed:
                        os.kill(os.getpid(), number)
                    time.sleep(5)
                except KeyboardInterrupt as stop:
                    swallowed.append(stop)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        swallow_three()
    assert len(swallowed) == 3
    assert interrupts.received == number
    assert interrupts.exit_code == 128 + number
    time.sleep(0.2)  # nothing is raised any more, so cleaning up is not interrupted


def test_outside_the_block_an_interrupt_is_raised_once(interrupts):
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    time.sleep(0.2)


def test_a_hangup_that_is_ignored_stays_so_as_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ignoring = Interrupts()
        ignoring.install()
        ignoring.install()  # after ray.init
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.1)
        assert ignoring.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        ignoring.restore()
        signal.signal(signal.SIGHUP, before)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def test_a_second_hangup_ends_nothing_at_once(interrupts):
    # A shell that ends sends one to its jobs, and so does the system.
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(5)
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.1)
    assert interrupts.exit_code == 129


BLOCKED = """
import ctypes, signal
from sweeps.cli.interrupts import Interrupts

interrupts = Interrupts()
interrupts.say = lambda line: print(line, flush=True)
interrupts.at_stake = lambda: "saving 4 trials, up to 30 s"
interrupts.resume_hint = "; resume with it"
interrupts.install()
# The signal reaches another thread, so the call below is not interrupted and no handler runs.
signal.pthread_sigmask(signal.SIG_BLOCK, interrupts._previous)
print("ready", flush=True)
ctypes.CDLL(None).sleep(20)
"""


@pytest.fixture
def blocked():
    """A process whose main thread is in a call that does not return for 20 s; it has installed its handlers."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", BLOCKED], env=environment, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("number", "again"),
    [
        (signal.SIGINT, "; Ctrl-C again ends now"),
        (signal.SIGTERM, "; SIGTERM again ends now"),
        (signal.SIGHUP, ""),  # which comes more than once by itself
    ],
)
def test_a_signal_is_answered_at_once_though_the_main_thread_is_blocked(blocked, number, again):
    began = time.monotonic()
    blocked.send_signal(number)
    assert blocked.stdout.readline() == f"stopping: saving 4 trials, up to 30 s{again}\n"
    assert time.monotonic() - began < 5  # of 20; some milliseconds, but machines may be busy


def test_a_second_signal_ends_the_process_at_once_though_the_main_thread_is_blocked(blocked):
    blocked.send_signal(signal.SIGINT)
    assert blocked.stdout.readline().startswith("stopping: ")
    began = time.monotonic()
    blocked.send_signal(signal.SIGINT)
    assert blocked.wait(10) == 130
    assert time.monotonic() - began < 5  # of 20; some milliseconds, but machines may be busy
    assert blocked.stderr.read() == "\nstopped at once; resume with it\n"


def test_one_signal_is_answered_once_however_often_it_is_raised_again(interrupts):
    said = []
    interrupts.say = said.append

    def swallow_one():
        with interrupts.repeating():
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        swallow_one()
    time.sleep(0.1)
    assert said == ["stopping: no trial is being trained; Ctrl-C again ends now"]


def test_a_guest_is_told_what_happens_but_not_to_press_again(monkeypatch):
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    said = []
    guest = Interrupts()
    guest.say, guest.at_stake = said.append, lambda: "saving 1 trial, up to 30 s"
    with pytest.raises(KeyboardInterrupt), guest.repeating():
        raise KeyboardInterrupt
    assert said == ["stopping: saving 1 trial, up to 30 s"]


def test_after_restore_the_wakeup_file_is_the_one_before():
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        ours = Interrupts()
        ours.install()
        ours.install()  # after ray.init
        ours.restore()
        assert signal.set_wakeup_fd(write) == write
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
