"""Live progress in the terminal: a table that redraws itself, or plain lines where the output is not a terminal."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lmcore import columns as col
from sweeps.study.ledger import TrialHandle

LINE_EVERY_S = 15.0
THROUGHPUT_WINDOW_S = 60.0


Best = dict[str, tuple[float, str]]


class Progress:
    """Callback that says: trials done and running, best so far of each size, tokens/s, time left."""

    def __init__(
        self,
        console: Console,
        total: int,
        slots: int,
        in_line: int,
        ended: Iterable[str] = (),
        best: Best | None = None,
    ) -> None:
        """`ended` and `best` are those of a sweep that is resumed: statuses of its trials, loss and id by size."""
        self._console = console
        self._total = total
        self._slots, self._concurrent = slots, slots + in_line
        self._began = time.monotonic()
        self._running: dict[str, dict[str, Any]] = {}
        self._trial_began: dict[str, float] = {}
        self._durations: list[float] = []
        self._counts = dict.fromkeys((col.COMPLETE, col.PRUNED, col.DIVERGED, col.FAILED), 0)
        for status in ended:
            self._counts[status] += 1
        self._best: Best = dict(best or {})
        self._tokens: dict[str, int] = {}
        self._arrivals: list[tuple[float, int]] = []
        self._next_line = self._began + LINE_EVERY_S
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def began(self, live: TrialHandle) -> None:
        """A trial is waiting for its first row."""
        self._running[live.name] = {}
        self._trial_began[live.name] = time.monotonic()

    def reported(self, live: TrialHandle, row: dict[str, Any]) -> None:
        """Count the tokens since the trial's last row, and print a line when it is time."""
        now = time.monotonic()
        self._arrivals.append((now, row[col.TOKENS] - self._tokens.get(live.id, 0)))
        self._arrivals = [(t, n) for t, n in self._arrivals if t > now - THROUGHPUT_WINDOW_S]
        self._tokens[live.id] = row[col.TOKENS]
        self._running[live.name] = {**row, "steps": live.run.train.steps}
        if self._live is None and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self._console.print(Text(self._summary()), soft_wrap=True)

    def ended(self, live: TrialHandle) -> None:
        """Count the trial, and say how it ended."""
        self._running.pop(live.name, None)
        if live.status == col.RUNNING:
            return
        self._durations.append(time.monotonic() - self._trial_began.pop(live.name))
        self._counts[live.status] += 1
        row = live.last_row
        if live.status == col.COMPLETE and row is not None:
            best = self._best.get(live.size)
            if best is None or row[col.VAL_LOSS] < best[0]:
                self._best[live.size] = (row[col.VAL_LOSS], live.id)
        # Text: an error's message may hold what rich takes for markup, `[/x]`.
        self._console.print(Text(self._line(live)), soft_wrap=True)

    @staticmethod
    def _line(live: TrialHandle) -> str:
        row = live.last_row
        if live.message is not None:
            detail = live.message + (f"; see trials/{live.id}/error.txt" if live.error else "")
        else:
            detail = f"val_loss {row[col.VAL_LOSS]:.4f} at step {row[col.STEP]}" if row else "no report"
        params = ", ".join(f"{path.split('.')[-1]} {_short(value)}" for path, value in live.trial.params.items())
        return f"{live.name:<8} {live.status:<8} {detail}{f'  ({params})' if params else ''}"

    def _tokens_per_s(self) -> float:
        now = time.monotonic()
        span = min(THROUGHPUT_WINDOW_S, now - self._began)
        return sum(n for t, n in self._arrivals if t > now - THROUGHPUT_WINDOW_S) / max(span, 1.0)

    def _time_left(self) -> str:
        """From the mean duration of ended trials; running ones count half."""
        if not self._durations:
            return "?"
        left = self._total - sum(self._counts.values()) - len(self._running) / 2
        seconds = max(0.0, left) * sum(self._durations) / len(self._durations) / self._concurrent
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _summary(self) -> str:
        done = sum(self._counts.values())
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items() if n)
        running = min(len(self._running), self._slots)
        in_line, free = len(self._running) - running, self._slots - running
        idle = f", {free} slot{'s' if free > 1 else ''} idle" if free else f", {in_line} in line" if in_line else ""
        best = ", ".join(f"{size} {loss:.4f} ({trial})" for size, (loss, trial) in sorted(self._best.items()))
        return (
            f"{done}/{self._total} trials{f' ({counts})' if counts else ''}, {running} running{idle}, "
            f"best {best or 'none yet'}, {self._tokens_per_s():,.0f} tokens/s, about {self._time_left()} left"
        )

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "step", "train_loss", "val_loss", "lr", "tokens/s"):
            table.add_column(name, justify="left" if name == "trial" else "right")
        for name, row in tuple(self._running.items()):  # a copy: this runs in rich's thread
            if not row:
                table.add_row(name, "waiting", "", "", "", "")
                continue
            table.add_row(
                name,
                f"{row[col.STEP]}/{row['steps']}",
                f"{row[col.TRAIN_LOSS]:.4f}",
                f"{row[col.VAL_LOSS]:.4f}",
                f"{row[col.LR]:.2e}",
                f"{row[col.TOKENS_PER_S]:,.0f}",
            )
        return Group(Text(self._summary()), table)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()
