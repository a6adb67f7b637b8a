"""`Latest`: the newest snapshot of a run as bytes, computed only if files changed, and rarely."""

import gzip
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from analysis.dashboard.answer_part import AnswerCache
from analysis.dashboard.snapshot import snapshot
from analysis.runs.driver import driver_of
from analysis.runs.manifest import RunError

FILES = ("manifest.json", "metrics.jsonl", "curves.arrow", "study.db", "study.db-wal", "window_losses.bin")
PAUSE_S = 2.0
"""The shortest time between two looks at the folder."""
BUSY_SHARE = 0.2
"""Largest share of a core that snapshots use on average, so that the sweep on the same machine keeps its cores."""
STALE_S = 30.0
"""After that time a snapshot is computed again, as the time left changes without a report while a driver lives."""
DATABASE_S = 10.0
"""The same if the studies are in a database, whose changes do not show in the folder."""


class Answer(NamedTuple):
    """What the server sends."""

    tag: str
    """A new one for new content, in quotes as an ETag has it."""
    body: bytes
    """JSON, packed with gzip: `analysis.dashboard.snapshot.snapshot`, or `{"error": "why there is none"}`."""


class Latest:
    """The snapshots of one run, for any number of threads.

    >>> latest = Latest(Path("runs/quick"))
    >>> latest.answer().tag == latest.answer().tag
    True
    """

    def __init__(self, folder: Path, storage: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._storage, self._clock = folder, storage, clock
        self._lock, self._answers = threading.Lock(), AnswerCache()
        self._series, self._number = secrets.token_hex(4), 0  # a page that outlives a server sees another series
        self._seen: tuple[Any, ...] | None = None
        self._answer: Answer | None = None
        self._look_at = -float("inf")

    def answer(self) -> Answer:
        """The newest snapshot. A folder that cannot be read gives an answer that says why."""
        with self._lock:
            if self._answer is not None and self._clock() < self._look_at:
                return self._answer
            seen, pause_s = self._fingerprint(), PAUSE_S
            if self._answer is None or seen != self._seen:
                began = time.process_time()
                content = self._content()
                if self._answer is not None:  # imports take most of the first one
                    pause_s = max(PAUSE_S, (time.process_time() - began) / BUSY_SHARE)
                self._number += 1
                body = gzip.compress(json.dumps(content, allow_nan=False, separators=(",", ":")).encode(), 5)
                self._seen, self._answer = seen, Answer(f'"{self._series}-{self._number}"', body)
            self._look_at = self._clock() + pause_s
            return self._answer

    def _content(self) -> dict[str, Any]:
        try:
            return snapshot(self._folder, self._storage, self._answers)
        except RunError as error:
            return {"error": str(error)}
        except Exception as error:  # the next report may well be shown again
            print(f"the page could not be updated: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return {"error": f"the page could not be updated ({type(error).__name__}: {error})"}

    def _fingerprint(self) -> tuple[Any, ...]:
        """Changes whenever the page would."""
        files = []
        for name in FILES:
            try:
                status = os.stat(self._folder / name)
                files.append((status.st_mtime_ns, status.st_size))
            except OSError:
                files.append((0, 0))
        driver = driver_of(self._folder)
        period = DATABASE_S if self._storage is not None else STALE_S if driver.alive else None
        return (*files, driver.alive, driver.pid, None if period is None else self._clock() // period)
