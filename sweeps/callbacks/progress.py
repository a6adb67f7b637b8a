"""Progress in the terminal: a table that redraws itself, or plain lines if the output is not a terminal."""

import time
from collections import deque
from collections.abc import Callable, Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import flatten
from lmcore.measure.window_difference import clustered_difference
from sweeps.callbacks.base import Callback
from sweeps.study.trial_handle import TrialHandle

LINE_EVERY_S = 15.0
THROUGHPUT_WINDOW_S = 60.0

Best = dict[str, tuple[float, str]]  # lowest loss of the search so far and the id of its trial, by size and arm


class Progress(Callback):
    """Callback that shows trials done and running, the best loss of each size, tokens/s and the time left.

    Example:
        with Progress(Console(), lambda: 16, lambda: (4, 2)) as progress:
            callbacks = Callbacks([progress])
    """

    def __init__(
        self,
        console: Console,
        planned: Callable[[], int | None],
        capacity: Callable[[], tuple[int, int]],
        ended: Iterable[str] = (),
        best: Best | None = None,
    ) -> None:
        """`capacity` returns how many trials can train at a time, and how many more can wait for a slot.

        `planned` returns how many trials there will be, as far as is known, or None.

        On resume, `ended` are the statuses of the trials that ended earlier, and `best` is the best of them.
        """
        self._console = console
        self._planned = planned
        self._capacity = capacity
        self._start = time.monotonic()
        self._running: dict[str, tuple[Row, int] | None] = {}  # newest row and total steps, by the trial's name
        self._trial_start: dict[str, float] = {}
        self._durations: list[float] = []
        statuses = list(ended)
        ends = [status for status in (*col.STATUSES, col.EXCLUDED) if status not in col.UNFINISHED]
        self._counts = {status: statuses.count(status) for status in ends}
        self._paused: set[str] = set()
        self._best: Best = dict(best or {})
        self._best_windows: dict[str, list[float] | None] = {}
        self._tokens: dict[str, int] = {}
        self._arrivals: deque[tuple[float, int]] = deque()
        self._next_line = self._start + LINE_EVERY_S
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def on_trial_start(self, trial: TrialHandle) -> None:
        self._running[trial.name] = None
        self._paused.discard(trial.id)
        self._trial_start[trial.name] = time.monotonic()

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        """Count the tokens since the trial's last row; without a terminal, print a summary every LINE_EVERY_S."""
        now = time.monotonic()
        self._arrivals.append((now, row["tokens"] - self._tokens.get(trial.id, 0)))
        while self._arrivals[0][0] <= now - THROUGHPUT_WINDOW_S:
            self._arrivals.popleft()
        self._tokens[trial.id] = row["tokens"]
        self._running[trial.name] = row, trial.run.steps
        if not self._console.is_terminal and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self._console.out(self._summary(), highlight=False)

    def on_trial_end(self, trial: TrialHandle) -> None:
        self._running.pop(trial.name, None)
        if trial.status == col.RUNNING:
            return
        if trial.status == col.PAUSED:
            self._paused.add(trial.id)
        else:
            self._paused.discard(trial.id)
            self._tokens.pop(trial.id, None)
            self._counts[trial.status] += 1
        if trial.name in self._trial_start:  # otherwise it was paused, and is given up
            self._durations.append(time.monotonic() - self._trial_start.pop(trial.name))
        # `out` prints text as it is: an error message may contain what rich takes for markup, such as `[/x]`.
        self._console.out(_end_line(trial) + self._against_best(trial), highlight=False)
        if trial.status == col.COMPLETE and trial.of is None and trial.last_row is not None:
            loss, study = col.quoted_loss(trial.last_row), trial.plan.id
            if study not in self._best or loss < self._best[study][0]:
                self._best[study] = loss, trial.id
                self._best_windows[study] = trial.last_row.get(col.WINDOW_LOSSES)

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
        return f", {found.mean:+.3f} +- {2 * found.se:.3f} against {self._best[trial.plan.id][1]}"

    def _tokens_per_s(self) -> float:
        now = time.monotonic()
        span = min(THROUGHPUT_WINDOW_S, now - self._start)
        return sum(n for t, n in self._arrivals if t > now - THROUGHPUT_WINDOW_S) / max(span, 1.0)

    def _time_left(self) -> str:
        """Estimated from the mean duration of ended trials; a running trial counts as half done."""
        planned = self._planned()
        if not self._durations or planned is None:
            return "?"
        left = planned - sum(self._counts.values()) - len(self._running) / 2
        seconds = max(0.0, left) * sum(self._durations) / len(self._durations) / max(1, sum(self._capacity()))
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _summary(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items() if n)
        slots, _ = self._capacity()
        running = min(len(self._running), slots)
        planned = self._planned()
        of = "" if planned is None else f"/{planned}"
        ended = f"{sum(self._counts.values())}{of} trials{f' ({counts})' if counts else ''}"
        parts = [ended, f"{running} running"]
        if self._paused:
            parts.append(f"{len(self._paused)} paused")
        queued, idle = len(self._running) - running, slots - running
        if idle:
            parts.append(f"{idle} slot{'s' if idle > 1 else ''} idle")
        elif queued:
            parts.append(f"{queued} queued")
        best = ", ".join(f"{size} {loss:.4f} ({trial})" for size, (loss, trial) in sorted(self._best.items()))
        speed = f"{self._tokens_per_s():,.0f} tokens/s"
        left = [] if planned is None else [f"about {self._time_left()} left"]
        return ", ".join([*parts, f"best {best or 'none yet'}", speed, *left])

    def _table(self) -> Group:
        numbers = (Column(name, justify="right") for name in ("step", "train_loss", "val_loss", "lr", "tokens/s"))
        table = Table("trial", *numbers, box=None, pad_edge=False)
        # A copy, because rich calls this in a thread of its own.
        for name, report in tuple(self._running.items()):
            if report is None:
                table.add_row(name, "waiting")
                continue
            row, steps = report
            losses = (f"{row['train_loss']:.4f}", f"{row['val_loss']:.4f}")
            table.add_row(name, f"{row['step']}/{steps}", *losses, f"{row['lr']:.2e}", f"{row['tokens_per_s']:,.0f}")
        return Group(Text(self._summary()), table)


def _end_line(trial: TrialHandle) -> str:
    """How a trial ended: `xs-0003  complete final_val_loss 3.5123 at step 200  (lr 0.00123)`."""
    row = trial.last_row
    if trial.message is not None:
        detail = trial.message + (f"; see trials/{trial.id}/error.txt" if trial.error else "")
    else:
        detail = f"{col.quoted_column(row)} {col.quoted_loss(row):.4f} at step {row['step']}" if row else "no report"
    fields = flatten(trial.run)  # has the product where a number is multiplied, and no entry of several fields
    params = ", ".join(
        f"{path.split('.')[-1]} {_short(fields.get(path, value))}" for path, value in trial.trial.params.items()
    )
    return f"{trial.name:<8} {trial.status:<8} {detail}{f'  ({params})' if params else ''}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()
