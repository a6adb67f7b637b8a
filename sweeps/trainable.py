"""The Tune trainable: one trial on one device, an `lmcore.trainer.Trainer` with a single slot.

A worker process outlives its trials (`reuse_actors`): the next trial is loaded into the slot, or into a new trainer
where its shape differs. Torch is imported here, in the worker, and not in the driver.
"""

from pathlib import Path
from typing import Any

from ray import tune

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.tokens import Tokens
from sweeps.checkpoint_files import checkpoint_file, drop_old_checkpoints
from sweeps.folder import RunFolder

TITLE = "title"  # in a trial's config: what people call it


class TrialTrainable(tune.Trainable):
    """Trains the run in `config["run"]` and reports a row per interval; checkpoints go to the run's folder."""

    def setup(self, config: dict[str, Any], tokens: Tokens, folder: str) -> None:
        """`tokens` come from Ray's object store: read-only arrays that all workers of a node share."""
        self._tokens = tokens
        self._folder = RunFolder(Path(folder))
        self._trainer: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        from lmcore.trainer import Trainer

        run = RunSpec.model_validate(new_config[col.RUN])
        self._trial, self._title = new_config[col.TRIAL], new_config[TITLE]
        if self._trainer is not None and self._trainer.pack_key == run.pack_key:
            self._trainer.load_slot(0, run)
        else:
            self._trainer = None  # frees the old trainer's memory before the new one takes its own
            self._trainer = Trainer([run], self._tokens)
        return True

    def step(self) -> dict[str, Any]:
        """Train one interval, save, report."""
        show_in_dashboard(self._title)
        row = self._trainer.advance()[0]
        self._save_if_due()
        return row

    def _save_if_due(self) -> None:
        slot = self._trainer.slots[0]
        every = slot.run.train.checkpoint_every or 1
        before = slot.step - slot.run.train.eval_every
        if slot.finished or slot.step // every > before // every:
            trial_folder = self._folder.trial(self._trial)
            self._trainer.save_slot(0, checkpoint_file(trial_folder, slot.step))
            drop_old_checkpoints(trial_folder)

    # Tune's own checkpoints are not used: a trial continues from its folder, under its own id.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks for none (`checkpoint_frequency` is 0)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Tune gives none."""


def show_in_dashboard(title: str) -> None:
    """Name this worker's process after its present trial: Ray's dashboard and `ps` show process titles.

    An actor's own name is fixed when it is made, and these actors serve one trial after the other.
    """
    from ray._raylet import setproctitle

    setproctitle(f"ray::{title}")
