"""What a sweep varied within a size, and up to which learning rate its trials stayed finite.

The optimum of a hyperparameter is in `analysis.scaling.optimum`, its share in the loss in `analysis.stats.importance`.
"""

import numpy as np
import pandas as pd

from analysis.tables.trials import LR_PATH
from lmcore import columns as col

SEED_PATHS = (f"{col.PARAMS_PREFIX}train.seed", f"{col.PARAMS_PREFIX}data.seed")


def searched_dimensions(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>` that take more than one value within a size, in the order of the run's fields.

    What tells the sizes apart is not searched, and seeds are no hyperparameters. Trials of which nothing but their
    number is known yet do not count.
    """
    paths = param_columns(trials)
    known = trials.loc[trials[paths].notna().any(axis=1)].groupby(col.SIZE, sort=False)
    return [path for path in paths if path not in SEED_PATHS and known[path].nunique(dropna=False).gt(1).any()]


def param_columns(trials: pd.DataFrame) -> list[str]:
    """All columns `params.<path>`, in their order."""
    return [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]


def largest_lr(trials: pd.DataFrame, lr: str = LR_PATH) -> pd.DataFrame:
    """The edge of stability of each size: the largest learning rate that did not diverge, and the smallest that did.

    One row per size. Columns: size, largest_complete, largest_complete_trial, smallest_diverged,
    smallest_diverged_trial (learning rates and trials; missing where there is none), overlap (some trial diverged at or
    below largest_complete), complete, diverged (numbers of trials), pruned_above (trials stopped early above
    largest_complete: nobody knows whether they would have diverged), reading (one sentence), refused (the reason
    where nothing can be said, else missing).

    Only a trial that ran to its end did not diverge.
    """
    edges = pd.DataFrame([_edge(size, group, lr) for size, group in trials.groupby(col.SIZE, sort=False)])
    return edges.astype(dict.fromkeys(("largest_complete_trial", "smallest_diverged_trial", "refused"), "str"))


def _edge(size: str, group: pd.DataFrame, lr: str) -> dict[str, object]:
    known = group[group[lr].notna()]
    complete, diverged, pruned = (known[known[col.STATUS] == s] for s in (col.COMPLETE, col.DIVERGED, col.PRUNED))
    largest, largest_trial = _extreme(complete.sort_values(lr, ascending=False, kind="stable"), lr)
    smallest, smallest_trial = _extreme(diverged.sort_values(lr, kind="stable"), lr)
    overlap = smallest <= largest  # False where one is NaN
    above = int((pruned[lr] > largest).sum())
    refused = None
    if len(complete) + len(diverged) == 0:
        refused = "no trial was complete or diverged"
    elif known[lr].nunique() == 1:
        refused = f"one learning rate was tried ({known[lr].iloc[0]:.3g})"
    return {
        col.SIZE: size,
        "largest_complete": largest,
        "largest_complete_trial": largest_trial,
        "smallest_diverged": smallest,
        "smallest_diverged_trial": smallest_trial,
        "overlap": overlap,
        "complete": len(complete),
        "diverged": len(diverged),
        "pruned_above": above,
        "reading": _reading(largest, smallest, overlap, above) if refused is None else f"cannot be said: {refused}",
        "refused": refused,
    }


def _extreme(by_lr: pd.DataFrame, lr: str) -> tuple[float, str | None]:
    """Learning rate and trial of the first row."""
    return (np.nan, None) if by_lr.empty else (float(by_lr[lr].iloc[0]), by_lr[col.TRIAL].iloc[0])


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
        text += f"; {pruned_above} above {largest:.3g} stopped early, which decides nothing"
    return text
