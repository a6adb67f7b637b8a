"""report.html: one file without references to others, for a screen, a phone and a printer.

It is read from the top: what the run says, the table behind it, the figures that show it; all else is folded. The
scripts beside this file make it answer to the mouse. Without them, and on paper, it has the same words, tables and
figures. plotly.js and the data of figures are packed (gzip, base64), which the browser unpacks when it shows a figure.
"""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from analysis.document.section import Section, fitted_cells
from analysis.document.thinning import thinned
from analysis.document.trial_index import TrialIndex
from analysis.figures.colours import DARK
from analysis.figures.interactive import interactive
from analysis.figures.registry import headlines
from analysis.figures.report_figure import ReportFigure
from analysis.tables.files import ReportTable
from analysis.tables.formatting import NOT_TOLD_APART, OPTIMAL_LR
from analysis.tables.trials import TIED
from lmcore import columns as col

FOLDER = Path(__file__).parent
SCRIPTS = ("tables.js", "trials.js", "figures.js", "theme.js", "page.js")
PRINTED_CHARACTERS = 118
"""Characters that fit in a table row on A4 paper, in 8 pt."""
PRINTED_ROWS = 60
RESULTS = ("loss", "seeds", "peak lr", OPTIMAL_LR, NOT_TOLD_APART)
"""Columns of the leading table that come first."""
LESS_IMPORTANT = ("tokens/s", "elapsed s", "tokens", "train loss", "est.", "non-emb", "ppl", "bpb", "FLOPs", "message")
"""Columns that paper leaves out first, in this order, if a table is too wide."""
WORD = re.compile(r"([\w./+-]*\w)")
COLOUR = re.compile("#[0-9a-f]{6}")
STYLE = re.compile('style="[^"]*"')
ID = re.compile(r' id="([^"]*)"')
REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')


def page(
    name: str,
    summary: str,
    notes: Sequence[str],
    sections: Sequence[Section],
    trials: TrialIndex | None = None,
) -> str:
    """The whole page. Names and messages of trials are escaped; without `trials`, figures do not lead to trials."""
    import plotly.offline  # takes 0.2 s

    shown = [section for section in sections if section]
    figures = [figure for section in shown for figure in section.figures]
    first = headlines(figures)
    remarkable = trials.remarkable if trials is not None else frozenset()
    drawn = {figure.name: _thinned(figure, remarkable) for figure in [*first, *figures]}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters.update(linked=lambda text: linked(text, trials), anchor=_anchor)
    environment.globals.update(fitted_cells=fitted_cells, inline=inline_svg, leading=leading, unprinted=unprinted)
    template = environment.from_string((FOLDER / "template.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        name=name,
        summary=summary,
        notes=notes,
        answers=[section for section in shown if section.lead],
        sections=shown,
        headlines=first,
        drawn=drawn,
        printed_rows=PRINTED_ROWS,
        numbering=_rows_by_trial,
        dark=DARK,
        css=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        plotly=_packed(plotly.offline.get_plotlyjs()) if figures else "",
        data=_packed(json.dumps({name: interactive(one.chart) for name, one in drawn.items()}, allow_nan=False)),
        trials=_json({} if trials is None else trials.as_json()),
        dark_json=_json(DARK),
    )


def inline_svg(figure: ReportFigure) -> Markup:
    """The figure as an element of the page, whose colours follow the page's."""
    svg = figure.svg.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[\d. -]+"', head)
    assert box is not None, "matplotlib writes a viewBox"
    needed = set(REFERENCE.findall(body))
    body = ID.sub(lambda found: found[0] if found[1] in needed else "", body)  # the others are those of every figure
    body = STYLE.sub(_with_variables, body)
    head = f'<svg class="static" role="img" aria-labelledby="title-{_anchor(figure.name)}" {box[0]}'
    return Markup(f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">{body}')


def _with_variables(style: re.Match[str]) -> str:
    """A style with CSS variables in place of the colours that a dark page changes. White words stay white."""

    def variable(found: re.Match[str]) -> str:
        colour = found[0]
        if colour in DARK:
            return f"var(--c{colour[1:]})"
        return "var(--paper)" if colour == "#ffffff" and "font:" not in style[0] else colour

    return COLOUR.sub(variable, style[0])


def linked(text: str, trials: TrialIndex | None) -> Markup:
    """The text, escaped, in which every id of a trial leads to that trial.

    >>> linked("better than xs-0003", trials)
    Markup('better than <a class="trial" href="#trial-xs-0003" data-trial="xs-0003">xs-0003</a>')
    """
    if trials is None:
        return escape(text)
    ids = trials.ids
    link = Markup('<a class="trial" href="#trial-{}" data-trial="{}">{}</a>')
    words = [text] if text in ids else WORD.split(text)
    parts = (link.format(quote(_anchor(word)), word, word) if word in ids else escape(word) for word in words)
    return Markup("").join(parts)


def leading(table: ReportTable) -> ReportTable:
    """The table with its results directly after what they are of, where a phone shows them without scrolling."""
    names = list(table.cells.columns)
    keys = [name for name in (col.SIZE, col.EXPERIMENT, col.ARM, TIED) if name in names]
    results = [name for name in RESULTS if name in names]
    rest = [name for name in names if name not in (*keys, *results)]
    return replace(table, cells=table.cells[[*keys, *results, *rest]])


def unprinted(table: ReportTable) -> list[str]:
    """The columns that paper leaves out, so that the rest fits its width."""
    widths = {name: max(map(len, (str(name), *table.cells[name]))) for name in table.cells}
    widths = {name: min(width, 30) + 2 for name, width in widths.items()}
    order = [name for name in LESS_IMPORTANT if name in widths]
    order += [name for name in reversed(widths) if name not in order]
    out: list[str] = []
    while sum(widths[name] for name in widths if name not in out) > PRINTED_CHARACTERS and len(out) < len(widths) - 1:
        out.append(order[len(out)])
    return out


def _rows_by_trial(table: ReportTable) -> list[dict[str, str]]:
    """For each row of the table of trials, what it is found and filtered by."""
    names = [name for name in (col.TRIAL, col.STATUS, col.SIZE, col.ARM, col.EXPERIMENT) if name in table.frame]
    words = table.frame[names].astype("object").where(table.frame[names].notna(), "")
    return [{str(name): str(value) for name, value in row.items()} for row in words.to_dict("records")]


def _thinned(figure: ReportFigure, remarkable: frozenset[str]) -> ReportFigure:
    chart = thinned(figure.chart, remarkable)
    return figure if chart is figure.chart else ReportFigure(chart)


def _anchor(text: str) -> str:
    """A text as the name of an anchor: without spaces, which an id must not have."""
    return "_".join(str(text).split())


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _json(value: Any) -> Markup:
    """JSON inside a script element, which nothing in it can end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
