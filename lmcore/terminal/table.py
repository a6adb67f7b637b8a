"""Tables that fit their terminal: of columns that do not, the least important are left out, and a line says so.

    table = FittedTable([Column("size"), Column("loss", right=True), Column("trial", rank=1)], more="trials.csv")
    table.add("xs", "4.200", "xs-0003")
    print_out(table)

Nothing is broken within a word. Headings, and cells of columns with `wraps`, take several lines where that saves a
column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GAP = 2  # spaces between columns
LEAST_TEXT = 26  # characters of a line of a cell that wraps
LEAST_HEADING = 8  # a heading of so many characters is never broken
LEAST_NAME = 8  # characters that are left of a name that is too long for the terminal
WIDER = "a wider terminal"


@dataclass(frozen=True)
class Column:
    """A column of a `FittedTable`."""

    heading: str
    rank: int = 0
    """The column with the highest rank is left out first; of equal ones the last. One of rank 0 is always shown."""
    right: bool = False
    """Whether its cells are numbers, which are aligned to the right."""
    wraps: bool = False
    """Whether its cells are text that may continue in the next line."""


class FittedTable:
    """A table for rich that leaves out columns which do not fit; see the module."""

    def __init__(self, columns: Sequence[Column], more: str = "", indent: int = 0) -> None:
        """`more` names a file that has all columns; `indent` spaces stand left of the table."""
        self.columns = tuple(columns)
        self.more = more
        self.indent = indent
        self.rows: list[tuple[tuple[str, ...], str]] = []

    def add(self, *cells: str, style: str = "") -> None:
        """Append a row: a cell for each column."""
        assert len(cells) == len(self.columns)
        self.rows.append((cells, style))

    def fit(self, width: int) -> dict[int, int]:
        """The columns that are shown in lines of `width` characters, by their place, with the width of each."""
        least = [self._least(place) for place in range(len(self.columns))]
        widths: dict[int, int] = {}
        by_rank = sorted(range(len(self.columns)), key=lambda place: (self.columns[place].rank, place))
        for place in by_rank:
            if self.columns[place].rank and _total([*widths.values(), least[place]]) > width:
                break
            widths[place] = least[place]
        for place in sorted(widths):  # room that is left unfolds headings and texts
            wanted, spare = self._full(place) - widths[place], width - _total(widths.values())
            if wanted <= spare or (self.columns[place].wraps and spare > 0):
                widths[place] += min(wanted, spare)
        while (over := _total(widths.values()) - width) > 0:
            widest = max(widths, key=lambda place: widths[place])
            if widths[widest] <= LEAST_NAME:
                break
            widths[widest] = max(LEAST_NAME, widths[widest] - over)
        return dict(sorted(widths.items()))

    def left_out(self, width: int) -> str:
        """The line that names the columns which are left out; empty if there are none."""
        shown = self.fit(width)
        names = [column.heading for place, column in enumerate(self.columns) if place not in shown]
        if not names:
            return ""
        number, them = ("1 column is", "it") if len(names) == 1 else (f"{len(names)} columns are", "them")
        where = f"{WIDER} or {self.more}" if self.more else WIDER
        return f"{number} left out: {', '.join(names)}; {where} has {them}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - self.indent
        shown = self.fit(width)
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for place, room in shown.items():
            column = self.columns[place]
            cut = room < self._least(place)
            table.add_column(
                Text(column.heading),
                width=room,
                justify="right" if column.right else "left",
                no_wrap=cut,
                overflow="ellipsis" if cut else "fold",
            )
        for cells, style in self.rows:
            table.add_row(*(Text(cells[place]) for place in shown), style=style)
        yield Padding(table, (0, 0, 0, self.indent), expand=False) if self.indent else table
        if line := self.left_out(width):
            yield Text(" " * self.indent + line, style="dim")

    def _texts(self, place: int) -> list[str]:
        return [cells[place] for cells, _ in self.rows]

    def _least(self, place: int) -> int:
        """The narrowest that a column can be without breaking a word, or a cell that does not wrap."""
        column = self.columns[place]
        widest = max(map(cell_len, self._texts(place)), default=0)
        if column.wraps:
            words = (word for text in self._texts(place) for word in text.split())
            widest = min(widest, max(LEAST_TEXT, *map(cell_len, words), 0))
        heading = min(cell_len(column.heading), LEAST_HEADING)
        return max(widest, heading, *map(cell_len, column.heading.split()), 1)

    def _full(self, place: int) -> int:
        """The width of a column of which nothing wraps."""
        return max(map(cell_len, (self.columns[place].heading, *self._texts(place))))


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)
