"""Branches of wsd runs (`train.branches`): finished models of shorter budgets, as a table and as trials.

A sweep records the result of each branch in the study, as soon as it has ended; also those of a trial that was stopped
afterwards. A branch has the loss that its run would have had if it had been trained to the branch's budget alone.

>>> run = analysis.load("runs/quick")
>>> run.branches[["trial", "branch", "tokens", "loss"]]
>>> parameter_table(branch_trials(run.trials, run.branches, 0.5))
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.quoted_loss import with_quoted_loss
from analysis.runs.window_file import WindowLosses
from lmcore import columns as col

OWN_TOKENS = "own_tokens"
"""Tokens of the branch's own updates, after it left the trunk: what it cost beside its run."""
STEPS, DECAY = f"{col.PARAMS_PREFIX}train.steps", f"{col.PARAMS_PREFIX}optim.decay_fraction"
WARMUP = f"{col.PARAMS_PREFIX}optim.warmup_fraction"
LISTED = f"{col.PARAMS_PREFIX}train.branches"
PLACE = (col.TRIAL, col.SIZE, col.ARM, col.EXPERIMENT, col.PHASE, col.STATUS)
RESULT = (
    *(col.BRANCH, col.STEP, col.TOKENS, OWN_TOKENS, col.PARAMS_NON_EMBEDDING, col.TRAIN_FLOPS),
    *(col.LOSS, col.LOSS_SE, *col.LOSS_COLUMNS),
)
COLUMNS = (*PLACE, *RESULT, col.WINDOW_LOSSES)
"""Columns of the table, in order."""


def branch_table(
    trials: pd.DataFrame, ended: Sequence[Sequence[dict[str, Any]]], windows: WindowLosses
) -> pd.DataFrame:
    """One row per (trial, branch), in the order of `trials`; `ended` has the branches of each trial that ended.

    Columns: trial, size, arm, experiment, phase, status (of the trial, which may have been stopped later), branch (its
    fraction of the run), step and tokens (of the whole branch, what it shares with its run included), own_tokens (those
    of its own decay), params_non_embedding and train_flops (N and C, as if it had been trained alone), loss and loss_se
    (of the final evaluation), the losses in detail, and window_losses [n] (None where they were not kept).
    """
    records: list[dict[str, Any]] = []
    for (_, trial), branches in zip(trials.iterrows(), ended, strict=True):
        for branch in sorted(branches, key=lambda one: float(one[col.BRANCH])):
            record = {name: trial[name] for name in (*PLACE, col.PARAMS_NON_EMBEDDING)}
            record |= {name: branch.get(name) for name in (col.BRANCH, col.STEP, col.TOKENS, *col.LOSS_COLUMNS)}
            own = round(float(trial[DECAY]) * branch[col.STEP])  # as lmcore.branches
            record[OWN_TOKENS] = own * (branch[col.TOKENS] // branch[col.STEP])
            record[col.TRAIN_FLOPS] = float(trial[col.FLOPS_PER_TOKEN]) * branch[col.TOKENS]
            record[col.WINDOW_LOSSES] = windows.branches.get((trial[col.TRIAL], branch[col.BRANCH]))
            records.append(record)
    table = pd.DataFrame(records, columns=[name for name in COLUMNS if name not in (col.LOSS, col.LOSS_SE)])
    numbers = (col.BRANCH, col.TRAIN_FLOPS, *(name for name in col.LOSS_COLUMNS if name != col.FINAL_WINDOWS))
    whole = (col.STEP, col.TOKENS, OWN_TOKENS, col.PARAMS_NON_EMBEDDING, col.FINAL_WINDOWS)
    types = {**dict.fromkeys(PLACE, "str"), **dict.fromkeys(numbers, "float64"), **dict.fromkeys(whole, "Int64")}
    return with_quoted_loss(table.astype(types))[[*COLUMNS]]


def branch_trials(trials: pd.DataFrame, branches: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """`trials` as if each had been trained to its branch `fraction` alone; those without that branch are left out.

    A trial that was stopped after its branch had ended is complete here; one whose branch has no finite loss diverged.
    So every table, comparison and fit of trials can be made of a shorter budget.

    >>> analysis.verdicts(branch_trials(run.trials, run.branches, 0.5)).sentences
    """
    found = branches[branches[col.BRANCH] == fraction].set_index(col.TRIAL)
    kept = trials[trials[col.TRIAL].isin(found.index)]
    own = found.loc[kept[col.TRIAL]].set_index(kept.index)
    changed: dict[str, Any] = {
        name: own[name].astype(kept[name].dtype) for name in (*RESULT, col.WINDOW_LOSSES) if name in kept
    }
    finite = np.isfinite(own[col.LOSS].to_numpy(float))
    changed[col.STATUS] = pd.Series(np.where(finite, col.COMPLETE, col.DIVERGED), kept.index).astype("str")
    changed |= {col.MESSAGE: None, LISTED: None, STEPS: own[col.STEP].astype("float64")}
    changed[WARMUP] = (kept[WARMUP] * kept[STEPS]).round() / own[col.STEP].astype("float64")
    changed |= {name: None for name in (col.BEST_WINDOW_LOSSES, col.WINDOW_DOCUMENTS) if name in kept}
    changed |= {name: math.nan for name in (col.ELAPSED_S, col.TOKENS_PER_S) if name in kept}
    if col.PERPLEXITY in kept:
        with np.errstate(over="ignore"):
            changed[col.PERPLEXITY] = np.exp(own[col.LOSS])
    if col.BITS_PER_BYTE in kept:
        per_nat = (trials[col.BITS_PER_BYTE] / trials[col.LOSS]).median()  # the same for all trials of one data set
        changed[col.BITS_PER_BYTE] = own[col.LOSS] * per_nat
    return kept.assign(**{name: value for name, value in changed.items() if name in kept})


def branch_results(branches: pd.DataFrame) -> pd.DataFrame:
    """The table without what no branch of it has, and without the windows: what a CSV file holds."""
    optional = [name for name in (col.ARM, col.EXPERIMENT) if branches[name].isna().all()]
    confirmed = (branches[col.PHASE] == col.CONFIRM).any()
    return branches.drop(columns=[*optional, *([] if confirmed else [col.PHASE]), col.WINDOW_LOSSES])
