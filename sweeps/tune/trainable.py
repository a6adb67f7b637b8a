"""The Tune trainable: a light stand-in for one trial, which trains in a slot of an engine (`sweeps.engine.worker`).

It forwards the engine's rows one by one, and Tune and the study see an ordinary single trial. Its process imports no
torch, needs no GPU, and outlives its trials (`reuse_actors`). When its engine dies, it enters the trial again in the
engine that Ray starts in its place, or in another one where Ray has no place, and there it continues from its newest
checkpoint. The trial's own error is a result
like any other: what Tune hears as an error is that this process died, after which it starts another one.
"""

import math
import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError

from lmcore import columns as col
from sweeps.cluster.ray_cluster import show_in_dashboard
from sweeps.engine.worker_trial import YOUR_TURN

TITLE = "title"  # in a trial's config: what people call it
ERROR = "error"  # in a result: the text of the error that the trial failed of
KNOWN_STEP = "known_step"  # of the last row that the driver has; 0 for a trial that begins
ENGINE_LIVES = 3  # that a trial may take without a new row: one that keeps killing its engine must not do so for ever
RETRY_S = 1.0
ASK_S, ANSWER_S = 5.0, 10.0
MOVE_AFTER_S = 30.0  # longer than an engine takes to start: where its node is lost, there may be no place for it


class TrialTrainable(tune.Trainable):
    """Reports the rows of the trial in `config`, which the driver has sent to the engine `config["engine"]`."""

    def setup(self, config: dict[str, Any], engines: list[Any], shared: list[Any]) -> None:
        """`engines` are the handles of all engines, `shared` what they are given with a trial."""
        self._engines = engines
        self._me = ray.get_runtime_context().current_actor
        self._shared = shared
        self._gone_since: dict[int, float] = {}  # engines that do not answer
        self._dead: set[int] = set()  # engines that will not be started again
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stand for another trial."""
        self._trial, self._title, self._run = (new_config[name] for name in (col.TRIAL, TITLE, col.RUN))
        self._number = new_config[col.ENGINE]
        self._step = new_config[KNOWN_STEP]
        self._deaths = 0  # of its engines
        self._blamed = 0  # deaths since the last row that may have been this trial's doing
        self._told = True  # whether it was training, as far as is known, when its engine died
        show_in_dashboard(self._title)
        return True

    def step(self) -> dict[str, Any]:
        """The trial's next row, or its error; asking for a row is what lets the trial go on."""
        while True:
            try:
                engine = self._engines[self._number]
                row = self._answer(engine, engine.row.remote(self._trial, self._step, self._told, self._me))
                self._gone_since.pop(self._number, None)
                if row == YOUR_TURN:
                    self._told = True
                elif row is not None:
                    self._step = row[col.STEP]
                    self._blamed = 0
                    return row | {col.RETRIES: row[col.RETRIES] + self._deaths}
                else:
                    enter = engine.enter.remote(self._trial, self._title, self._run, self._shared, self._deaths)
                    self._answer(engine, enter)
                    self._told = self._deaths == 0
            except ActorDiedError as error:  # Ray could not start it at all
                self._dead.add(self._number)
                if len(self._dead) == len(self._engines):
                    return _failed(str(error))
                self._move()
            except RayTaskError as error:  # the trial's own
                return _failed(str(error))
            except GetTimeoutError:
                self._wait_or_move(time.monotonic() - ANSWER_S)
            except RayActorError:
                self._wait_or_move(time.monotonic())
            if self._blamed > ENGINE_LIVES:
                return _failed(f"EngineError: the trial was given up after its engine died {self._blamed} times")

    @staticmethod
    def _answer(engine: Any, asked: Any) -> Any:
        """What was asked of an engine, waited for as long as it answers anything at all.

        A question to an engine that Ray has no place for raises nothing: it waits until there is one.
        """
        while not ray.wait([asked], timeout=ASK_S)[0]:
            ray.get(engine.ping.remote(), timeout=ANSWER_S)
        return ray.get(asked)

    def _wait_or_move(self, since: float) -> None:
        """Give the engine, gone since then at least, time to come back; after a while go to the next one.

        Rows tell the driver so.
        """
        if self._number not in self._gone_since:
            self._gone_since[self._number] = since
            self._deaths += 1
            self._blamed += self._told
            self._told = False
        elif time.monotonic() - self._gone_since[self._number] > MOVE_AFTER_S:
            self._engines[self._number].leave.remote(self._trial, ended=False)  # should it come back
            self._move()
        time.sleep(RETRY_S)

    def _move(self) -> None:
        """To the next engine that may live."""
        numbers = range(self._number + 1, self._number + 1 + len(self._engines))
        living = [number % len(self._engines) for number in numbers if number % len(self._engines) not in self._dead]
        self._number = living[0]

    # Tune's own checkpoints are not used: a trial continues from its folder, under its own id.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks for none (`checkpoint_frequency` is 0)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Tune gives none."""


def _failed(error: str) -> dict[str, Any]:
    """A result of a trial that has failed; Tune wants the metric in every one."""
    return {ERROR: error, col.VAL_LOSS: math.nan}
