"""The tables of a sweep, each a function from the `trials` of `analysis.load` to a new DataFrame in full precision.

Nothing is rounded, printed or written here (`analysis.rendering` and `analysis.report` do that). A loss of a trial that
did not run to its end never stands in for a final one unmarked: every row that shows a loss shows the trial's status.
"""

import numpy as np
import pandas as pd

from lmcore.columns import (
    BITS_PER_BYTE,
    COMPLETE,
    DIVERGED,
    ELAPSED_S,
    EXPERIMENT,
    FAILED,
    MESSAGE,
    NUMBER,
    PARAMS_ESTIMATE,
    PARAMS_EXACT,
    PARAMS_NON_EMBEDDING,
    PARAMS_PREFIX,
    PERPLEXITY,
    PRUNED,
    RUNNING,
    SIZE,
    STATUS,
    STEP,
    TOKENS,
    TOKENS_PER_S,
    TRAIN_FLOPS,
    TRAIN_LOSS,
    TRIAL,
    VAL_LOSS,
    VAL_LOSS_SE,
)

TIED = "tied"
WARMUP = "warmup"  # fraction of the run
SHORT_NAMES = {"tie_embeddings": TIED, "warmup_fraction": WARMUP}
TIED_PATH = f"{PARAMS_PREFIX}model.tie_embeddings"
LR_PATH = f"{PARAMS_PREFIX}optim.lr"

BEST_FIRST = (COMPLETE, PRUNED, RUNNING, DIVERGED, FAILED)
WITH_A_LOSS = (COMPLETE, PRUNED, RUNNING)  # what a diverged or failed trial last reported is no result

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
    names = {TIED_PATH: TIED, **{f"{PARAMS_PREFIX}optim.{name}": name for name in ("lr", "beta1", "beta2")}}
    table = known.rename(columns={**names, f"{PARAMS_PREFIX}optim.warmup_fraction": WARMUP})
    table[TIED] = table[TIED].astype(bool)
    table = table[table[STATUS].isin(WITH_A_LOSS) & np.isfinite(table[VAL_LOSS])]

    experiment = [EXPERIMENT] if trials[EXPERIMENT].notna().any() else []
    kind = [SIZE, *experiment, TIED]
    best_first = table.assign(unfinished=table[STATUS] != COMPLETE).sort_values(["unfinished", VAL_LOSS, NUMBER])
    best = _sorted(best_first.drop_duplicates(kind), kind, trials)
    counts = [PARAMS_ESTIMATE, PARAMS_EXACT, PARAMS_NON_EMBEDDING]
    result = [TOKENS, TRAIN_FLOPS, VAL_LOSS, VAL_LOSS_SE, PERPLEXITY, BITS_PER_BYTE]
    return best[[*kind, *counts, *result, "lr", "beta1", "beta2", WARMUP, STEP, STATUS, TRIAL]]


def trials_table(trials: pd.DataFrame) -> pd.DataFrame:
    """All trials, by size, then status from complete to failed, then validation loss.

    Columns: trial, size, [experiment], status, val_loss, val_loss_se, train_loss, lr, every other hyperparameter that
    varies within a size (what tells the sizes apart is not repeated in each trial), step, tokens, elapsed_s,
    tokens_per_s, message.
    """
    paths = [name for name in trials.columns if name.startswith(PARAMS_PREFIX)]
    known = trials[trials[LR_PATH].notna()].groupby(SIZE)
    varying = [path for path in paths if path != LR_PATH and known[path].nunique(dropna=False).gt(1).any()]
    columns = [
        *(TRIAL, SIZE, *([EXPERIMENT] if trials[EXPERIMENT].notna().any() else []), STATUS),
        *(VAL_LOSS, VAL_LOSS_SE, TRAIN_LOSS, LR_PATH, *varying, STEP, TOKENS, ELAPSED_S, TOKENS_PER_S, MESSAGE),
    ]
    table = _sorted(trials, [SIZE, STATUS, VAL_LOSS, NUMBER], trials)
    return table[columns].rename(columns=_short_names(paths))


def status_counts(trials: pd.DataFrame) -> pd.DataFrame:
    """How the trials of each size ended: columns size, complete, pruned, running, diverged, failed, total."""
    counts = pd.crosstab(trials[SIZE], trials[STATUS])
    counts = counts.reindex(index=trials[SIZE].unique(), columns=list(BEST_FIRST), fill_value=0)
    return counts.assign(total=counts.sum(axis=1)).rename_axis(index=SIZE, columns=None).reset_index()


def winner_margins(trials: pd.DataFrame) -> pd.DataFrame:
    """By how much the best complete trial of each size leads the runner-up, in units of the evaluation's noise.

    One row per size with at least two complete trials. Columns: size, best, runner_up (trials), difference (nats per
    token), difference_se = sqrt(se1^2 + se2^2), separable: difference > 2 difference_se (False where an error is
    unknown). This covers the choice of validation windows, not that of the seeds.
    """
    # The windows are the same for both trials, so the error of the *paired* difference is smaller than this. It would
    # need the loss of each window, which rows do not hold; without it the test is conservative.
    complete = trials[(trials[STATUS] == COMPLETE) & np.isfinite(trials[VAL_LOSS])]
    records = []
    for size, group in _sorted(complete, [SIZE, VAL_LOSS, NUMBER], trials).groupby(SIZE, sort=False):
        if len(group) < 2:
            continue
        best, runner_up = group.iloc[0], group.iloc[1]
        difference = runner_up[VAL_LOSS] - best[VAL_LOSS]
        error = float(np.hypot(best[VAL_LOSS_SE], runner_up[VAL_LOSS_SE]))
        records.append((size, best[TRIAL], runner_up[TRIAL], difference, error, difference > SEPARABLE_SE * error))
    return pd.DataFrame(records, columns=[SIZE, "best", "runner_up", "difference", "difference_se", "separable"])


def _sorted(frame: pd.DataFrame, by: list[str], trials: pd.DataFrame) -> pd.DataFrame:
    """`frame` by these columns: sizes and experiments in the order of `trials`, statuses with the best first."""
    order = {name: {value: place for place, value in enumerate(trials[name].unique())} for name in (SIZE, EXPERIMENT)}
    order[STATUS] = {status: place for place, status in enumerate(BEST_FIRST)}

    def place(column: pd.Series) -> pd.Series:
        return column.map(order[column.name]) if column.name in order else column

    return frame.sort_values(by, key=place, kind="stable").reset_index(drop=True)


def _short_names(paths: list[str]) -> dict[str, str]:
    """Dotted paths to the names of table columns: the field alone, or with its part where two parts have it."""
    fields = [path.rpartition(".")[2] for path in paths]
    return {
        path: SHORT_NAMES.get(field, field) if fields.count(field) == 1 else path.removeprefix(PARAMS_PREFIX)
        for path, field in zip(paths, fields, strict=True)
    }
