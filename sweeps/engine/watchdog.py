"""Looks after the engines and the cluster while a sweep runs, in a thread of the driver.

An engine that answers nothing, or is busy with one interval, for longer than `search.hung_after_s` is killed; Ray
starts it again, and its trials continue from their checkpoints as after any death (`sweeps.tune.trainable`). What an
engine has to say to the user comes this way too. Where the cluster's head is gone nothing can go on: Ray itself would
wait a minute and then end this process without a word of ours.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from sweeps.engine.worker_trial import Heartbeat

PERIOD_S = 1.0
LAST_WORDS_S = 1.0
HEAD_SILENT_S = 8.0
"""Longer than a head that is busy takes to accept a connection."""


class Watchdog:
    """A context in which engines and head are looked after; it may be entered again.

    Args:
        engines: their handles.
        hung_after_s: see `search.hung_after_s`.
        head: host:port of the cluster's control service (GCS).
        say: told what the user should know, in a line.
        end: called once, from the thread, with a line, when the sweep cannot go on: the head has not answered for a
            while, or an engine's disk is full.
    """

    def __init__(
        self,
        engines: Sequence[Any],
        hung_after_s: float,
        head: str,
        say: Callable[[str], None],
        end: Callable[[str], None],
    ) -> None:
        self._engines = engines
        self._hung_after_s = hung_after_s
        self._head = head
        self._say = say
        self._end = end
        self._asked: dict[int, tuple[Any, float]] = {}
        """Of each engine, the question that has no answer yet, and when it was asked."""
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(2 * PERIOD_S)
        # What they had to say since they were last asked; the question that they may not have answered yet comes first.
        questions = [asked for asked, _ in self._asked.values()]
        self._asked.clear()
        with suppress(RayError):
            questions += [engine.heartbeat.remote() for engine in self._engines]
            for answer in ray.wait(questions, num_returns=len(questions), timeout=LAST_WORDS_S)[0]:
                with suppress(RayError):
                    self._pass_on(ray.get(answer))

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._over.wait(PERIOD_S):
            if _answers(self._head):
                answered = time.monotonic()
                for number in range(len(self._engines)):
                    self._look_after(number)
            elif time.monotonic() - answered > HEAD_SILENT_S:
                self._end(f"the Ray cluster at {self._head} is gone")
                return

    def _look_after(self, number: int) -> None:
        engine = self._engines[number]
        now = time.monotonic()
        if number not in self._asked:
            self._asked[number] = engine.heartbeat.remote(self._hung_after_s), now
        answer, asked = self._asked[number]
        busy_s = now - asked
        try:
            if ray.wait([answer], timeout=0)[0]:
                del self._asked[number]
                heartbeat = ray.get(answer)
                busy_s = heartbeat.busy_s
                self._pass_on(heartbeat)
                if heartbeat.full is not None:
                    self._end(heartbeat.full)
            if busy_s > self._hung_after_s:
                self._asked.pop(number, None)
                ray.kill(engine, no_restart=False)
                self._say(f"engine {number} was busy for {busy_s:.0f} s: started again, its trials with it")
        except RayError:  # it is starting again already
            self._asked.pop(number, None)

    def _pass_on(self, heartbeat: Heartbeat) -> None:
        for note in heartbeat.notes:
            self._say(f"Note: {note}")


def _answers(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PERIOD_S).close()
    except OSError:
        return False
    return True
