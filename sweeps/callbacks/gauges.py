"""What a sweep's metrics are, computed from the report rows. How they reach Prometheus is in `ray_metrics`."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.params import flops_per_token
from sweeps.callbacks.base import Callback
from sweeps.spec.arms import StudyPlan
from sweeps.study.ledger import Ledger
from sweeps.study.trial_handle import TrialHandle

STUDY = (col.SIZE, col.ARM)


class Metric(NamedTuple):
    """One metric: Prometheus calls it `ray_lmsweep_<name>`, followed by `_total` if it is a counter."""

    name: str
    description: str
    tags: tuple[str, ...] = ()
    """Labels besides `sweep`. None has more values than the sweep has studies, engines or statuses."""
    counter: bool = False


BEST_LOSS = Metric("best_val_loss", "Lowest validation loss of a complete search trial, nats per token.", STUDY)
VAL_LOSS = Metric("val_loss", "Validation loss of the newest report that has a finite one, nats per token.", STUDY)
TRIALS = Metric("trials", "Number of trials by status; running ones include queued ones.", (*STUDY, col.STATUS))
PLANNED = Metric("trials_planned", "Number of trials that the sweep will have, as far as is known.")
SLOTS = Metric("slots", "Number of trials that can train at a time.")
SLOTS_IN_USE = Metric("slots_in_use", "Number of trials that have a slot.")
PEAK = Metric("peak_flops_per_second", "FLOP/s of matrix products, measured when the sweep began.", (col.ENGINE,))
CHECKPOINT = Metric("checkpoint_seconds", "Time that the engine's newest checkpoint took to write.", (col.ENGINE,))
MEMORY = Metric("device_memory_bytes", "Memory that the engine holds on its GPU, or in RAM on a CPU.", (col.ENGINE,))
TOKENS = Metric("tokens", "Tokens trained on.", (*STUDY, col.ENGINE), counter=True)
FLOPS = Metric("flops", "Training FLOPs, forward and backward.", (*STUDY, col.ENGINE), counter=True)
REFILLS = Metric("refills", "How often a slot went from one trial to the next.", (col.ENGINE,), counter=True)
METRICS = (
    *(BEST_LOSS, VAL_LOSS, TRIALS, PLANNED, SLOTS, SLOTS_IN_USE, PEAK, CHECKPOINT, MEMORY),
    *(TOKENS, FLOPS, REFILLS),
)

Best = dict[str, tuple[float, str]]  # lowest loss of the search so far and the id of its trial, by size and arm
Sample = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its tags, and its value."""


class Gauges(Callback):
    """Callback that keeps the current value of every metric.

    Args:
        slots: returns how many trials can train at a time.
        planned: returns how many trials there will be, or None if nobody knows.
        best: returns the lowest loss of the search by study.
        studies: size and arm of each study, by the prefix of its trials' ids.
        statuses: on resume, the status of each trial that was handed out, by id.
        peaks: FLOP/s of matrix products of each engine; None where unknown.

    Example:
        gauges = Gauges(lambda: 4, lambda: 16, lambda: {}, {"xs": ("xs", "")}, {}, [1e11])
        for metric, tags, value in gauges.samples():
            print(metric.name, tags, value)
    """

    def __init__(
        self,
        slots: Callable[[], int],
        planned: Callable[[], int | None],
        best: Callable[[], Best],
        studies: dict[str, tuple[str, str]],
        statuses: dict[str, str],
        peaks: list[float | None],
    ) -> None:
        self._slots = slots
        self._planned = planned
        self._best = best
        self._studies = studies
        self._values: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._tokens: dict[str, int] = {}  # of the newest row, by running trial
        self._paused = {trial_id for trial_id, status in statuses.items() if status == col.PAUSED}
        self._occupants: dict[tuple[int, int], str] = {}  # newest trial, by engine and slot
        for engine, peak in enumerate(peaks):
            if peak is not None:
                self._set(PEAK, (str(engine),), peak)
        for study in studies.values():
            for status in col.STATUSES:
                self._set(TRIALS, (*study, status), 0)
        for trial_id, status in statuses.items():
            if status != col.RUNNING:  # the others will be handed out again
                self._add(TRIALS, (*studies[trial_id.rpartition("-")[0]], status), 1)

    def on_trial_start(self, trial: TrialHandle) -> None:
        self._tokens[trial.id] = 0 if trial.last_row is None else trial.last_row[col.TOKENS]
        self._leave_pause(trial)
        self._add(TRIALS, (*_study(trial.plan), col.RUNNING), 1)

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Count the tokens since the trial's last row, and note what the row says of its engine."""
        study, engine = _study(trial.plan), str(row[col.ENGINE])
        tokens = row[col.TOKENS] - self._tokens.get(trial.id, 0)
        self._tokens[trial.id] = row[col.TOKENS]
        self._add(TOKENS, (*study, engine), tokens)
        self._add(FLOPS, (*study, engine), float(flops_per_token(trial.run.model)) * tokens)
        if math.isfinite(row[col.VAL_LOSS]):
            self._set(VAL_LOSS, study, row[col.VAL_LOSS])
        self._set(CHECKPOINT, (engine,), row.get(col.CHECKPOINT_S))
        self._set(MEMORY, (engine,), row.get(col.DEVICE_BYTES))
        place = row[col.ENGINE], row[col.SLOT]
        if self._occupants.setdefault(place, trial.id) != trial.id:
            self._occupants[place] = trial.id
            self._add(REFILLS, (engine,), 1)

    def on_trial_end(self, trial: TrialHandle) -> None:
        self._tokens.pop(trial.id, None)
        if not self._leave_pause(trial):
            self._add(TRIALS, (*_study(trial.plan), col.RUNNING), -1)
        if trial.status != col.RUNNING:
            self._add(TRIALS, (*_study(trial.plan), trial.status), 1)
        if trial.status == col.PAUSED:
            self._paused.add(trial.id)

    def _leave_pause(self, trial: TrialHandle) -> bool:
        """Count the trial as paused no more; False if it was not."""
        if trial.id not in self._paused:
            return False
        self._paused.remove(trial.id)
        self._add(TRIALS, (*_study(trial.plan), col.PAUSED), -1)
        return True

    def samples(self) -> Iterator[Sample]:
        """The current values. Called from another thread than the other methods."""
        running = sum(value for (metric, tags), value in self._now() if metric is TRIALS and tags[-1] == col.RUNNING)
        slots = self._slots()
        yield SLOTS, (), slots
        yield SLOTS_IN_USE, (), min(running, slots)
        if (planned := self._planned()) is not None:
            yield PLANNED, (), planned
        for study, (loss, _) in self._best().items():
            yield BEST_LOSS, self._studies[study], loss
        for (metric, tags), value in self._now():
            yield metric, tags, value

    def _now(self) -> list[tuple[tuple[Metric, tuple[str, ...]], float]]:
        return list(self._values.items())

    def _set(self, metric: Metric, tags: tuple[str, ...], value: float | None) -> None:
        """Set a gauge; None, for what is not known yet, changes nothing."""
        if value is not None:
            self._values[metric, tags] = value

    def _add(self, metric: Metric, tags: tuple[str, ...], value: float) -> None:
        self._values[metric, tags] = self._values.get((metric, tags), 0) + value


def gauges_of(ledger: Ledger, slots: Callable[[], int], peaks: list[float | None]) -> Gauges:
    """The gauges of a sweep that is about to run, or to be resumed. `slots` is as for `Gauges`."""
    studies = {state.plan.id: _study(state.plan) for state in ledger.studies.values()}
    return Gauges(slots, lambda: ledger.planned, lambda: ledger.best_losses, studies, ledger.statuses(), peaks)


def _study(plan: StudyPlan) -> tuple[str, str]:
    """Size and arm; an arm is empty where none are compared."""
    return plan.size, plan.arm.name or ""
