"""The Tune searcher: suggest asks the order for a trial, complete tells that it has left. Nothing is decided here."""

from typing import Any

from ray.tune.search import Searcher

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.disk_full import end_sweep_if_unwritable
from sweeps.study.order import Order
from sweeps.study.trial_handle import TrialHandle
from sweeps.tune.trainable import KNOWN_STEP, TITLE

MAX_REQUEUES = 5  # how often Tune may give up one trial because its proxy's process died, before the trial fails


class StudySearcher(Searcher):
    """A Tune searcher whose every suggestion comes from the sweep's studies.

    Example:
        searcher = StudySearcher(order, engines, callbacks)
        searcher.suggest("tune-id")  # {"trial": "xs-0003", "engine": 0, "known_step": 0, "run": {...}, ...}
    """

    def __init__(self, order: Order, engines: WorkerPool, callbacks: Callbacks) -> None:
        super().__init__(metric=col.VAL_LOSS, mode="min")
        self._order = order
        self._engines = engines
        self._callbacks = callbacks
        order.on_start, order.on_end = callbacks.on_trial_start, self._end
        self._ids: dict[str, str] = {}  # Tune's random trial id -> ours

    @end_sweep_if_unwritable()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray leaves out FINISHED
        """The next trial's config; None while no engine has a free slot, or a paused trial may still go on; FINISHED
        when there are no trials left."""
        sizes = self._order.sizes
        if not sizes:
            self._callbacks.on_idle()
            return None if self._order.more_may_come else Searcher.FINISHED
        if (offer := self._engines.offer(sizes)) is None:
            return None
        engine, size = offer
        live = self._order.start(size)
        self._ids[trial_id] = live.id
        self._engines.submit(live, engine)
        known_step = self._order.known_step(live.id)
        place = {col.ENGINE: engine, KNOWN_STEP: known_step}
        return {col.TRIAL: live.id, TITLE: live.name, col.RUN: live.run, **place}

    @end_sweep_if_unwritable()
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial has left its slot; the scheduler has already set its status."""
        trial = self._ids.pop(trial_id)
        if error and self._order.trains(trial):
            # Tune has given the trial up: its proxy died too often, or while it was reset for its next trial. The trial
            # did nothing wrong.
            self._engines.release(trial, ended=False)
            if self._order.ledger.live[trial].requeues < MAX_REQUEUES:
                self._order.requeue(trial)
                return
            line = f"ActorDiedError: the trial's proxy died again and again, {MAX_REQUEUES} times after a new start"
            self._order.fail(trial, line, line)
        self._order.leave(trial)

    def _end(self, live: TrialHandle) -> None:
        """A trial has ended in the ledger, or waits there."""
        if live.status == col.PRUNED and live.paused_at is not None:
            return  # the search ended with its pause, so it was given up at once, and `Ledger.on_given_up` has said so
        if live.status not in col.UNFINISHED:  # an interrupted or paused trial still needs its checkpoints
            self._engines.release(live.id)
        self._callbacks.on_trial_end(live)

    # Tune pickles its searcher at the start and every few seconds. Ours has no state that the study lacks, and a
    # resumed sweep starts a new Tuner.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass
