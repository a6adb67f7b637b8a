"""The Tune scheduler: records every result, reports it to the study, and answers with continue or stop."""

import re
import time
from typing import Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.text import Text

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.disk_full import end_sweep_if_unwritable
from sweeps.study.order import Order
from sweeps.study.trial_handle import TrialHandle
from sweeps.tune.ended_trials import forget_ended
from sweeps.tune.lost_nodes import proxy_resources
from sweeps.tune.trainable import ERROR

PROCESS_STARTS_WITHIN_S = 30.0  # unless there is no room for it; Tune stops one that is starting when it is overtaken


class StudyScheduler(FIFOScheduler):
    """A Tune scheduler that stops the trials that the ledger stops or pauses, or whose turn has not come. One of the
    latter that goes on is a new trial to Tune.

    Our trainable never sets `done`, because a result with done=True bypasses `on_trial_result`.

    Example:
        tune.TuneConfig(search_alg=StudySearcher(order, engines, callbacks),
                        scheduler=StudyScheduler(order, engines, callbacks))
    """

    def __init__(self, order: Order, engines: WorkerPool, callbacks: Callbacks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._order = order
        self._engines = engines
        self._callbacks = callbacks
        order.on_row, order.on_wait = self._record, self._wait
        self._process_asked_at: dict[str, float] = {}  # by Tune's trial id

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its scheduler; ours has no state that the study lacks."""
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial is about to get a proxy."""
        trial.update_resources(proxy_resources(self._engines))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial's proxy died, and it is about to get another one, or goes back to the queue."""
        trial.update_resources(proxy_resources(self._engines))

    @end_sweep_if_unwritable()
    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the row; `CONTINUE` while the trial is running, else `STOP`."""
        trial_id = trial.config[col.TRIAL]
        if not self._order.trains(trial_id):
            return TrialScheduler.STOP  # a verdict is final: this row was repeated, or comes too late
        if ERROR in result:
            self._fail(trial_id, result[ERROR])
            return TrialScheduler.STOP
        if result[col.STEP] <= self._order.known_step(trial_id):
            return TrialScheduler.CONTINUE  # a row repeated after a process or node died
        made = (*col.REPORT_COLUMNS, *col.WINDOW_COLUMNS, col.POINTS, col.BRANCHES)
        columns = (*made, *col.PLACE_COLUMNS, *col.ENGINE_COLUMNS)
        row = cast(Row, {name: result[name] for name in columns if name in result})
        self._engines.note_worker(trial_id, row[col.ENGINE])
        goes_on = self._order.report(trial_id, row)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def _record(self, handle: TrialHandle, row: Row) -> None:
        """A row was decided on: free the trial's slot if it does not go on, and record the row."""
        row[col.DECIDED_AT] = time.time()
        if handle.status == col.PAUSED:
            self._engines.pause(handle.id)
        elif handle.status != col.RUNNING:
            self._engines.release(handle.id)  # first, so that the next trial trains while this one's end is written
        self._callbacks.on_report(handle, {col.TRIAL: handle.id, **row})

    def _wait(self, handle: TrialHandle, ends: bool) -> None:
        """Free the slot of a trial until a row of it is decided on; one that `ends` then needs no checkpoint."""
        if ends:
            self._engines.release(handle.id)
        else:
            self._engines.pause(handle.id)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The pending trial that gets the process of a trial that has just ended.

        First a trial that has waited long for a process of its own: if a node was lost, there may be no room to start
        one. Then a trial that Tune has not started one for. Otherwise none: `TuneController` hands the freed actor to
        the chosen trial, and removes the actor that was starting for that trial.
        """
        forget_ended(tune_controller)  # here, because Tune calls this once for every event, when none is being handled
        now = time.monotonic()
        live: list[Trial] = tune_controller.get_live_trials()
        by_id = {trial.config[col.TRIAL]: trial for trial in live if trial.status == Trial.PENDING}
        pending = [by_id[trial_id] for trial_id in self._order.ledger.live if trial_id in by_id]
        new = [trial for trial in pending if trial.trial_id not in self._process_asked_at]
        asked = {trial.trial_id: now for trial in new} | self._process_asked_at
        self._process_asked_at = {trial.trial_id: asked[trial.trial_id] for trial in live if trial.trial_id in asked}
        asked_before = now - PROCESS_STARTS_WITHIN_S
        overdue = [trial for trial in pending if self._process_asked_at[trial.trial_id] < asked_before]
        return next(iter(overdue + new), None)

    def _fail(self, trial_id: str, error: str) -> None:
        error = Text.from_ansi(error).plain  # Ray colours it
        self._order.fail(trial_id, error_line(error), error)
        self._engines.release(trial_id)


def error_line(text: str) -> str:
    """The line of a traceback that names the error: the last `SomethingError: ...`, or else the last line.

    >>> error_line("Traceback (most recent call last):\\n  File x\\nValueError: boom\\n")
    'ValueError: boom'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b(\(.*\))?:", line)]
    return (named or lines)[-1]
