"""`Section`: a part of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.figures.report_figure import ReportFigure
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.files import ReportTable

NAMED_REASONS = 3
"""A sentence with more of them is not read."""


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
        """Tables with a row to show; of the others nothing was estimable, which `refusal` says."""
        return [table for table in self.tables if len(table.cells) or not len(table.frame)]

    @property
    def estimates(self) -> dict[str, Fitted]:
        """The fitted numbers that are estimable."""
        return {path: one for path, one in self.fitted.items() if isinstance(one, Estimate)}

    @property
    def unsaid(self) -> dict[str, list[str]]:
        """The paths of the numbers that are not estimable, by reason, the most frequent reason first."""
        reasons: dict[str, list[str]] = {}
        for path, one in self.fitted.items():
            if isinstance(one, NotEstimable):
                reasons.setdefault(one.reason, []).append(path)
        return dict(sorted(reasons.items(), key=lambda item: -len(item[1])))

    @property
    def refusal(self) -> str:
        """How many numbers are not estimable, and why, in a sentence; "" if all are.

        >>> Section("Scaling", fitted={"a": NotEstimable("too few runs"), "b": NotEstimable("too few runs")}).refusal
        '2 numbers could not be estimated: too few runs.'
        """
        reasons = self.unsaid
        if not reasons:
            return ""
        total = sum(map(len, reasons.values()))
        start = f"{total} number{'' if total == 1 else 's'} could not be estimated"
        if len(reasons) == 1:
            return f"{start}: {next(iter(reasons))}."
        named = list(reasons.items())[: NAMED_REASONS if len(reasons) > NAMED_REASONS + 1 else None]
        rest = total - sum(len(paths) for _, paths in named)
        parts = [f"{reason} ({len(paths)})" for reason, paths in named]
        return f"{start}: {'; '.join([*parts, *([f'other reasons ({rest})'] if rest else [])])}."


def fitted_cells(fitted: Mapping[str, Fitted]) -> pd.DataFrame:
    """The estimable numbers as short strings."""
    known = {path: one for path, one in fitted.items() if isinstance(one, Estimate)}
    rows = [(path, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", str(one.n)) for path, one in known.items()]
    return pd.DataFrame(rows, columns=["number", "value", "95 % interval", "n"])
