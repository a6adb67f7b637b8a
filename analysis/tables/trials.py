"""The tables of a sweep, each a function from the `trials` of `analysis.load` to a new DataFrame in full precision.

Nothing is rounded, printed or written here (`analysis.tables.formatting` and `analysis.report` do that). A loss of a
trial that did not run to its end never stands in for a final one unmarked: every row that shows a loss shows the
trial's status.
"""

import numpy as np
import pandas as pd

from lmcore import columns as col

TIED = "tied"
WARMUP = "warmup"  # fraction of the run
SHORT_NAMES = {"tie_embeddings": TIED, "warmup_fraction": WARMUP}
TIED_PATH = f"{col.PARAMS_PREFIX}model.tie_embeddings"
LR_PATH = f"{col.PARAMS_PREFIX}optim.lr"

BEST_FIRST = (col.COMPLETE, col.PRUNED, col.RUNNING, col.DIVERGED, col.FAILED)
WITH_A_LOSS = (col.COMPLETE, col.PRUNED, col.RUNNING)  # what a diverged or failed trial last reported is no result

SEPARABLE_SE = 2.0  # a difference is called real beyond this many standard errors


def parameter_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Parameter count against loss: the best trial of each (size, tied), and of each experiment where there are any.

    The best is the complete trial with the lowest validation loss; a kind without a complete trial is represented by
    the pruned or running one with the lowest last loss, and `status` says so. A kind whose trials all diverged or
    failed has no row. Columns: size, [experiment], tied, params_estimate, params_exact, params_non_embedding, tokens,
    train_flops, val_loss (nats per token), val_loss_se, perplexity, bits_per_byte, lr, beta1, beta2, warmup (fraction
    of the run), step, status, trial.
    """
    known = trials[trials[TIED_PATH].notna()]
    names = {TIED_PATH: TIED, **{f"{col.PARAMS_PREFIX}optim.{name}": name for name in ("lr", "beta1", "beta2")}}
    table = known.rename(columns={**names, f"{col.PARAMS_PREFIX}optim.warmup_fraction": WARMUP})
    table[TIED] = table[TIED].astype(bool)
    table = table[table[col.STATUS].isin(WITH_A_LOSS) & np.isfinite(table[col.VAL_LOSS])]

    kind = [col.SIZE, *_experiment(trials), TIED]
    table = table.assign(unfinished=table[col.STATUS] != col.COMPLETE)
    best_first = table.sort_values(["unfinished", col.VAL_LOSS, col.NUMBER])
    best = _sorted(best_first.drop_duplicates(kind), kind, trials)
    counts = [col.PARAMS_ESTIMATE, col.PARAMS_EXACT, col.PARAMS_NON_EMBEDDING]
    result = [col.TOKENS, col.TRAIN_FLOPS, col.VAL_LOSS, col.VAL_LOSS_SE, col.PERPLEXITY, col.BITS_PER_BYTE]
    return best[[*kind, *counts, *result, "lr", "beta1", "beta2", WARMUP, col.STEP, col.STATUS, col.TRIAL]]


def trials_table(trials: pd.DataFrame) -> pd.DataFrame:
    """All trials, by size, then status from complete to failed, then validation loss.

    Columns: trial, size, [experiment], status, val_loss, val_loss_se, train_loss, lr, every other hyperparameter that
    varies within a size (what tells the sizes apart is not repeated in each trial), step, tokens, elapsed_s,
    tokens_per_s, message.
    """
    paths = [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]
    known = trials[trials[LR_PATH].notna()].groupby(col.SIZE)
    varying = [path for path in paths if path != LR_PATH and known[path].nunique(dropna=False).gt(1).any()]
    identity = [col.TRIAL, col.SIZE, *_experiment(trials), col.STATUS]
    losses = [col.VAL_LOSS, col.VAL_LOSS_SE, col.TRAIN_LOSS]
    effort = [col.STEP, col.TOKENS, col.ELAPSED_S, col.TOKENS_PER_S]
    table = _sorted(trials, [col.SIZE, col.STATUS, col.VAL_LOSS, col.NUMBER], trials)
    table = table[[*identity, *losses, LR_PATH, *varying, *effort, col.MESSAGE]]
    return table.rename(columns=short_names(paths))


def status_counts(trials: pd.DataFrame) -> pd.DataFrame:
    """How the trials of each size ended: columns size, complete, pruned, running, diverged, failed, total."""
    counts = pd.crosstab(trials[col.SIZE], trials[col.STATUS])
    counts = counts.reindex(index=trials[col.SIZE].unique(), columns=list(BEST_FIRST), fill_value=0)
    return counts.assign(total=counts.sum(axis=1)).rename_axis(index=col.SIZE, columns=None).reset_index()


def winner_margins(trials: pd.DataFrame) -> pd.DataFrame:
    """By how much the best complete trial of each size leads the runner-up, in units of the evaluation's noise.

    One row per size with at least two complete trials. Columns: size, best, runner_up (trials), difference (nats per
    token), difference_se = sqrt(se1^2 + se2^2), separable: difference > 2 difference_se (False where an error is
    unknown). This covers the choice of validation windows, not that of the seeds.
    """
    # The windows are the same for both trials, so the error of the *paired* difference is smaller than this. It would
    # need the loss of each window, which rows do not hold; without it the test is conservative.
    complete = trials[(trials[col.STATUS] == col.COMPLETE) & np.isfinite(trials[col.VAL_LOSS])]
    records = []
    for size, group in _sorted(complete, [col.SIZE, col.VAL_LOSS, col.NUMBER], trials).groupby(col.SIZE, sort=False):
        if len(group) < 2:
            continue
        best, runner_up = group.iloc[0], group.iloc[1]
        difference = runner_up[col.VAL_LOSS] - best[col.VAL_LOSS]
        error = float(np.hypot(best[col.VAL_LOSS_SE], runner_up[col.VAL_LOSS_SE]))
        separable = difference > SEPARABLE_SE * error
        records.append((size, best[col.TRIAL], runner_up[col.TRIAL], difference, error, separable))
    return pd.DataFrame(records, columns=[col.SIZE, "best", "runner_up", "difference", "difference_se", "separable"])


def _experiment(trials: pd.DataFrame) -> list[str]:
    """The column of experiments, where there are any."""
    return [col.EXPERIMENT] if trials[col.EXPERIMENT].notna().any() else []


def _sorted(frame: pd.DataFrame, by: list[str], trials: pd.DataFrame) -> pd.DataFrame:
    """`frame` by these columns: sizes and experiments in the order of `trials`, statuses with the best first."""
    values = {name: trials[name].unique() for name in (col.SIZE, col.EXPERIMENT)} | {col.STATUS: BEST_FIRST}
    order = {name: {value: place for place, value in enumerate(known)} for name, known in values.items()}

    def place(column: pd.Series) -> pd.Series:
        return column.map(order[column.name]) if column.name in order else column

    return frame.sort_values(by, key=place, kind="stable").reset_index(drop=True)


def short_names(paths: list[str]) -> dict[str, str]:
    """Dotted paths to the names of table columns: the field alone, or with its part where two parts have it."""
    fields = [path.rpartition(".")[2] for path in paths]
    return {
        path: SHORT_NAMES.get(field, field) if fields.count(field) == 1 else path.removeprefix(col.PARAMS_PREFIX)
        for path, field in zip(paths, fields, strict=True)
    }


def failure_table(trials: pd.DataFrame) -> pd.DataFrame:
    """What diverged or failed, and why: columns status, message, number (of trials), trials (their names).

    A row for each different message, the most frequent first.
    """
    ended = trials[trials[col.STATUS].isin((col.DIVERGED, col.FAILED))].fillna({col.MESSAGE: "no message"})
    groups = ended.groupby([col.STATUS, col.MESSAGE], sort=False)[col.TRIAL]
    table = groups.agg([("number", "size"), ("trials", ", ".join)]).reset_index()
    return table.sort_values("number", ascending=False, kind="stable", ignore_index=True)


def best_table(trials: pd.DataFrame) -> pd.DataFrame:
    """The best complete trial of each size, tied or not: the columns of `parameter_table`."""
    table = parameter_table(trials)
    complete = table[table[col.STATUS] == col.COMPLETE]
    return complete.loc[complete.groupby(col.SIZE, sort=False)[col.VAL_LOSS].idxmin()].reset_index(drop=True)
