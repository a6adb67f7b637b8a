"""The tables of a sweep: functions from the `trials` of `analysis.load` to a new DataFrame in full precision.

    from analysis.tables.trials import parameter_table
    parameter_table(analysis.load("runs/quick").trials)

Nothing is rounded, printed or written here: `analysis.tables.formatting` and `analysis.report` do that. The loss of a
trial that did not run to its end is not final, so every row that shows a loss also shows the trial's status.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.quoted_loss import with_quoted_loss
from lmcore import columns as col

TIED = "tied"
WARMUP = "warmup"  # fraction of the run
PEAK_LR = "peak_lr"  # optim.lr; the column `lr` of rows is the rate of the last update
SHORT_NAMES = {"tie_embeddings": TIED, "warmup_fraction": WARMUP}
TIED_PATH = f"{col.PARAMS_PREFIX}model.tie_embeddings"
LR_PATH = f"{col.PARAMS_PREFIX}optim.lr"
BETAS_AND_WARMUP = [f"{col.PARAMS_PREFIX}optim.{name}" for name in ("beta1", "beta2", "warmup_fraction")]

BEST_FIRST = (col.COMPLETE, col.PRUNED, col.RUNNING, col.DIVERGED, col.FAILED)
WITH_A_LOSS = (col.COMPLETE, col.PRUNED, col.RUNNING)  # the last loss of a diverged or failed trial is no result

SEPARABLE_SE = 2.0  # a difference beyond this many standard errors counts as real


def parameter_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Parameter count against loss: the best trial of each arm, that is of each size, experiment and tying.

    The best trial is the complete one with the lowest validation loss. An arm without a complete trial is represented
    by the pruned or running trial with the lowest last loss, as `status` shows; an arm whose trials all diverged or
    failed has no row. Columns: size, experiment (in ablations), tied, params_estimate, params_exact,
    params_non_embedding, tokens, train_flops, val_loss (nats per token), val_loss_se, perplexity, bits_per_byte,
    peak_lr, beta1, beta2, warmup (fraction of the run), step, status, trial.
    """
    settings = {TIED_PATH: TIED, LR_PATH: PEAK_LR, **short_names(BETAS_AND_WARMUP)}
    table = trials[trials[TIED_PATH].notna()].rename(columns=settings).astype({TIED: bool})
    table = table[table[col.STATUS].isin(WITH_A_LOSS) & np.isfinite(table[col.VAL_LOSS])]

    arm = [col.SIZE, *_experiment(trials), TIED]
    table = table.assign(unfinished=table[col.STATUS] != col.COMPLETE)
    table = table.sort_values(["unfinished", col.VAL_LOSS, col.NUMBER]).drop_duplicates(arm)
    counts = [col.PARAMS_ESTIMATE, col.PARAMS_EXACT, col.PARAMS_NON_EMBEDDING, col.TOKENS, col.TRAIN_FLOPS]
    losses = [col.VAL_LOSS, col.VAL_LOSS_SE, col.PERPLEXITY, col.BITS_PER_BYTE]
    shown = [*arm, *counts, *losses, *list(settings.values())[1:], col.STEP, col.STATUS, col.TRIAL]
    return _sorted(table, arm, trials)[shown]


def best_table(trials: pd.DataFrame) -> pd.DataFrame:
    """The best complete trial of each size, in any experiment, tied or not: the columns of `parameter_table`."""
    table = parameter_table(trials)
    complete = table[table[col.STATUS] == col.COMPLETE]
    return complete.loc[complete.groupby(col.SIZE, sort=False)[col.VAL_LOSS].idxmin()].reset_index(drop=True)


def trials_table(trials: pd.DataFrame) -> pd.DataFrame:
    """All trials, by size, then status from complete to failed, then validation loss.

    Columns: trial, size, experiment (in ablations), status, val_loss, val_loss_se, train_loss, peak_lr, every other
    hyperparameter that varies within a size, step, tokens, elapsed_s, tokens_per_s, message.
    """
    identity = [col.TRIAL, col.SIZE, *_experiment(trials), col.STATUS]
    losses = [col.VAL_LOSS, col.VAL_LOSS_SE, col.TRAIN_LOSS]
    varying = [path for path in varying_params(trials) if path != LR_PATH]
    effort = [col.STEP, col.TOKENS, col.ELAPSED_S, col.TOKENS_PER_S]
    table = _sorted(trials, [col.SIZE, col.STATUS, col.VAL_LOSS, col.NUMBER], trials)
    table = table[[*identity, *losses, LR_PATH, *varying, *effort, col.MESSAGE]]
    return table.rename(columns={**short_names(param_columns(trials)), LR_PATH: PEAK_LR})


def status_counts(trials: pd.DataFrame) -> pd.DataFrame:
    """How the trials of each size ended: columns size, complete, pruned, running, diverged, failed, total."""
    counts = pd.crosstab(trials[col.SIZE], trials[col.STATUS])
    counts = counts.reindex(index=trials[col.SIZE].unique(), columns=list(BEST_FIRST), fill_value=0)
    return counts.assign(total=counts.sum(axis=1)).rename_axis(index=col.SIZE, columns=None).reset_index()


def winner_margins(trials: pd.DataFrame) -> pd.DataFrame:
    """By how much the best complete trial of each size leads the runner-up, and whether the lead exceeds the noise.

    One row per size with at least two complete trials. Columns: size, best, runner_up (trial ids), difference (nats
    per token), difference_se = sqrt(se1^2 + se2^2), separable (difference > 2 difference_se; False where an error is
    unknown). The standard errors cover the choice of validation windows, not the spread between seeds.
    """
    # Both trials see the same windows, so the error of the paired difference is smaller than this one. It would take
    # the loss of each window, which rows do not hold. Without it the test is conservative.
    complete = _sorted(complete_trials(trials), [col.SIZE, col.VAL_LOSS, col.NUMBER], trials)
    records = []
    for size, group in complete.groupby(col.SIZE, sort=False):
        if len(group) > 1:
            best, runner_up = group.iloc[0], group.iloc[1]
            difference = runner_up[col.VAL_LOSS] - best[col.VAL_LOSS]
            error = float(np.hypot(best[col.VAL_LOSS_SE], runner_up[col.VAL_LOSS_SE]))
            separable = difference > SEPARABLE_SE * error
            records.append((size, best[col.TRIAL], runner_up[col.TRIAL], difference, error, separable))
    return pd.DataFrame(records, columns=[col.SIZE, "best", "runner_up", "difference", "difference_se", "separable"])


def failure_table(trials: pd.DataFrame) -> pd.DataFrame:
    """`failures` with the ids of the trials separated by commas."""
    return failures(trials).assign(trials=lambda table: table["trials"].map(", ".join))


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Why trials diverged or failed, the most frequent first. Columns: status, message, number, trials (their ids)."""
    ended = trials[trials[col.STATUS].isin((col.DIVERGED, col.FAILED))].fillna({col.MESSAGE: "no message"})
    groups = ended.groupby([col.STATUS, col.MESSAGE], sort=False)[col.TRIAL]
    table = groups.agg([("number", "size"), ("trials", list)]).reset_index()
    return table.sort_values("number", ascending=False, kind="stable", ignore_index=True)


def complete_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that ran to their end with a finite loss, with the columns `loss` and `loss_se`."""
    trials = with_quoted_loss(trials)
    return trials[(trials[col.STATUS] == col.COMPLETE) & np.isfinite(trials[col.LOSS])]


def param_columns(trials: pd.DataFrame) -> list[str]:
    """All columns `params.<path>`, in their order."""
    return [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]


def varying_params(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>` that take more than one value within a size. Trials without a RunSpec do not count."""
    known = trials[trials[LR_PATH].notna()].groupby(col.SIZE)
    return [path for path in param_columns(trials) if known[path].nunique(dropna=False).gt(1).any()]


def short_names(paths: list[str]) -> dict[str, str]:
    """Short column names of dotted paths: the field alone, or the whole path where two parts have the same field.

    >>> short_names(["params.train.seed", "params.data.seed", "params.model.tie_embeddings"])
    {'params.train.seed': 'train.seed', 'params.data.seed': 'data.seed', 'params.model.tie_embeddings': 'tied'}
    """
    fields = [path.rpartition(".")[2] for path in paths]
    return {
        path: SHORT_NAMES.get(field, field) if fields.count(field) == 1 else path.removeprefix(col.PARAMS_PREFIX)
        for path, field in zip(paths, fields, strict=True)
    }


def _experiment(trials: pd.DataFrame) -> list[str]:
    """The column of experiments, if the trials have any."""
    return [col.EXPERIMENT] if trials[col.EXPERIMENT].notna().any() else []


def _sorted(frame: pd.DataFrame, by: list[str], trials: pd.DataFrame) -> pd.DataFrame:
    """`frame` sorted by these columns: sizes and experiments in the order of `trials`, statuses as in BEST_FIRST."""
    orders: dict[Any, Any] = {name: trials[name].unique() for name in (col.SIZE, col.EXPERIMENT)}
    orders[col.STATUS] = BEST_FIRST

    def rank(column: pd.Series) -> pd.Series:
        order = orders.get(column.name)
        return column if order is None else column.map({value: place for place, value in enumerate(order)})

    return frame.sort_values(by, key=rank, kind="stable", ignore_index=True)
