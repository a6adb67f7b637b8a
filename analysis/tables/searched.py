"""Which hyperparameters a sweep searched, and up to which learning rate its trials did not diverge.

The optimum of a hyperparameter is in `analysis.scaling.optimum`, its importance in `analysis.stats.importance`.
"""

import numpy as np
import pandas as pd

from analysis.tables.trials import LR_PATH, param_columns, varying_params
from lmcore import columns as col

__all__ = ["SEED_PATHS", "largest_lr", "param_columns", "searched_dimensions"]

SEED_PATHS = (f"{col.PARAMS_PREFIX}train.seed", f"{col.PARAMS_PREFIX}data.seed")


def searched_dimensions(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>` that take more than one value within a size, seeds excepted, in the RunSpec's order.

    What only differs between sizes was not searched.
    """
    return [path for path in varying_params(trials) if path not in SEED_PATHS]


def largest_lr(trials: pd.DataFrame, lr: str = LR_PATH) -> pd.DataFrame:
    """The edge of stability of each size: the largest learning rate that did not diverge, and the smallest that did.

    Only a trial that ran to its end shows that its learning rate does not diverge. One row per size. Columns:

    - size
    - largest_complete, largest_complete_trial, smallest_diverged, smallest_diverged_trial: learning rates and trial
      ids, missing where there is none
    - overlap: whether a trial diverged at or below largest_complete
    - complete, diverged: numbers of trials
    - pruned_above: how many trials above largest_complete were stopped early, before they could show either
    - reading: one sentence
    - refused: why the edge is not estimable, else missing
    """
    edges = pd.DataFrame([_edge(size, group, lr) for size, group in trials.groupby(col.SIZE, sort=False)])
    return edges.astype(dict.fromkeys(("largest_complete_trial", "smallest_diverged_trial", "refused"), "str"))


def _edge(size: str, group: pd.DataFrame, lr: str) -> dict[str, object]:
    known = group[group[lr].notna()]
    complete, diverged, pruned = (known[known[col.STATUS] == s] for s in (col.COMPLETE, col.DIVERGED, col.PRUNED))
    largest, largest_trial = _first(complete.sort_values(lr, ascending=False, kind="stable"), lr)
    smallest, smallest_trial = _first(diverged.sort_values(lr, kind="stable"), lr)
    overlap = smallest <= largest  # False where one is NaN
    pruned_above = int((pruned[lr] > largest).sum())
    not_estimable = None
    if len(complete) + len(diverged) == 0:
        not_estimable = "no trial was complete or diverged"
    elif known[lr].nunique() == 1:
        not_estimable = f"one learning rate was tried ({known[lr].iloc[0]:.3g})"
    return {
        col.SIZE: size,
        "largest_complete": largest,
        "largest_complete_trial": largest_trial,
        "smallest_diverged": smallest,
        "smallest_diverged_trial": smallest_trial,
        "overlap": overlap,
        "complete": len(complete),
        "diverged": len(diverged),
        "pruned_above": pruned_above,
        "reading": f"not estimable: {not_estimable}"
        if not_estimable
        else _reading(largest, smallest, overlap, pruned_above),
        "refused": not_estimable,
    }


def _first(trials: pd.DataFrame, lr: str) -> tuple[float, str | None]:
    """Learning rate and id of the first trial."""
    return (np.nan, None) if trials.empty else (float(trials[lr].iloc[0]), trials[col.TRIAL].iloc[0])


def _reading(largest: float, smallest: float, overlap: bool, pruned_above: int) -> str:
    if np.isnan(smallest):
        text = f"no trial diverged: the edge, if there is one, is above {largest:.3g}"
    elif np.isnan(largest):
        text = f"no trial was complete: the edge is below {smallest:.3g}"
    elif overlap:
        text = f"{largest:.3g} trained to its end and {smallest:.3g} diverged: the edge depends on more than lr"
    else:
        text = f"the edge is between {largest:.3g} (trained to its end) and {smallest:.3g} (diverged)"
    if pruned_above:
        text += f"; {pruned_above} above {largest:.3g} stopped early, which shows neither"
    return text
