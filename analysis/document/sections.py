"""The sections of a report: every table, figure and fitted number of a run, or of trials from a CSV.

Everything is computed here and nothing is written: `analysis.report` does that.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.document.ladder_section import forecast_sentences, ladder_section
from analysis.document.section import Section
from analysis.figures.registry import FigureData, figures_of
from analysis.runs.branches import branch_results
from analysis.runs.load import Run
from analysis.runs.trial_csv import LOSS, LR
from analysis.scaling.fit import Scaling, first_arm, fit_scaling, points_of
from analysis.scaling.ladder_fits import fit_ladders
from analysis.scaling.optimum import largest_stable
from analysis.scaling.peak_lr import lr_intervals, peak_lr_notes, peak_lr_optima, peak_lr_optimum
from analysis.stats.comparison import Comparison, compare
from analysis.stats.estimate import Fitted, NotEstimable
from analysis.stats.importance import estimates, importance
from analysis.stats.verdicts import BASELINE, Verdicts, verdicts
from analysis.tables.cost import cost_table
from analysis.tables.differences import difference_cells, each_once
from analysis.tables.files import ReportTable
from analysis.tables.formatting import parameter_cells, parameter_legend, setting_cells, table_cells
from analysis.tables.searched import largest_lr
from analysis.tables.settings import settings_table
from analysis.tables.trials import TIED_PATH, best_table, failure_table, parameter_table, trials_table
from lmcore import columns as col

ANSWER = "Answer"
PARAMETERS = "Parameters and loss: the leading setting of each arm"
DIFFERENCES = "Differences from {baseline}"
DIFFERENCE_CAPTION = (
    "Mean differences in validation loss (nats per token) of {what}, the largest gain first. n: the seeds that both "
    "were trained under; the noise is that of all settings of a size. One seed: a run of each on the windows that both "
    "share, clustered by document; what another seed would change is not included. A tie: the interval contains 0."
)
SETTINGS_CAPTION = (
    "Every setting that was trained under more than one seed: mean over seeds +- half of its 95 % interval, standard "
    "deviation between seeds (sd), and their number n."
)
TRIALS_CAPTION = "n = {n} trials. se: standard error of the validation loss over its windows, not over seeds."
ARM_NOTE = "The laws are those of {arm}, the first arm: no law of one arm holds for several."
BRANCH_NOTE = (
    "{count} of the {n} points of the laws are branches: models decayed at a shorter budget (train.branches). "
    "A branch shares the trunk of its run; the intervals count it as independent of that."
)
BRANCH_CAPTION = (
    "Finished models of shorter budgets, each the branch of a trial (train.branches): losses and FLOPs are those of a "
    "run of so many updates from the start. se: standard error over validation windows, not over seeds. The status "
    "is that of the trial. own tokens: those of the decay, which it cost beside the trial."
)
COST_CAPTION = (
    "A device-second is a second of one device; trials that were trained as one program share it. FLOP/s: training "
    "FLOPs over device-seconds, which include evaluation. Share of peak: of the FLOP/s of matrix products that the "
    "engines measured."
)
OPTIMA_CAPTION = (
    "The optimum of each setting at each N and D: the lowest point of a smooth surface through the trials near "
    "the best, with its 95 % interval; n counts those trials."
)
STABILITY_CAPTION = "Learning rates at the edge of stability. A trial that was stopped early shows nothing about it."
IMPORTANCE_CAPTION = (
    "PED-ANOVA: how far the settings of the best quarter of the trials differ from the rest. 95 % intervals "
    "from a bootstrap; n counts trials. What is not separable does not stand out from shuffled losses."
)
COMPARISON_CAPTION = (
    "Differences in validation loss (nats per token) over pairs of trials that agree in all else, seeds and data "
    "included; n counts pairs. A difference inside the noise is a tie."
)


def sections_of_run(run: Run, brief: bool = False) -> list[Section]:
    """The sections of a report of a run, or of several that were combined; `brief` leaves out figures and fits."""
    trials = run.trials
    all_trials, failures = trials_table(trials), failure_table(trials)
    caption = TRIALS_CAPTION.format(n=len(all_trials))
    ended = [_table("trials", "All trials", all_trials, caption, [col.SIZE, col.MESSAGE])]
    if len(failures):
        ended.append(_table("failures", "Why trials diverged or failed", failures))
    cost = _table("cost", "Cost", cost_table(run), COST_CAPTION)
    last = [Section("Cost", [cost]), Section("Trials", ended)]
    answer = answer_section(trials, brief)
    if brief:
        return [answer, *_branch_sections(run), *last]
    ladders = fit_ladders(run)
    return [
        replace(answer, lead=(*answer.lead, *forecast_sentences(ladders))),
        ladder_section(ladders, run),
        Section("Curves", figures=figures_of("Curves", FigureData(run))),
        _hyperparameter_section(run),
        _comparison_section(comparisons_of(trials)),
        scaling_section(fit_scaling(points_of(trials, run.branches)), first_arm(trials), FigureData(run)),
        *_branch_sections(run),
        *last,
    ]


def _branch_sections(run: Run) -> list[Section]:
    """The section of the branches; none if there are none."""
    table = branch_results(run.branches)
    if table.empty:
        return []
    hidden = [col.VAL_LOSS, col.VAL_LOSS_SE, col.TRAIN_LOSS, col.FINAL_VAL_LOSS, col.FINAL_VAL_LOSS_SE]
    return [Section("Branches", [_table("branches", "Branches", table, BRANCH_CAPTION, hidden)])]


def answer_section(trials: pd.DataFrame, brief: bool = False) -> Section:
    """What the run says: a sentence per size, parameters against loss, and differences between arms."""
    optima = peak_lr_optima(trials)
    parameters, answer = parameter_table(trials, lr_intervals(optima)), verdicts(trials)
    cells, legend = parameter_cells(parameters), parameter_legend(parameters)
    tables = [ReportTable("parameters", PARAMETERS, parameters, cells, legend)]
    if any(size.differences for size in answer.sizes):
        tables.append(_difference_table(answer))
    settings = settings_table(trials)
    if (settings["n"] > 1).any() and not answer.of_experiments:  # of these the parameter table has all runs
        repeated = settings[settings["n"] > 1].reset_index(drop=True)
        shown = ReportTable("settings", "Settings by seed", repeated, setting_cells(repeated), SETTINGS_CAPTION)
        tables.append(shown)
    best = best_table(trials)
    if not brief and len(best) < len(parameters):
        shown = ReportTable("best", "The best of each size", best, parameter_cells(best), parameter_legend(best))
        tables.append(shown)
    figures = [] if brief else figures_of("Answer", FigureData(parameters=parameters, answer=answer))
    fitted = answer.fitted() | {f"answer.{size}.{arm}.peak_lr": one for (size, arm), one in optima.items()}
    notes = (*answer.settings, *peak_lr_notes(trials, optima), *answer.notes)
    return Section(ANSWER, tables, figures, fitted, notes, lead=answer.sentences)


def _difference_table(answer: Verdicts) -> ReportTable:
    table = answer.table()
    baseline = answer.baseline or "the first"
    title = DIFFERENCES.format(baseline="the baseline" if baseline == BASELINE else baseline)
    what = "experiments, each as it was configured" if answer.of_experiments else "leading settings"
    cells = difference_cells(table, answer.of_experiments)
    return ReportTable("differences", title, table, cells, DIFFERENCE_CAPTION.format(what=what))


def sections_of_points(points: pd.DataFrame) -> list[Section]:
    """The sections of a report of trials from a CSV (`analysis.runs.trial_csv.read_trials`)."""
    scaling = fit_scaling(points)
    sections = [scaling_section(scaling, figures=FigureData(points=points))]
    if LR in points:
        stable = {"stability.lr": largest_stable(points[LR], ~np.isfinite(points[LOSS]))}
        sections.append(Section("Learning rate", fitted=stable))
    caption = f"The n = {len(scaling.points)} points that the loss laws are fitted to."
    return [*sections, Section("Points", [_table("points", "Points", scaling.points, caption)])]


def scaling_section(scaling: Scaling, arm: str | None = None, figures: FigureData | None = None) -> Section:
    """Laws of the loss and of the optimal settings; `arm` is the one that they are fitted to.

    `figures` has the run, or the points, for figures that show more than the laws.
    """
    fitted: dict[str, Fitted] = {f"scaling.{path}": one for path, one in scaling.fitted.items()}
    fitted |= {f"optimum.{path}": one for path, one in scaling.optimum.items()}
    tables = [_table("optima", "Optimal settings", scaling.optima, OPTIMA_CAPTION)] if len(scaling.optima) else []
    from_run = col.SIZE in scaling.points
    note = "N counts parameters without embeddings and head." if from_run else "N is that of the CSV file."
    notes = [note] if arm is None else [note, ARM_NOTE.format(arm=arm)]
    if col.BRANCH in scaling.points and (count := int(scaling.points[col.BRANCH].notna().sum())):
        notes.append(BRANCH_NOTE.format(count=count, n=len(scaling.points)))
    data = replace(figures or FigureData(), scaling=scaling)
    return Section("Scaling", tables, figures_of("Scaling", data), fitted, notes)


def comparisons_of(trials: pd.DataFrame) -> dict[str, Comparison]:
    """`tied` against untied where one search or grid trained both. Arms and experiments are compared in the answer."""
    known = trials[trials[TIED_PATH].notna() & trials[col.ARM].isna() & trials[col.EXPERIMENT].isna()]
    if known[TIED_PATH].astype(bool).nunique() < 2:
        return {}
    tied = compare(known, TIED_PATH, False, True)
    return {"tied": replace(tied, fields="embeddings", a="untied", b="tied")}


def _hyperparameter_section(run: Run) -> Section:
    searched = run.trials[run.trials[col.PHASE] == col.SEARCH]  # a confirmation repeats what was selected
    arm = first_arm(searched)
    of_arm = searched if arm is None else searched[searched[col.ARM] == arm]
    optima = {size: peak_lr_optimum(group) for size, group in of_arm.groupby(col.SIZE, sort=False)}
    edges, shares = largest_lr(run.trials), importance(searched)
    csv_only = ["largest_complete_trial", "smallest_diverged_trial", "overlap", "pruned_above"]
    title = "The largest learning rate that did not diverge"
    tables = [
        _table("stability", title, edges, STABILITY_CAPTION, csv_only),
        _table("importance", "Importance of the hyperparameters", shares, IMPORTANCE_CAPTION, ["complete"]),
    ]
    figures = figures_of("Hyperparameters", FigureData(run, importance=shares))
    fitted: dict[str, Fitted] = {f"optimum.lr.{size}": one for size, one in optima.items()}
    unknown = edges[edges["refused"].notna()]
    fitted |= {f"stability.lr.{one.size}": NotEstimable(one.refused) for one in unknown.itertuples()}
    notes = [f"Optimal learning rates are those of {arm}, the first arm; the answer has those of all."] if arm else []
    return Section("Hyperparameters", tables, figures, fitted | estimates(shares), notes)


def _comparison_section(comparisons: dict[str, Comparison]) -> Section:
    if not comparisons:
        return Section("Comparisons")
    tables = [one.table().assign(comparison=f"{one.b} against {one.a}") for one in comparisons.values()]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "comparison", table.pop("comparison"))
    cells = table_cells(each_once(table).drop(columns="refused"))
    shown = ReportTable("comparisons", "Paired comparisons", table, cells, COMPARISON_CAPTION)
    fitted = {path: one for name, c in comparisons.items() for path, one in c.fitted(f"paired.{name}").items()}
    estimable = [one for one in comparisons.values() if one.is_estimable]
    notes = dict.fromkeys(note for one in estimable for note in (one.summary, *one.notes))
    figures = figures_of("Comparisons", FigureData(comparisons=list(comparisons.values())))
    return Section("Comparisons", [shown], figures, fitted, list(notes))


def _table(name: str, title: str, frame: pd.DataFrame, caption: str = "", hidden: Sequence[str] = ()) -> ReportTable:
    """A table whose cells leave out the columns `hidden`, and rows that are not estimable: the CSV file has them."""
    shown = frame
    if "refused" in frame and "refused" not in hidden:
        shown, hidden = frame[frame["refused"].isna()].reset_index(drop=True), [*hidden, "refused"]
    return ReportTable(name, title, frame, table_cells(shown.drop(columns=list(hidden))), caption)
