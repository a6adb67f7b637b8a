"""The tables of a sweep: functions from the `trials` of `analysis.load` to a new DataFrame in full precision.

    from analysis.tables.trials import parameter_table
    parameter_table(analysis.load("runs/quick").trials)

Nothing is rounded, printed or written here: `analysis.tables.formatting` and `analysis.report` do that. The loss of a
trial that did not run to its end is not final, so every row that shows a loss also shows the trial's status.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.quoted_loss import with_quoted_loss
from analysis.tables.leaders import Leader, results
from analysis.tables.settings import HALF
from lmcore import columns as col

TIED = "tied"
WARMUP = "warmup"  # fraction of the run
PEAK_LR = "peak_lr"  # optim.lr; the column `lr` of rows is the rate of the last update
SEEDS = "seeds"
WINDOWS = "windows"
NAMED = ("same", "unconfirmed", "beaten")
OPTIMUM = ("peak_lr_optimum", "peak_lr_low", "peak_lr_high")
TYING = {True: "tied", False: "untied"}
SHORT_NAMES = {"tie_embeddings": TIED, "warmup_fraction": WARMUP}
TIED_PATH = f"{col.PARAMS_PREFIX}model.tie_embeddings"
LR_PATH = f"{col.PARAMS_PREFIX}optim.lr"
BETAS_AND_WARMUP = [f"{col.PARAMS_PREFIX}optim.{name}" for name in ("beta1", "beta2", "warmup_fraction")]

BEST_FIRST = (col.COMPLETE, col.PRUNED, col.RUNNING, col.PAUSED, col.DIVERGED, col.FAILED)
# The last loss of a diverged or failed trial is no result.
WITH_A_LOSS = (col.COMPLETE, col.PRUNED, col.RUNNING, col.PAUSED)

LrIntervals = Mapping[tuple[str, str], tuple[float, float, float]]


def parameter_table(trials: pd.DataFrame, lr_intervals: LrIntervals | None = None) -> pd.DataFrame:
    """Parameter count against loss: a row for each size and arm, or experiment; without arms, tied and untied models.

    >>> parameter_table(analysis.load("runs/quick").trials)[["size", "arm", "loss", "half", "seeds"]]

    A row is the leading setting of `analysis.tables.leaders`: if the arm was confirmed, the one that the confirmation
    named, with the loss of its confirmation trials only; else the setting with the lowest mean over its seeds. An arm
    without a complete trial is represented by the pruned or running trial with the lowest last loss, as `status` shows;
    an arm whose trials all diverged or failed has no row, nor has one whose confirmation runs all did.

    Columns: size, experiment (in ablations), arm (in sweeps that compare arms), tied, params_estimate, params_exact,
    params_non_embedding, tokens, train_flops, loss (nats per token: the mean over seeds of the quoted loss), half (of
    its 95 % interval, from its own seeds; NaN for one), seeds (0 if not complete), windows (of the final evaluation;
    missing if the loss is that of the small set), perplexity, bits_per_byte, val_loss (of the small set, mean over
    seeds), val_loss_se (for one seed), peak_lr, beta1, beta2, warmup (fraction of the run), peak_lr_optimum,
    peak_lr_low, peak_lr_high (the optimal peak learning rate and its 95 % interval, from `lr_intervals`), step, status,
    trial (one of the search with this setting), same, unconfirmed, beaten (ids of settings: those that cannot be
    told apart, those that may be as good but were not confirmed, and those that are worse; missing if there are none).

    `lr_intervals` maps (size, arm) to (optimum, low, high); `analysis.scaling.peak_lr.lr_intervals` makes it.
    """
    known = with_quoted_loss(trials[trials[TIED_PATH].notna()])
    known = known.assign(**{TIED: known[TIED_PATH].astype(bool)})
    labelled = known.assign(**{col.ARM: known[col.ARM].where(known[col.ARM].notna(), known[TIED].map(TYING))})
    found = results(labelled)
    leaders = {one.trials[0]: one for result in found.values() for one in result.leaders if np.isfinite(one.mean)}
    lost = {(size, name) for size, result in found.items() for name in result.lost}
    group = [col.SIZE, *_present(trials, col.EXPERIMENT), col.ARM]
    won = labelled[labelled[col.TRIAL].isin(leaders)]
    won = won.assign(**_means(labelled, [leaders[trial] for trial in won[col.TRIAL]]))

    # Groups without a complete trial: the lowest loss so far.
    rest = labelled[labelled[col.STATUS].isin(WITH_A_LOSS) & np.isfinite(labelled[col.LOSS])]
    is_lost = [pair in lost for pair in zip(rest[col.SIZE], rest[col.ARM], strict=True)]
    rest = rest[~np.array(is_lost, bool)]
    rest = rest.assign(unfinished=rest[col.STATUS] != col.COMPLETE)
    rest = rest.sort_values(["unfinished", col.LOSS, col.NUMBER]).drop_duplicates(group)
    led = pd.MultiIndex.from_frame(won[group]) if len(won) else []
    rest = rest[~pd.MultiIndex.from_frame(rest[group]).isin(led)] if len(won) else rest
    rest = rest.assign(**{HALF: np.nan, SEEDS: 0, **dict.fromkeys(NAMED, None)})

    table = pd.concat([won, rest]) if len(rest) else won if len(won) else rest
    optima = [(lr_intervals or {}).get(key, (np.nan,) * 3) for key in zip(table[col.SIZE], table[col.ARM], strict=True)]
    table[list(OPTIMUM)] = np.reshape(np.array(optima, float), (len(table), 3))
    table = _sorted(table, [*group[:-1], *_present(trials, col.ARM), TIED], trials)
    table = table.rename(columns={LR_PATH: PEAK_LR, col.FINAL_WINDOWS: WINDOWS, **short_names(BETAS_AND_WARMUP)})
    counts = [col.PARAMS_ESTIMATE, col.PARAMS_EXACT, col.PARAMS_NON_EMBEDDING, col.TOKENS, col.TRAIN_FLOPS]
    losses = [col.LOSS, HALF, SEEDS, WINDOWS, col.PERPLEXITY, col.BITS_PER_BYTE, col.VAL_LOSS, col.VAL_LOSS_SE]
    setting = [PEAK_LR, "beta1", "beta2", WARMUP, *OPTIMUM, col.STEP, col.STATUS, col.TRIAL, *NAMED]
    shown = [*group[:-1], *_present(trials, col.ARM), TIED, *counts, *losses, *setting]
    return table[shown].astype(dict.fromkeys(NAMED, "str"))


def _means(trials: pd.DataFrame, leaders: list[Leader]) -> dict[str, Any]:
    """The columns of `parameter_table` that are those of several trials together."""
    rows = trials.set_index(col.TRIAL)
    small = [rows.loc[list(one.trials), col.VAL_LOSS].mean() for one in leaders]
    errors = [rows.loc[one.trials[0], col.VAL_LOSS_SE] if len(one.trials) == 1 else np.nan for one in leaders]
    per_byte = [(rows[col.BITS_PER_BYTE] / rows[col.LOSS]).loc[one.trials[0]] for one in leaders]
    mean = np.array([one.mean for one in leaders])
    named = {name: [", ".join(getattr(one, name)) or None for one in leaders] for name in NAMED}
    return {
        **{col.LOSS: mean, HALF: [one.half for one in leaders], SEEDS: [one.n for one in leaders]},
        **{col.PERPLEXITY: np.exp(mean), col.BITS_PER_BYTE: mean * np.array(per_byte)},
        **{col.VAL_LOSS: small, col.VAL_LOSS_SE: errors, col.TRIAL: [one.setting for one in leaders], **named},
    }


def best_table(trials: pd.DataFrame) -> pd.DataFrame:
    """The best complete trial of each size, in any experiment, tied or not: the columns of `parameter_table`."""
    table = parameter_table(trials)
    complete = table[table[col.STATUS] == col.COMPLETE]
    return complete.loc[complete.groupby(col.SIZE, sort=False)[col.LOSS].idxmin()].reset_index(drop=True)


def trials_table(trials: pd.DataFrame) -> pd.DataFrame:
    """All trials, by size, then status from complete to failed, then quoted loss.

    Columns: trial, size, experiment (in ablations), arm (in sweeps that compare arms), phase (in sweeps that confirm),
    status, final_val_loss and final_val_loss_se (where there was a final evaluation), val_loss and val_loss_se (of the
    small set), train_loss, peak_lr, every other hyperparameter that varies within a size, step, tokens, elapsed_s,
    tokens_per_s, message, same_as (where trials have the result of another, and were not trained).
    """
    confirmed = [col.PHASE] if (trials[col.PHASE] == col.CONFIRM).any() else []
    identity = [col.TRIAL, col.SIZE, *_present(trials, col.EXPERIMENT, col.ARM), *confirmed, col.STATUS]
    final = _present(trials, col.FINAL_VAL_LOSS, col.FINAL_VAL_LOSS_SE)
    losses = [*final, col.VAL_LOSS, col.VAL_LOSS_SE, col.TRAIN_LOSS]
    varying = [path for path in varying_params(trials) if path != LR_PATH]
    effort = [col.STEP, col.TOKENS, col.ELAPSED_S, col.TOKENS_PER_S]
    table = _sorted(trials, [col.SIZE, col.STATUS, col.LOSS, col.NUMBER], trials)
    table = table[[*identity, *losses, LR_PATH, *varying, *effort, col.MESSAGE, *_present(trials, col.SAME_AS)]]
    return table.rename(columns={**short_names(param_columns(trials)), LR_PATH: PEAK_LR})


def status_counts(trials: pd.DataFrame) -> pd.DataFrame:
    """How the trials of each size ended: columns size, complete, pruned, running, diverged, failed, total."""
    counts = pd.crosstab(trials[col.SIZE], trials[col.STATUS])
    counts = counts.reindex(index=trials[col.SIZE].unique(), columns=list(BEST_FIRST), fill_value=0)
    return counts.assign(total=counts.sum(axis=1)).rename_axis(index=col.SIZE, columns=None).reset_index()


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
    """The trials that were trained to their end with a finite loss, with the columns `loss` and `loss_se`."""
    trials = with_quoted_loss(trials)
    trained = trials[col.SAME_AS].isna() if col.SAME_AS in trials else True
    return trials[(trials[col.STATUS] == col.COMPLETE) & np.isfinite(trials[col.LOSS]) & trained]


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


def _present(trials: pd.DataFrame, *names: str) -> list[str]:
    """Those of the columns that have a value."""
    return [name for name in names if trials[name].notna().any()]


def _sorted(frame: pd.DataFrame, by: list[str], trials: pd.DataFrame) -> pd.DataFrame:
    """`frame` sorted by these columns: sizes, experiments and arms as in `trials`, statuses as in BEST_FIRST."""
    orders: dict[Any, Any] = {name: trials[name].unique() for name in (col.SIZE, col.EXPERIMENT, col.ARM)}
    orders[col.STATUS] = BEST_FIRST

    def rank(column: pd.Series) -> pd.Series:
        order = orders.get(column.name)
        return column if order is None else column.map({value: place for place, value in enumerate(order)})

    return frame.sort_values(by, key=rank, kind="stable", ignore_index=True)
