"""FIGURES: every figure of a report, by section and by name.

To add a figure, write a function that returns a `ReportFigure`, or None if there is nothing to draw, in a file of this
package; add a line to FIGURES; and test it in tests/analysis/test_figures.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.figures.answer import parameters_figure
from analysis.figures.curves import AXES, curve_figure
from analysis.figures.hyperparameters import hyperparameter_figure, learning_rate_figure, parallel_coordinates
from analysis.figures.intervals import comparison_forest, importance_forest
from analysis.figures.scaling import isoflop_figure, optimum_figure, size_figure
from analysis.figures.report_figure import ReportFigure
from analysis.runs.load import Run
from analysis.runs.trial_csv import D, N
from analysis.scaling.fit import SETTINGS, Scaling
from analysis.stats.comparison import Comparison
from analysis.stats.estimate import Fitted


@dataclass(frozen=True)
class FigureData:
    """What figures are drawn from; a figure is left out if what it needs is None or empty."""

    run: Run | None = None
    lr_optima: Mapping[str, Fitted] = field(default_factory=dict)
    """By size: the optimal learning rate (`analysis.scaling.optimum.find_optima`)."""
    importance: pd.DataFrame | None = None
    comparisons: Sequence[Comparison] = ()
    scaling: Scaling | None = None
    parameters: pd.DataFrame | None = None
    """`analysis.tables.trials.parameter_table`."""


Draw = Callable[[FigureData], ReportFigure | None]


def figures_of(section: str, data: FigureData) -> list[ReportFigure]:
    """The figures of a section of the report.

    >>> figures_of("Scaling", FigureData(scaling=fit_scaling(points)))
    """
    return [figure for draw in FIGURES[section].values() if (figure := draw(data)) is not None]


def _curve(along: str) -> Draw:
    return lambda data: curve_figure(data.run, along) if data.run else None


def _optimum(setting: str, along: str) -> Draw:
    return lambda data: optimum_figure(data.scaling, setting, along) if data.scaling else None


FIGURES: dict[str, dict[str, Draw]] = {
    "Answer": {
        "loss_parameters": lambda data: parameters_figure(data.parameters) if data.parameters is not None else None
    },
    "Curves": {f"loss_{name}": _curve(along) for along, (name, _) in AXES.items()},
    "Hyperparameters": {
        "loss_lr": lambda data: learning_rate_figure(data.run.trials, data.lr_optima) if data.run else None,
        "loss_hyperparameters": lambda data: hyperparameter_figure(data.run.trials) if data.run else None,
        "overview": lambda data: parallel_coordinates(data.run.trials) if data.run else None,
        "importance": lambda data: importance_forest(data.importance) if data.importance is not None else None,
    },
    "Comparisons": {"comparisons": lambda data: comparison_forest(data.comparisons)},
    "Scaling": {
        "loss_size": lambda data: size_figure(data.scaling) if data.scaling else None,
        "isoflop": lambda data: isoflop_figure(data.scaling) if data.scaling else None,
        **{f"optimum_{setting}_{along}": _optimum(setting, along) for setting in SETTINGS for along in (N, D)},
    },
}
"""The key of a figure is the name of its files. The order is that of the report."""
