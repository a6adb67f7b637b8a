"""The trials of a sweep, run to their end on workers that are ready."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.callbacks.compiled_speed import CompiledSpeed
from sweeps.callbacks.curve_file import CurveFile
from sweeps.callbacks.gauges import gauges_of
from sweeps.callbacks.last_trials import LastTrials
from sweeps.callbacks.metrics_file import RowFile
from sweeps.callbacks.progress import Progress
from sweeps.callbacks.ray_metrics import exported
from sweeps.callbacks.row_times import RowTimes
from sweeps.callbacks.tracking import Tracking
from sweeps.callbacks.trial_files import TrialFiles
from sweeps.callbacks.utilization import Utilization
from sweeps.callbacks.window_file import WindowFile
from sweeps.cli.alive import Alive
from sweeps.cli.interrupts import NOTHING_TO_SAVE, Interrupts
from sweeps.cli.output import plain_lines
from sweeps.cli.timings import Timings
from sweeps.engine.pool import WorkerPool
from sweeps.engine.watchdog import Watchdog
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.study.compile_decision import MODE
from sweeps.study.early_rows import EarlyRows
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder, Order
from sweeps.study.trial_handle import TrialHandle
from sweeps.study.virtual_order import VirtualOrder
from sweeps.tune.tuner import tune_all

STOP_S = 12.0
"""How long workers may take to finish their intervals after Ctrl-C; the whole shutdown then takes less than 30 s."""
STOP_WANDB_S = 8.0
MOST_S = 30
"""How long the whole shutdown may take."""
SAVED = "all trials are saved"


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    statuses: dict[str, str]
    """Status of each trial, by id."""
    seconds: float
    """Wall-clock time of the trials, without Ray's start."""

    @property
    def exit_code(self) -> int:
        """0 if any trial completed, else 1."""
        return 0 if col.COMPLETE in self.statuses.values() else 1


def run_trials(
    ledger: Ledger,
    pool: WorkerPool,
    watchdog: Watchdog,
    folder: RunFolder,
    console: Console,
    interrupts: Interrupts,
    record: Mapping[str, Any],
    concurrent: int,
    timings: Timings,
    on_last_trials: Callable[[], None] = lambda: None,
    flops_per_s: float | None = None,
    speed: CompiledSpeed | None = None,
) -> Outcome:
    """Run the ledger's trials, at most `concurrent` at a time, and stop the workers.

    At the end, `record` (the manifest) is written again with the utilization of the workers, and with their `speed`.
    `flops_per_s` is how fast they are expected to train, all together. `timings` are told when the first and the last
    trial trained. `on_last_trials` is called when a slot is idle for the first time.
    """
    say = plain_lines(console)
    order, early = _order(ledger, folder)
    rows, curves, windows = RowFile(folder.metrics), CurveFile(folder), WindowFile(folder)
    files = TrialFiles(folder, ledger)
    files.catch_up()
    times, last = RowTimes(), LastTrials(on_last_trials)
    utilization = Utilization(len(pool.ready))
    gauges = gauges_of(ledger, lambda: pool.capacity[0], record["hardware"]["peak_flops_per_s"])
    tracking = Tracking(folder, ledger.spec.tracking, folder.metrics.stat().st_size)
    began = time.monotonic()
    try:
        with (
            Progress.of(ledger, console, lambda: pool.capacity, flops_per_s) as progress,
            exported(gauges, folder, ledger.spec.tracking.metrics),
        ):
            # A row that is in metrics.jsonl is not repeated, so what else is written of it comes before.
            interrupts.at_stake = lambda: saving(progress.training)
            measures = [utilization] if speed is None else [utilization, speed]
            callbacks = Callbacks([curves, windows, rows, files, *measures, gauges, progress, times, last])

            def give_up(trial: TrialHandle) -> None:
                pool.release(trial.id)  # its checkpoint may still be being written, and is deleted next
                callbacks.on_trial_end(trial)

            ledger.on_given_up = give_up
            timings.mark("trials_begin")
            with watchdog, interrupts.repeating():
                while not ledger.over:  # a trial may have been requeued after the last one was asked for
                    tune_all(order, pool, callbacks, folder, concurrent)
        timings.mark("trials_ended")
        if early is not None:
            early.remove()
        pool.stop(STOP_S)  # checkpoints may still be being written
        for line in ledger.why_stopped():
            say(line)
    finally:
        seconds = time.monotonic() - began
        interrupted = interrupts.received is not None
        if interrupted:
            with Alive(console, "saving the trials that were running"):
                stopped = pool.stop(STOP_S)
            if not stopped:
                say(f"An interval did not finish within {STOP_S:.0f} s; it will be repeated.")
        interrupts.at_stake = lambda: SAVED
        pool.close()
        for file in (rows, curves, windows):
            file.close()
        if early is not None:
            early.close()
        with Alive(console, "writing the last results"):
            problem = tracking.finish(STOP_WANDB_S) if interrupted else tracking.finish()
        for line in [problem] if problem else tracking.hints():
            say(line)
        if utilization.share is not None:
            say(f"Until the last trial started, engines trained {utilization.share:.0%} of the time")
            record = {**record, "utilization": utilization.share}
        if speed is not None:
            record = {**record, MODE: {**record[MODE], "tokens_per_s": speed.tokens_per_s}}
        if ledger.planned is not None:
            most = ledger.planned - ledger.excluded_confirmations  # excluded runs are in no table
            record = {**record, "search": {**record["search"], "most_trials": most}}
        timings.mark("trackers_ended")
        for stage, unix_s in times.stages.items():
            timings.mark(stage, unix_s)
        write_json(folder.manifest, record)
    return Outcome(ledger.statuses(), seconds)


def _order(ledger: Ledger, folder: RunFolder) -> tuple[Order, EarlyRows | None]:
    """In which order the sweep's rows are decided on, and where those are kept whose turn has not come."""
    search = ledger.spec.search
    if not search.reproducible:
        return ArrivalOrder(ledger), None
    early = EarlyRows(folder.early)
    return VirtualOrder(ledger, count=search.virtual_slots, journal=early, arrived=early.read()), early


def saving(trials: int) -> str:
    """What a stop does now, for the user.

    >>> saving(4), saving(0)
    ('saving 4 trials, up to 30 s', 'no trial is being trained')
    """
    if not trials:
        return NOTHING_TO_SAVE
    return f"saving {trials} trial{'s' if trials > 1 else ''}, up to {MOST_S} s"


def ended_statuses(ledger: Ledger) -> list[str]:
    """Statuses of the trials that have ended."""
    return [status for status in ledger.statuses().values() if status not in col.UNFINISHED]
