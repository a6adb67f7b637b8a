"""trials/<id>/ and best/: what is written when a trial begins, and which weights stay when trials end."""

from typing import Any

from lmcore import columns as col
from lmcore.config import RunSpec
from sweeps.rundir.checkpoints import drop_checkpoints, drop_unfinished
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.spec.sweep_spec import dump_yaml
from sweeps.study.ledger import Ledger, TrialHandle

KEPT_PER_SIZE = 3


class TrialFiles:
    """Callback that writes each trial's config, keeps the best three trials' weights per size, and names the winner."""

    def __init__(self, folder: RunFolder, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger

    def catch_up(self) -> None:
        """Do what a driver that was killed may not have come to, for the trials that have ended."""
        for size in self._ledger.studies:
            best = self._ledger.best_run(size)
            if best is not None:
                self._write_best(size, best)
        kept = {trial for size in self._ledger.studies for trial in self._ledger.ranking(size)[:KEPT_PER_SIZE]}
        for trial_id, status in self._ledger.statuses().items():
            if status != col.RUNNING:
                drop = drop_unfinished if trial_id in kept else drop_checkpoints
                drop(self._folder.trial(trial_id))

    def began(self, live: TrialHandle) -> None:
        """Write trials/<id>/run.yaml, a config that trains this trial alone."""
        write_text(self._folder.trial(live.id) / "run.yaml", self._alone(live.experiment or live.id, live.run))

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """The trial's worker has written its checkpoint itself."""

    def ended(self, live: TrialHandle) -> None:
        """Drop the weights that are no longer among the best, and rewrite best/<size>.yaml."""
        if live.status == col.RUNNING:
            return
        if live.error is not None:
            write_text(self._folder.trial(live.id) / "error.txt", live.error)
        # This trial, or the one that it pushed out of the best three.
        ranking = self._ledger.ranking(live.size)
        for trial_id in {live.id, *ranking[KEPT_PER_SIZE : KEPT_PER_SIZE + 1]} - set(ranking[:KEPT_PER_SIZE]):
            drop_checkpoints(self._folder.trial(trial_id))
        if ranking and ranking[0] == live.id:
            self._write_best(live.size, live.run)

    def _write_best(self, size: str, run: RunSpec) -> None:
        write_text(self._folder.best / f"{size}.yaml", self._alone(f"best-{size}", run))

    def _alone(self, name: str, run: RunSpec) -> str:
        return dump_yaml(self._ledger.spec.single(name, run))
