"""The Tune trainable: a light proxy for one trial, which trains in a slot of a worker (`sweeps.engine.worker`).

The proxy asks the worker for row after row and hands each to Tune, so Tune and the study see an ordinary trial. Its
process imports no torch, needs no GPU, and serves one trial after the other (`reuse_actors`).

If the worker dies, the proxy submits the trial again to the one that Ray starts in its place, where it continues from
its newest checkpoint; after `MOVE_AFTER_S` without a worker it submits it to another one. An error of the trial is a
result like any other. What Tune sees as an error is the death of this process, after which it starts another proxy.
"""

import math
import time
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from lmcore import columns as col
from sweeps.cluster.titles import show_in_dashboard
from sweeps.engine.death_count import MAX_DEATHS
from sweeps.engine.worker import SlotWorker

TITLE = "title"
"""In a trial's config: its name for people."""
ERROR = "error"
"""In a result: the text of the error that the trial failed with."""
KNOWN_STEP = "known_step"
"""In a trial's config: step of the last row that the driver has; 0 for a new trial."""
RETRY_S = 1.0
ASK_S, ANSWER_S = 5.0, 10.0
"""A worker that has not returned after `ASK_S` is pinged, and counts as gone if it does not answer in `ANSWER_S`."""
MOVE_AFTER_S = 30.0
"""Longer than a worker takes to start; where its node is lost, there may be no place for it."""


class TrialTrainable(tune.Trainable):
    """Reports the rows of the trial in `config`, which the driver has submitted to the worker `config["engine"]`.

    >>> trainable = tune.with_parameters(TrialTrainable, workers=pool.handles, shared=pool.shared)  # doctest: +SKIP
    >>> tune.Tuner(trainable, ...).fit()  # doctest: +SKIP
    """

    def setup(  # type: ignore[override]  # tune.with_parameters adds arguments
        self, config: dict[str, Any], workers: list[ActorHandle[SlotWorker]], shared: list[Any]
    ) -> None:
        """Take the handles of all workers, and what they are given with each trial."""
        self._workers = workers
        self._shared = shared
        self._me = ray.get_runtime_context().current_actor
        self._gone_since: dict[int, float] = {}  # workers that do not answer
        self._dead: set[int] = set()  # workers that will not be started again
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial."""
        self._trial, self._title, self._run = (new_config[name] for name in (col.TRIAL, TITLE, col.RUN))
        self._number = new_config[col.ENGINE]
        self._step = new_config[KNOWN_STEP]
        self._worker_deaths = 0
        show_in_dashboard(self._title)
        return True

    def step(self) -> dict[str, Any]:
        """Return the trial's next row, or its error. Asking for a row lets the trial train that far."""
        while True:
            worker = self._workers[self._number]
            try:
                row: dict[str, Any] | None = self._wait_for(worker.row.remote(self._trial, self._step, self._me))
                self._gone_since.pop(self._number, None)
                if row is not None:
                    self._step = row[col.STEP]
                    return row | {col.RETRIES: row[col.RETRIES] + self._worker_deaths}
                submitted = worker.submit.remote(self._trial, self._title, self._run, self._shared, self._worker_deaths)
                if not self._wait_for(submitted):
                    return _failed(f"EngineError: the trial was given up after its engine died {MAX_DEATHS} times")
            except ActorDiedError as error:  # Ray could not start it at all
                self._dead.add(self._number)
                if len(self._dead) == len(self._workers):
                    return _failed(str(error))
                self._move()
            except RayTaskError as error:  # the trial's own error
                return _failed(str(error))
            except (RayActorError, GetTimeoutError):
                self._retry_or_move()

    def _wait_for(self, result: Any) -> Any:
        """The result of a call, waited for as long as the worker answers pings.

        A call to a worker that Ray has no place for raises nothing: it waits until there is a place.
        """
        while not ray.wait([result], timeout=ASK_S)[0]:
            ray.get(self._workers[self._number].ping.remote(), timeout=ANSWER_S)
        return ray.get(result)

    def _retry_or_move(self) -> None:
        """Give a worker that is gone time to come back, and after a while choose the next one.

        The driver learns of a move from the rows.
        """
        if self._number not in self._gone_since:
            self._gone_since[self._number] = time.monotonic()
            self._worker_deaths += 1
        elif time.monotonic() - self._gone_since[self._number] > MOVE_AFTER_S:
            self._workers[self._number].release.remote(self._trial, ended=False)  # in case it comes back
            self._move()
        time.sleep(RETRY_S)

    def _move(self) -> None:
        """Choose the next worker that may be alive."""
        count = len(self._workers)
        others = ((self._number + 1 + n) % count for n in range(count))
        self._number = next(number for number in others if number not in self._dead)

    # Tune's own checkpoints are not used: a trial continues from its own folder.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Never called, because `checkpoint_frequency` is 0."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Never called, because there are no checkpoints of Tune's."""


def _failed(error: str) -> dict[str, Any]:
    """The result of a trial that has failed; Tune wants the metric in every result."""
    return {ERROR: error, col.VAL_LOSS: math.nan}
