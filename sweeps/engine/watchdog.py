"""Watches the workers and the cluster while a sweep runs, in a thread of the driver.

A worker that answers nothing, or is busy with one interval, for longer than `search.hung_after_s` is killed. Ray starts
it again, and its trials continue from their checkpoints as after any death (`sweeps.tune.trainable`). Heartbeats also
bring the workers' notes for the user. Between them, the pool lets engines come and go (`sweeps.engine.pool`).

If the cluster's head is gone, the sweep is ended here: Ray would wait for a minute and then end this process without a
message of ours.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from sweeps.cluster.nodes import accepts_connections
from sweeps.engine.pool import WorkerPool
from sweeps.engine.worker_trial import Heartbeat

PERIOD_S = 1.0
LAST_HEARTBEAT_S = 1.0
HEAD_SILENT_S = 8.0
"""Longer than a busy head takes to accept a connection."""


class Watchdog:
    """A context in which the workers and the head are watched; it may be entered again.

    Args:
        pool: the workers.
        hung_after_s: see `search.hung_after_s`.
        head: host:port of the cluster's control service (GCS).
        say: called with each line that the user should see.
        end: called once, from the thread, with the reason, when the sweep cannot continue: the head is gone, or a
            worker's disk is full, or no worker is left.

    >>> with Watchdog(pool, 600.0, cluster.head, say=print, end=interrupts.end):  # doctest: +SKIP
    ...     tuner.fit()
    """

    def __init__(
        self,
        pool: WorkerPool,
        hung_after_s: float,
        head: str,
        say: Callable[[str], None],
        end: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._hung_after_s = hung_after_s
        self._head = head
        self._say = say
        self._end = end
        self._pending: dict[int, tuple[Any, float]] = {}
        """By worker: the heartbeat that was asked for, and when."""
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(2 * PERIOD_S)
        # Collect the notes since the last heartbeat; a pending heartbeat may hold some as well.
        heartbeats = [heartbeat for heartbeat, _ in self._pending.values()]
        self._pending.clear()
        with suppress(RayError):
            heartbeats += [worker.heartbeat.remote() for worker in self._pool.ready.values()]
            for heartbeat in ray.wait(heartbeats, num_returns=len(heartbeats), timeout=LAST_HEARTBEAT_S)[0]:
                with suppress(RayError):
                    self._say_notes(ray.get(heartbeat))

    def _watch(self) -> None:
        head_seen = time.monotonic()
        while not self._over.wait(PERIOD_S):
            host, _, port = self._head.rpartition(":")
            if accepts_connections(host, int(port), PERIOD_S):
                head_seen = time.monotonic()
                for number, worker in self._pool.ready.items():
                    self._check(number, worker)
                if (reason := self._pool.tend()) is not None:
                    self._end(reason)
                    return
            elif time.monotonic() - head_seen > HEAD_SILENT_S:
                self._end(f"the Ray cluster at {self._head} is gone")
                return

    def _check(self, number: int, worker: Any) -> None:
        now = time.monotonic()
        if number not in self._pending:
            self._pending[number] = worker.heartbeat.remote(self._hung_after_s), now
        pending, asked_at = self._pending[number]
        busy_s = now - asked_at
        try:
            if ray.wait([pending], timeout=0)[0]:
                del self._pending[number]
                heartbeat = ray.get(pending)
                busy_s = heartbeat.busy_s
                self._say_notes(heartbeat)
                if heartbeat.disk_full is not None:
                    self._end(heartbeat.disk_full)
                if heartbeat.unfit is not None:
                    self._pool.retire(number, heartbeat.unfit)
            if busy_s > self._hung_after_s:
                self._pending.pop(number, None)
                ray.kill(worker, no_restart=False)
                self._say(f"engine {number} was busy for {busy_s:.0f} s: started again, its trials with it")
        except RayError:  # Ray is restarting it already
            self._pending.pop(number, None)

    def _say_notes(self, heartbeat: Heartbeat) -> None:
        for note in heartbeat.notes:
            self._say(f"Note: {note}")
