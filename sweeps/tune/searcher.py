"""Ray Tune's questions, asked of the ledger: suggest = ask, complete = tell. Nothing is decided here."""

from typing import Any

from ray.tune.search import Searcher

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.disk_full import end_sweep_if_unwritable
from sweeps.study.ledger import Ledger
from sweeps.tune.trainable import KNOWN_STEP, TITLE

MAX_REQUEUES = 5  # times of one trial; with more of them something kills its stand-ins on purpose


class StudySearcher(Searcher):
    """A Tune searcher whose every suggestion comes from the sweep's studies."""

    def __init__(self, ledger: Ledger, engines: WorkerPool, callbacks: Callbacks) -> None:
        super().__init__(metric=col.VAL_LOSS, mode="min")
        self._ledger = ledger
        self._engines = engines
        self._callbacks = callbacks
        self._ids: dict[str, str] = {}  # Tune's random trial id -> ours

    @end_sweep_if_unwritable()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, `{"trial": "xs-0003", "engine": 0, ...}`; None while no engine has a free slot."""
        sizes = self._ledger.sizes_left
        if not sizes:
            return Searcher.FINISHED
        offer = self._engines.offer(sizes)
        if offer is None:
            return None
        engine, size = offer
        live = self._ledger.ask(size)
        self._ids[trial_id] = live.id
        self._callbacks.began(live)
        self._engines.submit(live, engine)
        known_step = 0 if live.last_row is None else live.last_row[col.STEP]
        place = {col.ENGINE: engine, KNOWN_STEP: known_step}
        return {col.TRIAL: live.id, TITLE: live.name, col.RUN: live.run.model_dump(), **place}

    @end_sweep_if_unwritable()
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study; the scheduler has already said how the trial ended."""
        trial = self._ids.pop(trial_id)
        if error and self._ledger.live[trial].status == col.RUNNING:
            # Tune starts another stand-in for one that died, but not where it died as it was handed over from a trial
            # to the next: that trial it gives up, for no fault of its own.
            self._engines.release(trial, ended=False)
            if self._ledger.live[trial].requeues < MAX_REQUEUES:
                self._ledger.requeue(trial)
                return
            message = f"ActorDiedError: the trial's stand-in died {MAX_REQUEUES + 1} times as it was handed over"
            self._ledger.fail(trial, message, message)
        live = self._ledger.end(trial)
        if live.status != col.RUNNING:  # an interrupted trial will want its checkpoints, which an engine drops
            self._engines.release(trial)
        self._callbacks.ended(live)

    # Tune pickles its searcher at the start and snapshots it every few seconds; ours has nothing that the study lacks.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a fresh Tuner asks the study."""
