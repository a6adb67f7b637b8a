"""Which hyperparameters a sweep searched, and up to which learning rate its trials did not diverge.

The optimum of a hyperparameter is in `analysis.scaling.optimum`, its importance in `analysis.stats.importance`.
"""

import pandas as pd

from analysis.tables.settings import SEED_PATHS
from analysis.tables.trials import LR_PATH, varying_params
from lmcore import columns as col

__all__ = ["SEED_PATHS", "largest_lr", "searched_dimensions"]


def searched_dimensions(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>` that take more than one value within a size, seeds excepted, in the RunSpec's order.

    What only differs between sizes was not searched.
    """
    return [path for path in varying_params(trials) if path not in SEED_PATHS]


def largest_lr(trials: pd.DataFrame) -> pd.DataFrame:
    """The edge of stability of each size: the largest learning rate that did not diverge, and the smallest that did.

    Only a trial that ran to its end shows that its learning rate does not diverge. One row per size. Columns: size;
    largest_complete, largest_complete_trial, smallest_diverged and smallest_diverged_trial (missing where there is
    none); overlap (whether a trial diverged at or below largest_complete); complete and diverged (numbers of trials);
    pruned_above (how many trials above largest_complete were stopped early, before they could show either); reading
    (one sentence); refused (why the edge is not estimable, else missing).
    """
    edges = pd.DataFrame([{col.SIZE: size, **_edge(group)} for size, group in trials.groupby(col.SIZE, sort=False)])
    return edges.astype(dict.fromkeys(("largest_complete_trial", "smallest_diverged_trial", "refused"), "str"))


def _edge(trials: pd.DataFrame) -> dict[str, object]:
    known = trials[trials[LR_PATH].notna()].set_index(col.TRIAL)
    complete, diverged, pruned = (
        known.loc[known[col.STATUS] == status, LR_PATH] for status in (col.COMPLETE, col.DIVERGED, col.PRUNED)
    )
    largest, smallest = complete.max(), diverged.min()  # NaN if there is none
    pruned_above = int((pruned > largest).sum())
    reason = None
    if complete.empty and diverged.empty:
        reason = "no trial was complete or diverged"
    elif known[LR_PATH].nunique() == 1:
        reason = f"one learning rate was tried ({known[LR_PATH].iloc[0]:.3g})"

    if reason:
        reading = f"not estimable: {reason}"
    elif diverged.empty:
        reading = f"no trial diverged: the edge, if there is one, is above {largest:.3g}"
    elif complete.empty:
        reading = f"no trial was complete: the edge is below {smallest:.3g}"
    elif smallest <= largest:
        reading = f"{largest:.3g} trained to its end and {smallest:.3g} diverged: the edge depends on more than lr"
    else:
        reading = f"the edge is between {largest:.3g} (trained to its end) and {smallest:.3g} (diverged)"
    if pruned_above and not reason:
        reading += f"; {pruned_above} above {largest:.3g} stopped early, which shows neither"
    return {
        "largest_complete": largest,
        "largest_complete_trial": None if complete.empty else complete.idxmax(),
        "smallest_diverged": smallest,
        "smallest_diverged_trial": None if diverged.empty else diverged.idxmin(),
        "overlap": smallest <= largest,
        "complete": len(complete),
        "diverged": len(diverged),
        "pruned_above": pruned_above,
        "reading": reading,
        "refused": reason,
    }
