"""report.html: one file without references to others, for a screen, a phone and a printer."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd

from analysis.figures.report_figure import ReportFigure
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.files import ReportTable

TEMPLATE = Path(__file__).with_name("template.html.jinja")


@dataclass(frozen=True)
class Section:
    """A part of the report: tables, figures and fitted numbers that belong together. It is false if it is empty.

    >>> bool(Section("Comparisons"))
    False
    """

    title: str
    tables: Sequence[ReportTable] = ()
    figures: Sequence[ReportFigure] = ()
    fitted: Mapping[str, Fitted] = field(default_factory=dict)  # by plain path, as in report.json
    notes: Sequence[str] = ()
    lead: Sequence[str] = ()  # sentences that come first, in larger type

    def __bool__(self) -> bool:
        return bool(self.shown_tables or self.figures or self.fitted or self.notes or self.lead)

    @property
    def shown_tables(self) -> list[ReportTable]:
        """Tables with a row to show; of the others nothing was estimable, which `unsaid` says."""
        return [table for table in self.tables if len(table.cells) or not len(table.frame)]

    @property
    def estimates(self) -> dict[str, Fitted]:
        """The fitted numbers that are estimable."""
        return {path: one for path, one in self.fitted.items() if isinstance(one, Estimate)}

    @property
    def unsaid(self) -> dict[str, str]:
        """The numbers that are not estimable, with the reason of each."""
        return {path: one.reason for path, one in self.fitted.items() if isinstance(one, NotEstimable)}

    @property
    def unsaid_title(self) -> str:
        """`12 numbers could not be estimated`."""
        return f"{len(self.unsaid)} number{'' if len(self.unsaid) == 1 else 's'} could not be estimated"


def page(name: str, summary: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page. Names and messages of trials are escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.globals.update(image=_image, fitted_cells=fitted_cells)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(name=name, summary=summary, notes=notes, sections=list(filter(None, sections)))


def fitted_cells(fitted: Mapping[str, Fitted]) -> pd.DataFrame:
    """The estimable numbers as short strings."""
    known = {path: one for path, one in fitted.items() if isinstance(one, Estimate)}
    rows = [(path, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", str(one.n)) for path, one in known.items()]
    return pd.DataFrame(rows, columns=["number", "value", "95 % interval", "n"])


def _image(figure: ReportFigure) -> str:
    """The figure as a data URL rather than inline SVG, because the ids of several figures would clash."""
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg).decode()
