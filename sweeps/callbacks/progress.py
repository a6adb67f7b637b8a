"""Progress of a sweep: on a terminal a bar and a table that redraw themselves, elsewhere plain lines."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lmcore import columns as col
from lmcore.branches import updates_by
from lmcore.columns import Row
from lmcore.config import flatten
from lmcore.measure.window_difference import clustered_difference
from lmcore.params import flops_per_token
from sweeps.callbacks.base import Callback
from sweeps.callbacks.progress_view import BEST_STYLE, STYLES, Best, RunningTrial, Snapshot, summary, view
from sweeps.callbacks.time_left import Speed, seconds_left
from sweeps.study.ledger import Ledger
from sweeps.study.trial_handle import TrialHandle
from sweeps.study.work_left import WorkLeft

LINE_EVERY_S = 15.0
SPEED_WINDOW_S = 60.0
FLOPS_WINDOW_S = 900.0
"""The time left follows from the speed of the last quarter of an hour, as in `lmsweep status`: engines come and go."""
COUNT_EVERY_S = 1.0
"""How often it is counted how much is left, which takes longer the more trials there are."""


class Progress(Callback):
    """Callback that shows trials done and running, the best loss of each size, tokens/s and the time left.

    Example:
        with Progress.of(ledger, Console(), capacity=lambda: (4, 2)) as progress:
            callbacks = Callbacks([progress])
    """

    def __init__(
        self,
        console: Console,
        planned: Callable[[], int | None],
        capacity: Callable[[], tuple[int, int]],
        ended: Iterable[str] = (),
        best: Iterable[Best] = (),
        work: WorkLeft | None = None,
        flops_per_s: float | None = None,
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """`capacity` returns how many trials can train at a time, and how many more can wait for a slot.

        `planned` returns how many trials there will be, as far as is known, or None. On resume, `ended` are the
        statuses of the trials that ended earlier, and `best` are the best of them.

        `work` counts what is left to train, and `flops_per_s` is how fast that is expected to go, until it is known;
        `limit` returns the seconds that search.time leaves.
        """
        self._console = console
        self._planned = planned
        self._capacity = capacity
        self._running: dict[str, RunningTrial] = {}
        statuses = list(ended)
        ends = [status for status in (*col.STATUSES, col.EXCLUDED) if status not in col.UNFINISHED]
        self._counts = {status: statuses.count(status) for status in ends}
        self._paused: set[str] = set()
        self._best = {one.study: one for one in best}
        self._best_windows: dict[str, list[float] | None] = {}
        self._known: dict[str, tuple[int, float]] = {}  # tokens and seconds of the newest row, by running trial
        self._tokens, self._flops = Speed(SPEED_WINDOW_S), Speed(FLOPS_WINDOW_S)
        self._work, self._expected, self._limit = work, flops_per_s, limit
        self._flops_left: float | None = None
        self._next_count = -math.inf
        self._slots = 0
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=2, transient=True)

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        console: Console,
        capacity: Callable[[], tuple[int, int]],
        flops_per_s: float | None = None,
    ) -> "Progress":
        """The progress of a sweep that is about to run, or to be resumed."""
        ended = [status for status in ledger.statuses().values() if status not in col.UNFINISHED]
        experiments = ledger.best_experiments
        best = [Best(study, loss, t, experiments.get(study)) for study, (loss, t) in ledger.best_losses.items()]
        limit = ledger.deadline
        return cls(
            *(console, lambda: ledger.planned, capacity, ended, best, WorkLeft(ledger), flops_per_s),
            lambda: limit.seconds_left,
        )

    def __enter__(self) -> "Progress":
        self._count()
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    @property
    def training(self) -> int:
        """How many trials train now."""
        return min(len(self._running), self._slots)

    def on_trial_start(self, trial: TrialHandle) -> None:
        self._running[trial.name] = RunningTrial(trial.name, trial.run.steps)
        self._paused.discard(trial.id)
        row = trial.last_row
        self._known[trial.id] = (0, 0.0) if row is None else (_tokens(trial, row), row[col.ELAPSED_S])
        if self._work is not None:
            self._work.start(trial)
        self._count()

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Count the tokens since the trial's last row; without a terminal, print a summary every LINE_EVERY_S."""
        now = time.monotonic()
        tokens, seconds = self._known.get(trial.id, (0, 0.0))
        self._known[trial.id] = _tokens(trial, row), row[col.ELAPSED_S]
        tokens, seconds = _tokens(trial, row) - tokens, row[col.ELAPSED_S] - seconds
        flops = float(flops_per_token(trial.run.model)) * tokens
        self._tokens.add(now, tokens, seconds)
        self._flops.add(now, flops, seconds)
        if self._work is not None:
            self._work.done_flops += flops
        self._running[trial.name] = RunningTrial(trial.name, trial.run.steps, row)  # type: ignore[arg-type]
        self._count(now)
        if not self._console.is_interactive and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self._console.out(summary(self.snapshot()), highlight=False)

    def on_trial_end(self, trial: TrialHandle) -> None:
        self._running.pop(trial.name, None)
        if trial.status == col.RUNNING:
            return
        if trial.status == col.PAUSED:
            self._paused.add(trial.id)
        else:
            self._paused.discard(trial.id)
            self._known.pop(trial.id, None)
            self._counts[trial.status] += 1
            if self._work is not None:
                self._work.end(trial)
        self._print_end(trial)
        if trial.status == col.COMPLETE and trial.of is None and trial.last_row is not None:
            loss, study = col.quoted_loss(trial.last_row), trial.plan.id
            if study not in self._best or loss < self._best[study].loss:
                self._best[study] = Best(study, loss, trial.id, trial.experiment)
                self._best_windows[study] = trial.last_row.get(col.WINDOW_LOSSES)
        self._count()

    def _count(self, now: float | None = None) -> None:
        """Count what is left to train, at most every COUNT_EVERY_S. In the main thread, as the studies change there."""
        now = time.monotonic() if now is None else now
        if now < self._next_count:
            return
        self._next_count = now + COUNT_EVERY_S
        self._slots = self._capacity()[0]
        if self._work is not None:
            self._flops_left = self._work.flops

    def _print_end(self, trial: TrialHandle) -> None:
        """Say how a trial ended, in a line, or on a terminal in lines that wrap between words."""
        name, status, detail = _end(trial)
        detail += self._against_best(trial)
        if not self._console.is_interactive:
            # `out` prints text as it is: a message may contain what rich takes for markup, such as `[/x]`.
            self._console.out(f"{name:<8} {status:<8} {detail}", highlight=False)
            return
        grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        grid.add_column(no_wrap=True, min_width=8)
        grid.add_column(no_wrap=True, min_width=8)
        grid.add_column()
        best = self._best.get(trial.plan.id)
        leads = trial.status == col.COMPLETE and trial.of is None and trial.last_row is not None
        leads = leads and (best is None or col.quoted_loss(trial.last_row) < best.loss)  # type: ignore[arg-type]
        grid.add_row(Text(name), Text(status, STYLES.get(status, "")), Text(detail, BEST_STYLE if leads else ""))
        self._console.print(grid)

    def _against_best(self, trial: TrialHandle) -> str:
        """A complete trial's loss minus that of the best one before it, on the windows that both were evaluated on.

        Twice the standard error follows, which does not cover what another seed would change.
        """
        before = self._best_windows.get(trial.plan.id)
        row = trial.last_row
        windows = None if row is None or trial.of is not None else row.get(col.WINDOW_LOSSES)
        if trial.status != col.COMPLETE or before is None or windows is None or len(before) != len(windows):
            return ""
        found = clustered_difference(before, windows, documents=None)
        best = self._best[trial.plan.id]
        return f", {found.mean:+.3f} +- {2 * found.se:.3f} against {best.experiment or best.trial}"

    def snapshot(self) -> Snapshot:
        """What there is to show now. Rich calls it in a thread of its own."""
        trials, (slots, _) = tuple(self._running.values()), self._capacity()
        running = min(len(trials), slots)
        planned, now = self._planned(), time.monotonic()
        speed = self._flops.per_s(max(1, running))
        left = None if planned is None else self._flops_left
        done = 0.0 if self._work is None else self._work.done_flops
        return Snapshot(
            ended=self._counts,
            planned=planned,
            running=running,
            queued=len(trials) - running,
            paused=len(self._paused),
            idle=slots - running,
            best=sorted(self._best.values(), key=lambda one: one.study),
            tokens_per_s=self._tokens.per_s(max(1, running)),
            share=None if left is None else done / (done + left) if done + left else 1.0,
            seconds_left=seconds_left(
                left, self._expected if speed is None else speed, self._flops.since_report(now), self._limit()
            ),
            trials=trials,
        )

    def _view(self) -> RenderableType:
        return view(self.snapshot(), self._console.width, self._console.height)


def _end(trial: TrialHandle) -> tuple[str, str, str]:
    """How a trial ended: `xs-0003`, `complete`, `final_val_loss 3.5123 at step 200  (lr 0.00123)`."""
    row = trial.last_row
    if trial.message is not None:
        detail = trial.message + (f"; see trials/{trial.id}/error.txt" if trial.error else "")
    else:
        detail = f"{col.quoted_column(row)} {col.quoted_loss(row):.4f} at step {row['step']}" if row else "no report"
    fields: Mapping[str, object] = flatten(trial.run)  # the product where a number is multiplied; no joint entry
    params = ", ".join(
        f"{path.split('.')[-1]} {_short(fields.get(path, value))}" for path, value in trial.trial.params.items()
    )
    return trial.name, trial.status, f"{detail}{f'  ({params})' if params else ''}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def _tokens(trial: TrialHandle, row: Row) -> int:
    """Tokens that a trial and its branches have been trained on when it reports `row`."""
    on_branches = updates_by(trial.run, row[col.STEP]) - row[col.STEP]
    return row[col.TOKENS] + on_branches * trial.run.tokens_per_step
