"""report.html: one file that needs nothing else, for a screen, a phone and a printer."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from analysis.figures.style import ReportFigure
from analysis.stats.estimate import Fitted, NotEstimable
from analysis.tables.files import ReportTable

TEMPLATE = Path(__file__).with_name("template.html.jinja")


@dataclass(frozen=True)
class Section:
    """A part of the report: tables, figures and fitted numbers that belong together."""

    title: str
    tables: Sequence[ReportTable] = ()
    figures: Sequence[ReportFigure] = ()
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    """By plain path, as in report.json."""
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.tables or self.figures or self.fitted or self.notes)


def page(name: str, summary: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page. Text of trials (names, messages) cannot break out of it."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        name=name,
        summary=summary,
        notes=notes,
        sections=[section for section in sections if section],
        # As an image: the ids in one drawing do not meet those in another.
        drawing=lambda figure: "data:image/svg+xml;base64," + base64.b64encode(figure.svg).decode(),
        fit_row=_fit_row,
    )


def _fit_row(path: str, one: Fitted) -> dict[str, str]:
    if isinstance(one, NotEstimable):
        return {"path": path, "value": "", "interval": "", "n": "", "refused": one.reason}
    return {
        "path": path,
        "value": f"{one.value:.4g}",
        "interval": f"{one.low:.4g} to {one.high:.4g}",
        "n": str(one.n),
        "refused": "",
    }
