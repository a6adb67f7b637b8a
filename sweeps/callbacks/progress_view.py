"""How progress looks: one line for logs, and for a terminal a bar with a table that fit its width and height.

Nothing wraps. What does not fit is left out, the least important first; left out columns are named below the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmcore import columns as col
from sweeps.spec.duration import show_duration

LEAST_BAR, MOST_BAR = 10, 40
"""Characters of the bar."""
GAP = "  "
NAME_WIDTH = 24
"""Characters of a trial's name that are rather shown than another column."""
STYLES = {col.COMPLETE: "green", col.DIVERGED: "red", col.FAILED: "red", col.PRUNED: "dim", col.PAUSED: "dim"}
"""Colours of statuses, on a terminal that has any."""
BEST_STYLE = "bold"


@dataclass(frozen=True)
class Best:
    """The lowest loss so far of one size and arm.

    >>> str(Best("s-untied", 4.52, "s-untied-0003")), str(Best("main", 4.52, "main-0001", "post-norm"))
    ('s-untied 4.5200 (s-untied-0003)', 'post-norm 4.5200')
    """

    study: str
    loss: float
    trial: str
    experiment: str | None = None

    @property
    def short(self) -> str:
        """Without the trial."""
        if self.experiment is None:
            return f"{self.study} {self.loss:.4f}"
        # The study of a sweep without sizes has a name that says nothing.
        size = "" if self.study == "main" else f"{self.study} "
        return f"{size}{self.experiment} {self.loss:.4f}"

    def __str__(self) -> str:
        return self.short if self.experiment is not None else f"{self.short} ({self.trial})"


@dataclass(frozen=True)
class RunningTrial:
    """A trial that was handed out, and its newest row; None before that."""

    name: str
    steps: int
    row: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Snapshot:
    """What there is to show at one moment."""

    ended: Mapping[str, int]
    """Number of trials that have ended, by status."""
    planned: int | None
    running: int
    queued: int
    paused: int
    idle: int
    best: Sequence[Best]
    tokens_per_s: float | None
    """None before the first report."""
    share: float | None
    """Which share of the training is done, 0 to 1; None if it is not known how much there will be."""
    seconds_left: float | None
    trials: Sequence[RunningTrial] = field(default=())

    @property
    def count(self) -> str:
        """`3/16 trials`."""
        return f"{sum(self.ended.values())}{'' if self.planned is None else f'/{self.planned}'} trials"

    @property
    def statuses(self) -> list[str]:
        """`3 complete`, `1 pruned`."""
        return [f"{n} {status}" for status, n in self.ended.items() if n]

    @property
    def activity(self) -> list[str]:
        """`2 running`, `1 paused`, `1 slot idle`."""
        parts = [f"{self.running} running"]
        parts += [f"{self.paused} paused"] if self.paused else []
        if self.idle:
            parts.append(f"{self.idle} slot{'s' if self.idle > 1 else ''} idle")
        elif self.queued:
            parts.append(f"{self.queued} queued")
        return parts

    @property
    def left(self) -> str:
        """`about 4m10s left`."""
        if self.seconds_left is not None:
            return f"about {about(self.seconds_left)} left"
        return "" if self.planned is None else "time left not known yet"

    @property
    def speed(self) -> str:
        """`12,345 tokens/s`."""
        return "" if self.tokens_per_s is None else f"{self.tokens_per_s:,.0f} tokens/s"

    @property
    def bests(self) -> list[str]:
        """What to say of the best losses, from the most to the least detailed."""
        if not self.best:
            return ["best none yet"]
        ranked = sorted(self.best, key=lambda one: one.loss)
        found = [", ".join(map(str, self.best)), ", ".join(one.short for one in self.best)]
        return [f"best {text}" for text in (*found, str(ranked[0]), ranked[0].short)]


def about(seconds: float) -> str:
    """A duration in units that do not flicker.

    >>> about(37.6), about(250.0), about(5025.0)
    ('38s', '4m10s', '1h24m')
    """
    return show_duration(seconds if seconds < 3600 else 60 * round(seconds / 60))


def summary(now: Snapshot) -> str:
    """Everything but the table as one line of plain text.

    Example:
        3/16 trials (2 complete, 1 pruned), 12% trained, 2 running, best xs 3.5 (xs-0000), 400 tokens/s, about 37s left
    """
    counts = f" ({', '.join(now.statuses)})" if now.statuses else ""
    share = "" if now.share is None else f"{percent(now.share)} trained"
    return ", ".join(filter(None, [now.count + counts, share, *now.activity, now.bests[0], now.speed, now.left]))


def percent(share: float) -> str:
    """Whole percent, and 100% at the very end only.

    >>> percent(0.378), percent(0.999)
    ('37%', '99%')
    """
    return f"{int(100 * share)}%"


def view(now: Snapshot, width: int, height: int) -> RenderableType:
    """What a terminal of `width` columns and `height` lines shows, without a line that wraps.

    Example:
        Console(width=80).print(view(snapshot, width=80, height=24))
    """
    lines = [*_progress_lines(now, width)]
    rows = height - len(lines) - 3  # heading, what is left out, and the cursor's line
    if now.trials and rows >= 1:
        lines += _table(now.trials, width, rows)
    return Group(*lines)


def _progress_lines(now: Snapshot, width: int) -> list[RenderableType]:
    """The bar and, as far as they fit beside it, how many trials have ended, the time left, the best and the speed.

    The line below has the others of them, and what goes on.
    """
    share = "" if now.share is None else f"{percent(now.share):>4}"
    room = width - (LEAST_BAR if share else -len(GAP))
    beside = [text for text in (share, now.count, now.left) if text]
    room -= sum(len(GAP) + len(text) for text in beside)
    best = next((text for text in now.bests if len(text) + len(now.speed) + 2 * len(GAP) <= room), None)
    best = best or next((text for text in now.bests if len(text) + len(GAP) <= room), "")
    room -= len(best) + len(GAP) if best else 0
    speed = now.speed if len(now.speed) + len(GAP) <= room else ""
    room -= len(speed) + len(GAP) if speed else 0
    texts = [*map(Text, beside), *([Text(best, BEST_STYLE if now.best else "")] if best else [])]
    texts += [Text(speed)] if speed else []
    first: RenderableType = Text(GAP, no_wrap=True).join(texts)
    if share:
        grid = Table.grid(padding=(0, len(GAP), 0, 0), pad_edge=False)
        bar = ProgressBar(total=1.0, completed=now.share or 0.0, width=min(MOST_BAR, LEAST_BAR + max(0, room)))
        grid.add_row(bar, *texts)
        first = grid

    below = "" if best else next((text for text in now.bests if len(text) <= width), "")
    for part in (*([now.speed] if now.speed and not speed else []), *now.activity, *now.statuses):
        if len(below) + 2 + len(part) <= width:
            below += f", {part}" if below else part
    return [first, Text(below, style="dim", no_wrap=True, overflow="ellipsis")]


COLUMNS = ("step", col.VAL_LOSS, "tokens/s", col.TRAIN_LOSS, col.LR)
"""The table's numbers, the most important first."""


def _table(trials: Sequence[RunningTrial], width: int, rows: int) -> list[RenderableType]:
    listed = trials if len(trials) <= rows else trials[: rows - 1]
    cells = {name: [name, *(_cell(trial, name) for trial in listed)] for name in COLUMNS}
    widths = {name: max(map(len, texts)) + len(GAP) for name, texts in cells.items()}
    names = max(len(trial.name) for trial in listed)
    shown = list(COLUMNS)
    while shown and min(names, NAME_WIDTH) + sum(widths[name] for name in shown) > width:
        shown.pop()
    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="dim")
    room = width - sum(widths[name] for name in shown)
    table.add_column("trial", no_wrap=True, overflow="ellipsis", width=min(names, room))
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True, width=widths[name] - len(GAP))
    for place, trial in enumerate(listed, start=1):
        table.add_row(trial.name, *(cells[name][place] for name in shown))
    notes = [] if len(listed) == len(trials) else [f"and {len(trials) - len(listed)} more trials"]
    if len(shown) < len(COLUMNS):
        notes.append(f"too narrow for {', '.join(COLUMNS[len(shown) :])}")
    below = Text("; ".join(notes), style="dim", no_wrap=True, overflow="ellipsis")
    return [table, below] if notes else [table]


def _cell(trial: RunningTrial, name: str) -> str:
    if trial.row is None:
        return "waiting" if name == "step" else ""
    if name == "step":
        return f"{trial.row[col.STEP]:.0f}/{trial.steps}"
    if name == "tokens/s":
        return f"{trial.row[col.TOKENS_PER_S]:,.0f}"
    return f"{trial.row[name]:.2e}" if name == col.LR else f"{trial.row[name]:.4f}"
