"""All that is found in a run or in a table of points, as the sections of a report. Nothing is written here."""

from collections.abc import Sequence
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
from analysis.tables.formatting import LEGEND, cost_cells, parameter_cells, plain_cells, trial_cells
from analysis.tables.searched import largest_lr
from analysis.tables.trials import LR_PATH, TIED_PATH, best_table, failure_table, parameter_table, trials_table
from lmcore import columns as col

PARAMETERS, TRIALS = "Parameters and loss: the best trial of each kind", "All trials"
EXPERIMENTS_MOST = 12  # compared with the first


def sections_of_run(run: Run, brief: bool = False) -> list[Section]:
    """The sections of a report of a run, or of several that were put together; `brief` leaves figures and fits out."""
    trials = run.trials
    parameters, failures = parameter_table(trials), failure_table(trials)
    tables = [ReportTable("parameters", PARAMETERS, parameters, parameter_cells(parameters), LEGEND)]
    ended = Section("Trials", [_trials(trials), *([_failures(failures)] if len(failures) else [])])
    if brief:
        return [Section("Parameters and loss", tables), Section("Cost", [_cost(run)]), ended]
    best = best_table(trials)
    tables.append(ReportTable("best", "The best complete trial of each size", best, parameter_cells(best), LEGEND))
    return [
        Section("Parameters and loss", tables),
        Section("Curves", figures=curve_figures(run)),
        _hyperparameters(trials),
        _comparisons(trials),
        scaling_section(fit_scaling(points_of(trials))),
        Section("Cost", [_cost(run)]),
        ended,
    ]


def sections_of_points(points: pd.DataFrame) -> list[Section]:
    """The sections of a report of trials from a CSV, of which no more is known than their points."""
    scaling = fit_scaling(points)
    sections = [scaling_section(scaling)]
    if LR in points:
        stable = {"stability.lr": largest_stable(points[LR], ~np.isfinite(points[LOSS]))}
        sections.append(Section("Learning rate", fitted=stable))
    table = scaling.points
    caption = f"The n = {len(table)} points that the laws of the loss are fitted to."
    sections.append(Section("Points", [ReportTable("points", "Points", table, plain_cells(table), caption)]))
    return sections


def scaling_section(scaling: Scaling) -> Section:
    """Laws of the loss, and of the best settings."""
    fitted: dict[str, Fitted] = {f"scaling.{path}": one for path, one in scaling.fitted.items()}
    fitted |= {f"optimum.{path}": one for path, one in scaling.optimum.items()}
    tables = []
    if not scaling.optima.empty:
        caption = (
            "The optimum of each setting at each N and D: the lowest point of a smooth surface through the trials near "
            "the best, with its 95 % interval; n counts those trials."
        )
        tables.append(ReportTable("optima", "Optimal settings", scaling.optima, plain_cells(scaling.optima), caption))
    notes = ["N counts parameters without embeddings and head." if col.SIZE in scaling.points else "N as given."]
    return Section("Scaling", tables, scaling_figures(scaling), fitted, notes)


def _hyperparameters(trials: pd.DataFrame) -> Section:
    optima = {size: _best_lr(group) for size, group in trials.groupby(col.SIZE, sort=False)}
    edges, shares = largest_lr(trials), importance(trials)
    fitted: dict[str, Fitted] = {f"optimum.lr.{size}": one for size, one in optima.items()}
    fitted |= estimates(shares)
    reading = edges[[col.SIZE, "largest_complete", "smallest_diverged", "complete", "diverged", "reading"]]
    stability = ReportTable(
        "stability",
        "The largest learning rate that did not diverge",
        edges,
        plain_cells(reading),
        "Learning rates at the edge of stability; a trial that was stopped early proves nothing.",
    )
    shares_table = ReportTable(
        "importance",
        "Importance of the hyperparameters",
        shares,
        plain_cells(shares.drop(columns="complete")),
        "PED-ANOVA: in what the best quarter of the trials differ from the rest. 95 % intervals from a bootstrap; n "
        "counts trials. What is not separable does not stand out from shuffled losses.",
    )
    figures = [
        learning_rate_figure(trials, {size: one for size, one in optima.items() if isinstance(one, Estimate)}),
        hyperparameter_figure(trials),
        parallel_coordinates(trials),
        importance_forest(shares),
    ]
    return Section("Hyperparameters", [stability, shares_table], [p for p in figures if p is not None], fitted)


def _best_lr(trials: pd.DataFrame) -> Fitted:
    ended = trials[trials[col.STATUS].isin((col.COMPLETE, col.DIVERGED)) & trials[LR_PATH].notna()]
    losses = ended[col.VAL_LOSS].where(ended[col.STATUS] == col.COMPLETE).fillna(np.inf)
    return find_optima({"lr": ended[LR_PATH].astype("float64")}, losses)["lr"]


def comparisons_of(trials: pd.DataFrame) -> dict[str, Comparison]:
    """By path: tied against untied where both were trained, and every experiment against the first."""
    known = trials[trials[TIED_PATH].notna()]
    comparisons = {}
    if known[TIED_PATH].astype(bool).nunique() == 2:
        tied = compare(known, TIED_PATH, False, True)
        comparisons["tied"] = replace(tied, fields="embeddings", a="untied", b="tied")
    names = list(known[col.EXPERIMENT].dropna().unique())
    for name in names[1 : EXPERIMENTS_MOST + 1]:
        comparisons[name] = compare_experiments(known, names[0], name)
    return comparisons


def _comparisons(trials: pd.DataFrame) -> Section:
    comparisons = comparisons_of(trials)
    if not comparisons:
        return Section("Comparisons")
    tables = [one.table().assign(comparison=f"{one.b} against {one.a}") for one in comparisons.values()]
    table = pd.concat(tables, ignore_index=True)
    table = table[["comparison", *table.columns.drop("comparison")]]
    fitted = {
        path: one
        for name, comparison in comparisons.items()
        for path, one in comparison.fitted(f"paired.{name}").items()
    }
    notes: Sequence[str] = [note for one in comparisons.values() for note in (one.sentence, *one.notes)]
    figure = comparison_forest(list(comparisons.values()))
    shown = ReportTable(
        "comparisons",
        "Paired comparisons",
        table,
        plain_cells(table),
        "Differences in validation loss (nats per token) over pairs of trials that agree in all else, seeds and data "
        "included; n counts pairs. A difference inside the noise is a tie.",
    )
    return Section("Comparisons", [shown], [figure] if figure else [], fitted, list(dict.fromkeys(notes)))


def _cost(run: Run) -> ReportTable:
    table = cost_table(run)
    caption = (
        "A device-second is a second of one engine; trials that were trained as one program share it. FLOP/s: training "
        "FLOPs over device-seconds, evaluation included in the time. Share of the matrix-product rate that the engines "
        "measured."
    )
    return ReportTable("cost", "What it cost", table, cost_cells(table), caption)


def _trials(trials: pd.DataFrame) -> ReportTable:
    table = trials_table(trials)
    return ReportTable("trials", TRIALS, table, trial_cells(table), f"n = {len(table)} trials.")


def _failures(table: pd.DataFrame) -> ReportTable:
    return ReportTable("failures", "What diverged or failed, and why", table, plain_cells(table))
