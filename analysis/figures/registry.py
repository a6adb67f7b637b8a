"""FIGURES: every figure of a report, by section and by name.

To add a figure, write a function that returns a `ReportFigure`, or None if there is nothing to draw, in a file of this
package; add a line to FIGURES; and test it in tests/analysis/test_figures.py.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.answer import parameters_figure
from analysis.figures.curves import AXES, curve_figure
from analysis.figures.differences import difference_figure
from analysis.figures.frontier import frontier_of_points, frontier_of_run, loss_compute_figure
from analysis.figures.hyperparameters import hyperparameter_figure
from analysis.figures.intervals import comparison_forest, importance_forest
from analysis.figures.ladder import optima_law_figure
from analysis.figures.learning_rate import learning_rate_figure
from analysis.figures.lr_batch import lr_batch_figure
from analysis.figures.parallel import parallel_figure
from analysis.figures.report_figure import ReportFigure
from analysis.figures.scaling import isoflop_figure, optimum_figure, size_figure
from analysis.figures.search_progress import progress_figure
from analysis.figures.training import grad_norm_figure, train_val_figure
from analysis.runs.load import Run
from analysis.runs.trial_csv import D, N
from analysis.scaling.fit import SETTINGS, Scaling
from analysis.scaling.ladder_fits import LadderFits
from analysis.stats.comparison import Comparison
from analysis.stats.verdicts import Verdicts

MOST_HEADLINES = 3
FIRST_OF_A_LADDER = ("loss_compute", "optima_law")
FIRST_OF_A_SEARCH = ("loss_parameters", "loss_lr", "search_progress", "loss_lr_batch", "differences", "loss_steps")
FIRST = ("differences", "loss_steps", "loss_parameters", "frontier", "loss_size")
"""Names of figures, the one to be seen first at the front."""


@dataclass(frozen=True)
class FigureData:
    """What figures are drawn from; a figure is left out if what it needs is None or empty."""

    run: Run | None = None
    importance: pd.DataFrame | None = None
    comparisons: Sequence[Comparison] = ()
    scaling: Scaling | None = None
    parameters: pd.DataFrame | None = None
    """`analysis.tables.trials.parameter_table`."""
    answer: Verdicts | None = None
    points: pd.DataFrame | None = None
    """Models of a CSV file (`analysis.runs.trial_csv.read_trials`)."""
    ladders: Sequence[LadderFits] = ()


Draw = Callable[[FigureData], ReportFigure | None]


def figures_of(section: str, data: FigureData) -> list[ReportFigure]:
    """The figures of a section of the report.

    >>> figures_of("Scaling", FigureData(scaling=fit_scaling(points)))
    """
    return [figure for draw in FIGURES[section].values() if (figure := draw(data)) is not None]


def headlines(figures: Iterable[ReportFigure], most: int = MOST_HEADLINES) -> list[ReportFigure]:
    """The figures that a reader should see first, at most `most` of those that were drawn.

    >>> headlines([*figures_of("Answer", data), *figures_of("Hyperparameters", data)])

    A search is read from its loss against parameters, its U curves and its best loss so far; a list of experiments from
    the differences from its baseline. A ladder of sizes begins with its laws.
    """
    drawn = {figure.name: figure for figure in figures}
    order = FIRST_OF_A_SEARCH if "loss_lr" in drawn else FIRST
    return [drawn[name] for name in (*FIRST_OF_A_LADDER, *order) if name in drawn][:most]


def _of_run(draw: Callable[[Run], ReportFigure | None]) -> Draw:
    return lambda data: draw(data.run) if data.run else None


def _curve(along: str) -> Draw:
    return _of_run(lambda run: curve_figure(run, along))


def _optimum(setting: str, along: str) -> Draw:
    return lambda data: optimum_figure(data.scaling, setting, along) if data.scaling else None


def _frontier(data: FigureData) -> ReportFigure | None:
    if data.run is not None:
        return frontier_of_run(data.run)
    return frontier_of_points(data.points) if data.points is not None else None


FIGURES: dict[str, dict[str, Draw]] = {
    "Answer": {
        "loss_parameters": lambda data: parameters_figure(data.parameters) if data.parameters is not None else None,
        "differences": lambda data: difference_figure(data.answer) if data.answer else None,
    },
    "Ladder of sizes": {
        "loss_compute": lambda data: loss_compute_figure(data.run, data.ladders) if data.run else None,
        "optima_law": lambda data: optima_law_figure(data.ladders),
    },
    "Curves": {
        **{f"loss_{name}": _curve(along) for along, (name, _) in AXES.items()},
        "train_val": _of_run(train_val_figure),
        "grad_norm": _of_run(grad_norm_figure),
    },
    "Hyperparameters": {
        "loss_lr": _of_run(learning_rate_figure),
        "loss_lr_batch": _of_run(lr_batch_figure),
        "search_progress": _of_run(progress_figure),
        "loss_hyperparameters": _of_run(hyperparameter_figure),
        "overview": _of_run(parallel_figure),
        "importance": lambda data: importance_forest(data.importance) if data.importance is not None else None,
    },
    "Comparisons": {"comparisons": lambda data: comparison_forest(data.comparisons)},
    "Scaling": {
        "frontier": _frontier,
        "loss_size": lambda data: size_figure(data.scaling) if data.scaling else None,
        "isoflop": lambda data: isoflop_figure(data.scaling) if data.scaling else None,
        **{f"optimum_{setting}_{along}": _optimum(setting, along) for setting in SETTINGS for along in (N, D)},
    },
}
"""The key of a figure is the name of its files. The order is that of the report."""
