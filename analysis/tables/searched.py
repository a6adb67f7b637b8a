"""Which hyperparameters a sweep searched, and up to which learning rate its trials did not diverge.

The optimum of a hyperparameter is in `analysis.scaling.optimum`, its importance in `analysis.stats.importance`.
"""

import pandas as pd

from analysis.tables.settings import CONSTANTS, SEED_PATHS
from analysis.tables.trials import LR_PATH, varying_params
from lmcore import columns as col

__all__ = ["SEED_PATHS", "choices_and_ranges", "largest_lr", "searched_dimensions", "varies_only_in_lr"]

BATCH_PATH = f"{col.PARAMS_PREFIX}train.batch_size"
STEPS_PATH = f"{col.PARAMS_PREFIX}train.steps"
MOST_CHOICES = 6


def searched_dimensions(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>` that take more than one value within a size, seeds excepted, in the RunSpec's order.

    What only differs between sizes was not searched, nor were numbers of updates that follow from the batch size.
    """
    paths = [path for path in varying_params(trials) if path not in SEED_PATHS]
    if {BATCH_PATH, STEPS_PATH} <= set(paths):
        known = trials[trials[LR_PATH].notna()]
        if not known.groupby([col.SIZE, BATCH_PATH])[STEPS_PATH].nunique().gt(1).any():
            paths.remove(STEPS_PATH)
    return paths


def choices_and_ranges(trials: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The searched dimensions, those with a few values that repeat apart from those with numbers from a range.

    >>> choices_and_ranges(analysis.load("runs/lrbatch").trials)
    (['params.train.batch_size'], ['params.optim.lr'])

    The learning rate is always a range. What all trials of a sweep share, such as the device, is in neither.
    """
    choices: list[str] = []
    ranges: list[str] = []
    for path in searched_dimensions(trials):
        values = trials[path].dropna()
        few = values.nunique() <= MOST_CHOICES and len(values) >= 2 * values.nunique()
        if path not in CONSTANTS:
            (choices if path != LR_PATH and (few or not _is_numeric(values)) else ranges).append(path)
    return choices, ranges


def varies_only_in_lr(trials: pd.DataFrame) -> bool:
    """Whether trials of a size have different learning rates, and agree in all else but seeds and constants."""
    return set(searched_dimensions(trials)) - set(CONSTANTS) == {LR_PATH}


def _is_numeric(values: pd.Series) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.tolist())


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
