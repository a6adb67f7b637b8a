"""An interrupt that is swallowed is raised again, until the block that it must end has been left."""

import contextlib
import os
import signal
import time

import pytest

from sweeps.cli import interrupts as module
from sweeps.cli.interrupts import Interrupts


@pytest.fixture
def interrupts(monkeypatch):
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    time.sleep(0.2)  # nothing is raised any more, so cleaning up is not interrupted


def test_outside_the_block_an_interrupt_is_raised_once(interrupts):
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    time.sleep(0.2)
