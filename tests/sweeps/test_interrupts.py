"""An interrupt that is swallowed is raised again, until the block that it must end has been left."""

import contextlib
import os
import signal
import time

import pytest

from sweeps.cli import interrupts as module
from sweeps.cli.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def interrupts(monkeypatch):
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
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
