"""Every result of every trial passes here: recorded, reported to the study, and answered with go on or stop."""

import re
import time
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.text import Text

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.disk_full import end_sweep_if_unwritable
from sweeps.study.ledger import Ledger
from sweeps.tune.trainable import ERROR


class StudyScheduler(FIFOScheduler):
    """A Tune scheduler whose decisions are those of the study's pruner.

    Our trainable never says `done`: a result with done=True would bypass this method. So the last row of a trial comes
    here like every other, and the trial is stopped because its status is no longer running.
    """

    def __init__(self, ledger: Ledger, engines: WorkerPool, callbacks: Callbacks) -> None:
        super().__init__()
        self._ledger = ledger
        self._engines = engines
        self._callbacks = callbacks

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler; the study is the only memory

    @end_sweep_if_unwritable()
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue while the trial is running, else stop."""
        trial_id = trial.config[col.TRIAL]
        if ERROR in result:
            error = Text.from_ansi(result[ERROR]).plain  # Ray colours it
            self._fail(trial_id, error)
            return TrialScheduler.STOP
        known = self._ledger.live[trial_id].last_row
        if known is not None and result[col.STEP] <= known[col.STEP]:
            return TrialScheduler.CONTINUE  # it comes again, after processes or a node died
        row = {name: result[name] for name in (*col.REPORT_COLUMNS, *col.PLACE_COLUMNS) if name in result}
        status = self._ledger.report(trial_id, row)
        row[col.DECIDED_AT] = time.time()
        self._engines.note_worker(trial_id, row[col.ENGINE])
        if status != col.RUNNING:
            self._engines.release(trial_id)  # at once: the next trial trains while this one's end is written down
        self._callbacks.reported(self._ledger.live[trial_id], {col.TRIAL: trial_id, **row})
        return TrialScheduler.CONTINUE if status == col.RUNNING else TrialScheduler.STOP

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits for a process; Tune's own goes through all that have ended as well."""
        live = tune_controller.get_live_trials()
        pending = {trial.config[col.TRIAL]: trial for trial in live if trial.status == Trial.PENDING}
        return next((pending[trial_id] for trial_id in self._ledger.live if trial_id in pending), None)

    @end_sweep_if_unwritable()
    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Its stand-in died. Tune starts another one, or after too many asks the searcher to complete the trial."""
        if not trial.should_recover():
            # Tune's trial.get_error() looks where the file will be copied to later; this is where it has been written.
            self._fail(trial.config[col.TRIAL], Text.from_ansi(Path(trial.error_file).read_text()).plain)

    def _fail(self, trial_id: str, error: str) -> None:
        self._ledger.fail(trial_id, error_line(error), error)
        self._engines.release(trial_id)


def error_line(text: str) -> str:
    """The line of a traceback that names the error: the last `SomethingError: ...`, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b(\(.*\))?:", line)]
    return (named or lines)[-1]
