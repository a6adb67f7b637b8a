"""`RecordedRuns`: finished runs with their settings and learning curves, wherever they were read from.

`sweeps.recorded.table` reads them from a file, `sweeps.recorded.run_folder` from the folder of a sweep.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RecordedRun:
    """One recorded run.

    >>> run = RecordedRun("a", None, 0, {"optim.lr": 0.01}, np.array([50, 100]), np.array([3.2, 3.0]), 100)
    >>> run.complete, run.diverged
    (True, False)
    """

    id: str
    size: str | None
    """Name of its model size; None if the source has none."""
    seed: int | None
    """Seed of its weights and of the order of its data; None if the source does not tell."""
    setting: dict[str, Any]
    """What distinguishes it, by dotted path."""
    steps: NDArray[np.int64]
    """Updates before each report, ascending, [S]."""
    losses: Array
    """Validation loss of each report in nats per token, NaN once it has diverged, [S]."""
    last_step: int
    """Updates of the whole run, of which it may have made only a part."""
    final_loss: float | None = None
    """Loss of the final evaluation on more windows; None if there was none."""

    @property
    def diverged(self) -> bool:
        """Whether a loss is not a number."""
        return bool(np.isnan(self.losses).any()) or (self.final_loss is not None and np.isnan(self.final_loss))

    @property
    def complete(self) -> bool:
        """Whether it made all updates and did not diverge."""
        return bool(self.steps[-1] >= self.last_step) and not self.diverged

    @property
    def shares(self) -> Array:
        """What part of the run each report comes after, [S]."""
        return np.asarray(self.steps / self.last_step, dtype=float)


@dataclass(frozen=True)
class RecordedRuns:
    """All recorded runs of one source. Each of them has a value for every one of `paths`."""

    source: str
    """Path of the file or folder, as messages show it."""
    paths: tuple[str, ...]
    runs: tuple[RecordedRun, ...]
    steps_known: bool = True
    """Whether `last_step` counts updates; a table of final losses may not say how many there were."""
    vocab_size: int | None = None
    """Tokens in the vocabulary of all runs, if the source tells."""
    notes: tuple[str, ...] = ()
    """What of the source is not used."""

    @property
    def has_curves(self) -> bool:
        """Whether any run has more than its last loss."""
        return any(len(run.steps) > 1 for run in self.runs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that is used of the source."""
        digest = hashlib.sha256(json.dumps(self.paths).encode())
        for run in self.runs:
            values = [run.id, run.size, run.seed, [run.setting[path] for path in self.paths], run.last_step]
            digest.update(json.dumps([*values, repr(run.final_loss)], default=repr).encode())
            digest.update(run.steps.astype("<i8").tobytes())
            digest.update(run.losses.astype("<f8").tobytes())
        return digest.hexdigest()
