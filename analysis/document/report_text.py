"""A report as text for a terminal: the main tables, fitted numbers and notes, and last the answer.

The tables show the columns that fit (`analysis.tables.formatting.RANKS`); the files of the report have all of them.
"""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from analysis.document.ladder_section import LADDER
from analysis.document.section import Section, fitted_cells
from analysis.document.sections import PARAMETERS
from analysis.stats.estimate import Estimate
from analysis.tables.files import ReportTable
from analysis.tables.formatting import NOT_TOLD_APART, fitted_table
from lmcore import columns as col
from lmcore.terminal.console import short_digests, wrapped

PRINTED_TRIALS = 10  # of each size; the files have all
NO_ROWS = "(none: no trial has a validation loss)"
BEST, BAD, TIE, TITLE = "bold", "red", "dim", "bold"
PROVENANCE = ("Data: ", "Versions: ")


def body(name: str, summary: str, sections: Sequence[Section], notes: Sequence[str], width: int) -> Group:
    """The text without the answer, its paragraphs broken for lines of `width` characters."""
    tables = {table.name: table for section in sections for table in section.tables}
    parts: list[RenderableType] = [_prose(f"{name}: {summary}", width)]
    if parameters := tables.get("parameters"):
        parts += [Text(PARAMETERS, TITLE), _parameters(parameters)]
    if (differences := tables.get("differences")) and len(differences.cells):
        parts += [Text(differences.title, TITLE), _differences(differences)]
    for section in sections:
        parts += _ladder(section, width) if section.title == LADDER else []
    if trials := tables.get("trials"):
        parts += _trials(trials)
    parts += _fitted(sections)
    parts += [_bullets(notes, width)] if notes else []
    return spaced(parts)


def conclusion(sections: Sequence[Section], width: int) -> Group:
    """The answer: what the leading settings are, and last a sentence per size."""
    answers = [section for section in sections if section.lead]
    parts: list[RenderableType] = [_bullets(section.notes, width) for section in answers if section.notes]
    if answers:
        lines = [_prose(line, width, "  ", TITLE) for section in answers for line in section.lead]
        parts.append(Text("\n").join(lines))
    return spaced(parts)


def spaced(parts: Sequence[RenderableType]) -> Group:
    """The parts with an empty line between them."""
    return Group(*[one for part in parts for one in (Text(""), part)][1:])


def _parameters(table: ReportTable) -> RenderableType:
    """The leading settings. The sentences of the conclusion say which cannot be told apart."""
    cells, frame = table.cells.drop(columns=[NOT_TOLD_APART], errors="ignore"), table.frame
    if not len(cells):
        return Text(NO_ROWS)
    complete = frame[frame[col.STATUS] == col.COMPLETE]
    best = set(complete.groupby(col.SIZE, sort=False)[col.LOSS].idxmin()) if len(complete) else set()
    styles = [BEST if place in best else "" for place in frame.index]
    return fitted_table(cells, [col.SIZE, col.EXPERIMENT, col.ARM, col.LOSS], f"{table.name}.csv", styles)


def _differences(table: ReportTable) -> RenderableType:
    styles = [TIE if verdict == "tie" else "" for verdict in table.cells["verdict"]]
    keys = [col.SIZE, col.EXPERIMENT, col.ARM, "matching", "difference"]
    return fitted_table(table.cells, keys, f"{table.name}.csv", styles)


def _ladder(section: Section, width: int) -> Iterator[RenderableType]:
    """The tables of the laws along a ladder, and what they say in words."""
    keys = [col.SIZE, col.ARM, "setting", "source", "optimum", "95 % interval", "predicted"]
    keys += ["found", "inside", "forecast loss"]
    for table in section.tables:
        if len(table.cells):
            yield Text(table.title, TITLE)
            yield fitted_table(table.cells, keys, f"{table.name}.csv")
    if section.notes:
        yield _bullets(section.notes, width)


def _trials(table: ReportTable) -> Iterator[RenderableType]:
    first = table.frame.groupby(col.SIZE, sort=False).head(PRINTED_TRIALS).index
    hidden = len(table.frame) - len(first)
    yield Text(f"Trials ({hidden} more in trials.csv)" if hidden else "Trials", TITLE)
    shown = table.frame.loc[first]
    best = set(shown[shown[col.STATUS] == col.COMPLETE].groupby(col.SIZE, sort=False).head(1).index)
    bad = shown[col.STATUS].isin((col.DIVERGED, col.FAILED))
    styles = [BEST if place in best else BAD if bad[place] else "" for place in first]
    final = [name for name in ("final val loss", "val loss") if name in table.cells][:1]
    yield fitted_table(table.cells.loc[first], [col.TRIAL, *final], f"{table.name}.csv", styles)


def _fitted(sections: Sequence[Section]) -> Iterator[RenderableType]:
    """Estimates of the sections without sentences of their own, and how many numbers are not estimable."""
    fitted = {path: one for section in sections if not section.lead for path, one in section.fitted.items()}
    estimated = {path: one for path, one in fitted.items() if isinstance(one, Estimate)}
    missing = len(fitted) - len(estimated)
    if estimated:
        more = f"; {missing} more are not estimable (report.html says why)" if missing else ""
        yield Text(f"Fitted numbers{more}", TITLE)
        yield fitted_table(fitted_cells(estimated), ["number", "value"], "report.json")
    elif missing:
        yield Text(f"Fitted numbers: none of {missing} is estimable; report.html says why.")


def _prose(text: str, width: int, hanging: str = "", style: str = "") -> Text:
    return Text(wrapped(text, width, hanging), style, no_wrap=True, overflow="ignore")


def _bullets(lines: Sequence[str], width: int) -> Text:
    """One item for each line; what the numbers rest on is dim, its digests short."""
    items = [
        _prose(f"- {short_digests(line)}", width, "  ", "dim" if line.startswith(PROVENANCE) else "") for line in lines
    ]
    return Text("\n", no_wrap=True, overflow="ignore").join(items)
