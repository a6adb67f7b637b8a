"""The Tune trainable: a light proxy for one trial, which trains in a slot of a worker (`sweeps.engine.worker`).

The proxy asks the worker for row after row and hands each to Tune, so Tune and the study see an ordinary trial. Its
process imports no torch, needs no GPU, and serves one trial after the other (`reuse_actors`).

If the worker's process dies, the proxy submits the trial again to the one that Ray starts in its place, where it
continues from its newest checkpoint. If the worker is lost with its node, is unfit, or does not answer for
`MOVE_AFTER_S`, the proxy submits the trial to another one. An error of the trial is a result like any other. What Tune
sees as an error is the death of this process, after which it starts another proxy.
"""

import math
import time
from contextlib import suppress
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from lmcore import columns as col
from sweeps.cluster.titles import show_in_dashboard
from sweeps.engine.death_count import MAX_DEATHS
from sweeps.engine.environment_fault import MAX_FAULTS, EnvironmentFaultError
from sweeps.engine.roster import EngineGoneError, engine_handle, engine_numbers

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
"""How long to wait for a worker whose process is gone: longer than it takes to start again."""


class TrialTrainable(tune.Trainable):
    """Reports the rows of the trial in `config`, which the driver has submitted to the worker `config["engine"]`.

    >>> trainable = type("TrialTrainable", (TrialTrainable,), {"shared": pool.shared})  # doctest: +SKIP
    >>> tune.Tuner(trainable, ...).fit()  # doctest: +SKIP
    """

    shared: list[Any]
    """What workers are given with each trial (`sweeps.engine.worker.Shared`)."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the trial in `config`."""
        self._me = ray.get_runtime_context().current_actor
        self._gone_since: dict[int, float] = {}  # workers that do not answer
        self._handles: dict[int, Any] = {}
        self.reset_config(config)

    def __repr__(self) -> str:
        """What Ray's log writes before each line. Ray asks once, and a proxy serves many trials, so it names none."""
        return "trial proxy"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial."""
        self._trial, self._title, self._run = (new_config[name] for name in (col.TRIAL, TITLE, col.RUN))
        self._number = new_config[col.ENGINE]
        self._step = new_config[KNOWN_STEP]
        self._worker_deaths = 0
        self._faults = 0  # workers that gave the trial back although they are well
        show_in_dashboard(self._title)
        return True

    def step(self) -> dict[str, Any]:
        """Return the trial's next row, or its error. Asking for a row lets the trial train that far."""
        while True:
            try:
                worker = self._worker()
                row: dict[str, Any] | None = self._wait_for(worker.row.remote(self._trial, self._step, self._me))
                self._gone_since.pop(self._number, None)
                if row is not None:
                    self._step = row[col.STEP]
                    return row | {col.RETRIES: row[col.RETRIES] + self._worker_deaths}
                submitted = worker.submit.remote(self._trial, self._title, self._run, self.shared, self._worker_deaths)
                if not self._wait_for(submitted):
                    return _failed(f"EngineError: the trial was given up after its engine died {MAX_DEATHS} times")
            except (ActorDiedError, EngineGoneError):  # it will not be started again
                self._move()
            except RayTaskError as error:
                cause = error.cause
                if not isinstance(cause, EnvironmentFaultError):  # the trial's own error
                    return _failed(str(error))
                self._faults += cause.engine_is_well
                if self._faults >= MAX_FAULTS:
                    return _failed(f"EngineError: {MAX_FAULTS} engines gave the trial back ({cause})")
                self._leave()
            except (RayActorError, GetTimeoutError):
                self._retry_or_move()

    def _worker(self) -> Any:
        """The worker's actor handle. Raises EngineGoneError if it is gone for good."""
        if self._number not in self._handles:
            self._handles[self._number] = engine_handle(self._number)
        return self._handles[self._number]

    def _wait_for(self, result: Any) -> Any:
        """The result of a call, waited for as long as the worker answers pings.

        A call to a worker that Ray has no place for raises nothing: it waits until there is a place.
        """
        while not ray.wait([result], timeout=ASK_S)[0]:
            ray.get(self._worker().ping.remote(), timeout=ANSWER_S)
        return ray.get(result)

    def _retry_or_move(self) -> None:
        """Give a worker that is gone time to come back, and after a while choose the next one."""
        if self._number not in self._gone_since:
            self._gone_since[self._number] = time.monotonic()
            self._worker_deaths += 1
        elif time.monotonic() - self._gone_since[self._number] > MOVE_AFTER_S:
            self._leave()
        time.sleep(RETRY_S)

    def _leave(self) -> None:
        """Take the trial from its worker and choose another one."""
        with suppress(EngineGoneError):
            self._worker().release.remote(self._trial, ended=False)  # in case it comes back
        self._move()

    def _move(self) -> None:
        """Choose the next worker that may be alive. The driver learns of it from the rows."""
        self._handles.pop(self._number, None)
        numbers = engine_numbers()
        later = [number for number in numbers if number > self._number]
        self._number = next(iter(later + numbers), self._number)
        time.sleep(RETRY_S)  # without another worker, until the driver has one

    # Tune's own checkpoints are not used: a trial continues from its own folder.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Never called, because `checkpoint_frequency` is 0."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Never called, because there are no checkpoints of Tune's."""


def _failed(error: str) -> dict[str, Any]:
    """The result of a trial that has failed; Tune wants the metric in every result."""
    return {ERROR: error, col.VAL_LOSS: math.nan}
