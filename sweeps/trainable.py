"""The Tune trainable: a light stand-in for one trial, which trains in a slot of an engine (`sweeps.engine`).

It forwards the engine's rows one by one, and Tune and the study see an ordinary single trial. Its process imports no
torch, needs no GPU, and outlives its trials (`reuse_actors`). When its engine dies, it enters the trial again in the
engine that Ray starts in its place, where it continues from its newest checkpoint.
"""

import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorDiedError, RayActorError

from lmcore import columns as col
from sweeps.titles import show_in_dashboard

TITLE = "title"  # in a trial's config: what people call it
KNOWN_STEP = "known_step"  # of the last row that the driver has; 0 for a trial that begins
ENGINE_LIVES = 3  # that a trial may see; one that keeps killing its engine must not kill its neighbours for ever
RETRY_S = 1.0


class TrialTrainable(tune.Trainable):
    """Reports the rows of the trial in `config`, which the driver has sent to the engine `config["engine"]`."""

    def setup(self, config: dict[str, Any], engines: list[Any], shared: list[Any]) -> None:
        """`engines` are the handles of all engines, `shared` what they are given with a trial."""
        self._engines = engines
        self._shared = shared
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stand for another trial."""
        self._trial, self._title, self._run = (new_config[name] for name in (col.TRIAL, TITLE, col.RUN))
        self._engine = self._engines[new_config[col.ENGINE]]
        self._step = new_config[KNOWN_STEP]
        self._lives: set[int] = set()
        show_in_dashboard(self._title)
        return True

    def step(self) -> dict[str, Any]:
        """The trial's next row; asking for it is what lets the trial go on."""
        while True:
            try:
                row = ray.get(self._engine.row.remote(self._trial, self._step))
                if row is not None:
                    self._step = row[col.STEP]
                    return row
                entered = self._engine.enter.remote(self._trial, self._title, self._run, self._shared)
                self._lives.add(ray.get(entered))
            except ActorDiedError:
                raise  # for good: Ray could not start it
            except RayActorError:
                time.sleep(RETRY_S)
            if len(self._lives) > ENGINE_LIVES:
                raise RuntimeError(f"EngineError: the trial was given up after its engine died {ENGINE_LIVES} times")

    # Tune's own checkpoints are not used: a trial continues from its folder, under its own id.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks for none (`checkpoint_frequency` is 0)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Tune gives none."""
