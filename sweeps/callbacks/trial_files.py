"""trials/<id>/ and best/: the config of each trial, the best ones and the next size, and which weights are kept."""

from pathlib import Path

from lmcore import columns as col
from lmcore.config import RunSpec
from sweeps.callbacks.base import Callback
from sweeps.rundir.checkpoints import drop_checkpoints, drop_unfinished
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.rundir.kept_data import kept_fingerprint
from sweeps.spec.arms import REPEATS
from sweeps.spec.sweep_spec import dump_yaml
from sweeps.study.ledger import Ledger
from sweeps.study.trial_handle import TrialHandle

NEXT = "next"
"""Name in best/ of the size that would follow the last one."""
KEPT = 3
"""Trials of a study that keep their weights, or more if more are confirmed; of experiments, one each."""


class TrialFiles(Callback):
    """Callback that writes each trial's config, and keeps the weights of the best trials of each study.

    Example:
        callbacks = Callbacks([TrialFiles(folder, ledger)])
    """

    def __init__(self, folder: RunFolder, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger
        self._kept = max(KEPT, ledger.spec.confirm.top, len(ledger.spec.experiments))
        self._written: dict[str, RunSpec] = {}  # to best/, by size and arm
        self._fingerprint: str | None = None  # of the tokens, once it is known

    def catch_up(self) -> None:
        """On resume, do for the ended trials what the previous driver may have left undone when it was killed."""
        kept: set[str] = set()
        for size in self._ledger.spec.size_names:
            self._write_best(size)
        self._write_next()
        for study in self._ledger.studies:
            kept.update(self._ledger.ranking(study)[: self._kept])
        for trial_id, status in self._ledger.statuses().items():
            if status not in (*col.UNFINISHED, col.EXCLUDED):  # an excluded trial may be included again
                drop = drop_unfinished if trial_id in kept else drop_checkpoints
                drop(self._folder.trial(trial_id))

    def on_trial_start(self, trial: TrialHandle) -> None:
        """Write trials/<id>/run.yaml, a sweep's file that trains this trial alone."""
        name = trial.id if trial.of else trial.experiment or trial.id
        notes = (f"{REPEATS}{trial.of}",) if trial.of else ()
        self._write_run(self._folder.trial(trial.id) / "run.yaml", name, trial.run, notes)

    def on_trial_end(self, trial: TrialHandle) -> None:
        """Delete weights that are no longer among the best, and update best/ and error.txt."""
        if trial.status in col.UNFINISHED:
            return
        if trial.error is not None:
            write_text(self._folder.trial(trial.id) / "error.txt", trial.error)
        # Only this trial, or the one that it displaced from the best, can have weights to delete.
        ranking = self._ledger.ranking(trial.plan.id)
        for trial_id in {trial.id, *ranking[self._kept : self._kept + 1]} - set(ranking[: self._kept]):
            drop_checkpoints(self._folder.trial(trial_id))
        if trial.of is not None or (ranking and ranking[0] == trial.id):
            self._write_best(trial.size)
        if trial.of is None and trial.size == self._ledger.spec.size_names[-1]:
            self._write_next()

    def _write_best(self, size: str) -> None:
        """Write the configs that train the winners of a size again."""
        for name, run in self._ledger.winners(size).items():
            if run != self._written.get(name):
                self._write_run(self._folder.best / f"{name}.yaml", f"best-{name}", run)
                self._written[name] = run

    def _write_next(self) -> None:
        """Write the configs that train the next size at the settings that are predicted for it, one for each arm."""
        for arm, following in self._ledger.next_runs().items():
            name = f"{NEXT}-{arm}" if arm else NEXT
            if following.run != self._written.get(name):
                self._write_run(self._folder.best / f"{name}.yaml", f"best-{name}", following.run, (following.note,))
                self._written[name] = following.run

    def _write_run(self, path: Path, name: str, run: RunSpec, notes: tuple[str, ...] = ()) -> None:
        if self._fingerprint is None:
            self._fingerprint = kept_fingerprint(self._folder.tokens)
        run = run.model_copy(update={"data": run.data.model_copy(update={"fingerprint": self._fingerprint})})
        write_text(path, dump_yaml(self._ledger.spec.single(name, run).model_copy(update={"notes": notes})))
