"""The Tune searcher: suggest asks the ledger for a trial, complete ends it there. Nothing is decided here."""

from typing import Any

from ray.tune.search import Searcher

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.disk_full import end_sweep_if_unwritable
from sweeps.study.ledger import Ledger
from sweeps.tune.trainable import KNOWN_STEP, TITLE

MAX_REQUEUES = 5  # how often Tune may give up one trial because its proxy's process died, before the trial fails


class StudySearcher(Searcher):
    """A Tune searcher whose every suggestion comes from the sweep's studies.

    Example:
        searcher = StudySearcher(ledger, engines, callbacks)
        searcher.suggest("tune-id")  # {"trial": "xs-0003", "engine": 0, "known_step": 0, "run": {...}, ...}
    """

    def __init__(self, ledger: Ledger, engines: WorkerPool, callbacks: Callbacks) -> None:
        super().__init__(metric=col.VAL_LOSS, mode="min")
        self._ledger = ledger
        self._engines = engines
        self._callbacks = callbacks
        self._ids: dict[str, str] = {}  # Tune's random trial id -> ours

    @end_sweep_if_unwritable()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray leaves out FINISHED
        """The next trial's config; None while no engine has a free slot, or a paused trial may still go on; FINISHED
        when there are no trials left."""
        sizes = self._ledger.sizes_left
        if not sizes:
            return None if self._ledger.more_may_come else Searcher.FINISHED
        if (offer := self._engines.offer(sizes)) is None:
            return None
        engine, size = offer
        live = self._ledger.ask(size)
        self._ids[trial_id] = live.id
        self._callbacks.on_trial_start(live)
        self._engines.submit(live, engine)
        known_step = 0 if live.last_row is None else live.last_row[col.STEP]
        place = {col.ENGINE: engine, KNOWN_STEP: known_step}
        return {col.TRIAL: live.id, TITLE: live.name, col.RUN: live.run, **place}

    @end_sweep_if_unwritable()
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End the trial in the ledger, or let it wait there; the scheduler has already set its status."""
        trial = self._ids.pop(trial_id)
        if self._ledger.status(trial) is None:
            return  # it has ended already
        if error and self._ledger.status(trial) == col.RUNNING:
            # Tune has given the trial up: its proxy died too often, or while it was reset for its next trial. The trial
            # did nothing wrong.
            self._engines.release(trial, ended=False)
            if self._ledger.live[trial].requeues < MAX_REQUEUES:
                self._ledger.requeue(trial)
                return
            line = f"ActorDiedError: the trial's proxy died again and again, {MAX_REQUEUES} times after a new start"
            self._ledger.fail(trial, line, line)
        live = self._ledger.end(trial)
        if live.status not in col.UNFINISHED:  # an interrupted or paused trial still needs its checkpoints
            self._engines.release(trial)
        self._callbacks.on_trial_end(live)

    # Tune pickles its searcher at the start and every few seconds. Ours has no state that the study lacks, and a
    # resumed sweep starts a new Tuner.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
