"""The sections of a report: every table, figure and fitted number of a run, or of trials from a CSV.

Everything is computed here and nothing is written: `analysis.report` does that.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.document.page import Section
from analysis.figures.curves import curve_figures
from analysis.figures.hyperparameters import hyperparameter_figure, learning_rate_figure, parallel_coordinates
from analysis.figures.intervals import comparison_forest, importance_forest
from analysis.figures.scaling import scaling_figures
from analysis.runs.load import Run
from analysis.runs.trial_csv import LOSS, LR
from analysis.scaling.fit import Scaling, fit_scaling, points_of
from analysis.scaling.optimum import find_optima, largest_stable
from analysis.stats.comparison import Comparison, compare, compare_experiments
from analysis.stats.estimate import Estimate, Fitted
from analysis.stats.importance import estimates, importance
from analysis.tables.cost import cost_table
from analysis.tables.files import ReportTable
from analysis.tables.formatting import LEGEND, parameter_cells, table_cells
from analysis.tables.searched import largest_lr
from analysis.tables.trials import TIED_PATH, best_table, failure_table, parameter_table, trials_table
from lmcore import columns as col

PARAMETERS = "Parameters and loss: the best trial of each arm"
MAX_EXPERIMENTS = 12  # compared with the first


def sections_of_run(run: Run, brief: bool = False) -> list[Section]:
    """The sections of a report of a run, or of several that were combined; `brief` leaves out figures and fits."""
    trials = run.trials
    parameters, all_trials, failures = parameter_table(trials), trials_table(trials), failure_table(trials)
    tables = [ReportTable("parameters", PARAMETERS, parameters, parameter_cells(parameters), LEGEND)]
    ended = [_table("trials", "All trials", all_trials, f"n = {len(all_trials)} trials.", [col.SIZE, col.MESSAGE])]
    if len(failures):
        ended.append(_table("failures", "Why trials diverged or failed", failures))
    last = [Section("Cost", [_cost_table(run)]), Section("Trials", ended)]
    if brief:
        return [Section("Parameters and loss", tables), *last]
    best = best_table(trials)
    tables.append(ReportTable("best", "The best complete trial of each size", best, parameter_cells(best), LEGEND))
    return [
        Section("Parameters and loss", tables),
        Section("Curves", figures=curve_figures(run)),
        _hyperparameter_section(trials),
        _comparison_section(trials),
        scaling_section(fit_scaling(points_of(trials))),
        *last,
    ]


def sections_of_points(points: pd.DataFrame) -> list[Section]:
    """The sections of a report of trials from a CSV (`analysis.runs.trial_csv.read_trials`)."""
    scaling = fit_scaling(points)
    sections = [scaling_section(scaling)]
    if LR in points:
        stable = {"stability.lr": largest_stable(points[LR], ~np.isfinite(points[LOSS]))}
        sections.append(Section("Learning rate", fitted=stable))
    caption = f"The n = {len(scaling.points)} points that the loss laws are fitted to."
    return [*sections, Section("Points", [_table("points", "Points", scaling.points, caption)])]


def scaling_section(scaling: Scaling) -> Section:
    """Laws of the loss and of the optimal settings."""
    fitted: dict[str, Fitted] = {f"scaling.{path}": one for path, one in scaling.fitted.items()}
    fitted |= {f"optimum.{path}": one for path, one in scaling.optimum.items()}
    caption = (
        "The optimum of each setting at each N and D: the lowest point of a smooth surface through the trials near "
        "the best, with its 95 % interval; n counts those trials."
    )
    tables = [_table("optima", "Optimal settings", scaling.optima, caption)] if len(scaling.optima) else []
    from_run = col.SIZE in scaling.points
    note = "N counts parameters without embeddings and head." if from_run else "N is that of the CSV file."
    return Section("Scaling", tables, scaling_figures(scaling), fitted, [note])


def comparisons_of(trials: pd.DataFrame) -> dict[str, Comparison]:
    """By name: `tied` against untied where both were trained, and each experiment against the first."""
    known = trials[trials[TIED_PATH].notna()]
    comparisons = {}
    if known[TIED_PATH].astype(bool).nunique() == 2:
        tied = compare(known, TIED_PATH, False, True)
        comparisons["tied"] = replace(tied, fields="embeddings", a="untied", b="tied")
    baseline, *others = [*known[col.EXPERIMENT].dropna().unique()] or [None]
    return comparisons | {name: compare_experiments(known, baseline, name) for name in others[:MAX_EXPERIMENTS]}


def _hyperparameter_section(trials: pd.DataFrame) -> Section:
    optima: dict[str, Fitted] = {}
    for size, group in trials.groupby(col.SIZE, sort=False):
        points = points_of(group)
        optima[size] = find_optima({"lr": points[LR]}, points[LOSS])["lr"]
    edges, shares = largest_lr(trials), importance(trials)
    csv_only = ["largest_complete_trial", "smallest_diverged_trial", "overlap", "pruned_above", "refused"]
    tables = [
        _table(
            "stability",
            "The largest learning rate that did not diverge",
            edges,
            "Learning rates at the edge of stability. A trial that was stopped early shows nothing about it.",
            hidden=csv_only,
        ),
        _table(
            "importance",
            "Importance of the hyperparameters",
            shares,
            "PED-ANOVA: how far the settings of the best quarter of the trials differ from the rest. 95 % intervals "
            "from a bootstrap; n counts trials. What is not separable does not stand out from shuffled losses.",
            hidden=["complete"],
        ),
    ]
    figures = [
        learning_rate_figure(trials, {size: one for size, one in optima.items() if isinstance(one, Estimate)}),
        hyperparameter_figure(trials),
        parallel_coordinates(trials),
        importance_forest(shares),
    ]
    fitted: dict[str, Fitted] = {f"optimum.lr.{size}": one for size, one in optima.items()}
    return Section("Hyperparameters", tables, [one for one in figures if one is not None], fitted | estimates(shares))


def _comparison_section(trials: pd.DataFrame) -> Section:
    comparisons = comparisons_of(trials)
    if not comparisons:
        return Section("Comparisons")
    tables = [one.table() for one in comparisons.values()]
    for table, one in zip(tables, comparisons.values(), strict=True):
        table.insert(0, "comparison", f"{one.b} against {one.a}")
    shown = _table(
        "comparisons",
        "Paired comparisons",
        pd.concat(tables, ignore_index=True),
        "Differences in validation loss (nats per token) over pairs of trials that agree in all else, seeds and data "
        "included; n counts pairs. A difference inside the noise is a tie.",
    )
    fitted: dict[str, Fitted] = {}
    for name, one in comparisons.items():
        fitted |= one.fitted(f"paired.{name}")
    notes = dict.fromkeys(note for one in comparisons.values() for note in (one.sentence, *one.notes))
    figure = comparison_forest(list(comparisons.values()))
    return Section("Comparisons", [shown], [figure] if figure else [], fitted, list(notes))


def _cost_table(run: Run) -> ReportTable:
    caption = (
        "A device-second is a second of one device; trials that were trained as one program share it. FLOP/s: training "
        "FLOPs over device-seconds, which include evaluation. Share of peak: of the FLOP/s of matrix products that the "
        "engines measured."
    )
    return _table("cost", "Cost", cost_table(run), caption)


def _table(
    name: str, title: str, frame: pd.DataFrame, caption: str = "", hidden: list[str] | None = None
) -> ReportTable:
    """A table whose cells leave out the columns `hidden`, which only the CSV file has."""
    return ReportTable(name, title, frame, table_cells(frame.drop(columns=hidden or [])), caption)
