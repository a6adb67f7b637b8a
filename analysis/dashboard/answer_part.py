"""What a dashboard shows of the answer. It changes only when a trial ends, so it is not computed for every report."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.document.page import leading
from analysis.figures.differences import difference_figure
from analysis.figures.report_figure import ReportFigure
from analysis.stats.verdicts import verdicts
from analysis.tables.differences import difference_cells
from analysis.tables.files import ReportTable
from analysis.tables.formatting import parameter_cells
from analysis.tables.trials import parameter_table
from lmcore import columns as col

LEADERS = "Parameters and loss: the leading setting of each arm"

Key = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class AnswerPart:
    """Sentences, tables by name with their titles, and the figure of differences. Empty before a trial is complete."""

    lead: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tables: tuple[tuple[str, str, pd.DataFrame], ...] = ()
    figure: ReportFigure | None = None


class AnswerCache:
    """The answer of one run, kept until a trial ends.

    >>> answers = AnswerCache()
    >>> answers.of(run.trials) is answers.of(run.trials)
    True
    """

    def __init__(self) -> None:
        self._key: Key | None = None
        self._part = AnswerPart()

    def of(self, trials: pd.DataFrame) -> AnswerPart:
        """The answer of these trials of `analysis.load`."""
        ended = trials[~trials[col.STATUS].isin(col.UNFINISHED)]
        shown = ended[[col.TRIAL, col.STATUS, col.LOSS, col.LEADER, col.OVER]].astype(object)
        key = tuple(shown.where(shown.notna(), None).itertuples(index=False, name=None))
        if key != self._key:
            self._part = answer_part(trials)
            self._key = key
        return self._part


def answer_part(trials: pd.DataFrame) -> AnswerPart:
    """The answer so far, as the report gives it, without the fits that take longest."""
    if not (trials[col.STATUS] == col.COMPLETE).any():
        return AnswerPart()
    answer = verdicts(trials)
    parameters = parameter_table(trials)
    leaders = leading(ReportTable("leaders", LEADERS, parameters, parameter_cells(parameters)))
    tables = [(leaders.name, leaders.title, leaders.cells)]
    differences = answer.table()
    if differences["refused"].isna().any():
        cells = difference_cells(differences, answer.of_experiments)
        tables.append(("differences", f"Differences from {answer.baseline or 'the baseline'}", cells))
    return AnswerPart(answer.sentences, (*answer.settings, *answer.notes), tuple(tables), difference_figure(answer))
