"""The optimal peak learning rate of each arm with its interval, for the parameter table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.runs.trial_csv import BATCH, LOSS, LR
from analysis.scaling.bracket import bracket
from analysis.scaling.fit import search_points
from analysis.scaling.optimum import find_optima
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.searched import BATCH_PATH, varies_only_in_lr
from analysis.tables.trials import TIED_PATH, TYING
from lmcore import columns as col


def peak_lr_optima(trials: pd.DataFrame) -> dict[tuple[str, str], Fitted]:
    """By (size, arm), from the trials of the search; without arms, tied and untied models by themselves.

    >>> peak_lr_optima(analysis.load("runs/quick").trials)["xs", "tied"]
    """
    return {key: peak_lr_optimum(group) for key, group in _groups(trials).items()}


def peak_lr_notes(trials: pd.DataFrame, optima: Mapping[tuple[str, str], Fitted]) -> list[str]:
    """A sentence for each (size, arm) whose grid brackets the optimum, where `optima` has no interval for it.

    >>> peak_lr_notes(trials, peak_lr_optima(trials))
    ['main: peak lr: the lowest of 7 rates is 2.9e-03; its neighbours are 1.2e-03 and 7.1e-03.']
    """
    groups = _groups(trials)
    notes = []
    for (size, arm), group in groups.items():
        name = f"{size} {arm}" if sum(other == size for other, _ in groups) > 1 else size
        if not isinstance(optima.get((size, arm)), Estimate) and (sentence := bracket_sentence(group)):
            notes.append(f"{name}: peak lr: {sentence}.")
    return notes


def peak_lr_optimum(trials: pd.DataFrame) -> Fitted:
    """The optimal peak learning rate of trials of one size and arm; where batch sizes vary, at the best one.

    >>> peak_lr_optimum(grid)
    NotEstimable(reason='the lowest of 7 rates is 2.9e-03; its neighbours are 1.2e-03 and 7.1e-03; ...')

    A grid of learning rates shows its minimum to the eye also where its trials are too few for an interval; the reason
    then says between which of them it is.
    """
    points = search_points(trials)
    fitted = find_optima({LR: points[LR], BATCH: points[BATCH]}, points[LOSS])[LR]
    if isinstance(fitted, Estimate) or (sentence := bracket_sentence(trials)) is None:
        return fitted
    return NotEstimable(f"{sentence}; its trials are too few for a 95 % interval")


def bracket_sentence(trials: pd.DataFrame) -> str | None:
    """Between which learning rates the lowest loss of a grid is, at its best batch size.

    >>> bracket_sentence(grid)
    'the lowest of 7 rates is 2.9e-03; its neighbours are 1.2e-03 and 7.1e-03'

    None if more than the learning rate varies, or the lowest loss is at an edge of the grid.
    """
    points = search_points(trials)
    if not np.isfinite(points[LOSS]).any():
        return None
    best = points.loc[points[LOSS].idxmin(), BATCH]
    varied = points[BATCH].nunique() > 1
    of_batch = trials[_tokens_per_update(trials) == best] if varied else trials
    own = points[points[BATCH] == best]
    around = bracket(own[LR], own[LOSS]) if varies_only_in_lr(of_batch) else None
    if around is None:
        return None
    return f"at batch {of_batch[BATCH_PATH].iloc[0]} {around.sentence}" if varied else around.sentence


def lr_intervals(optima: Mapping[tuple[str, str], Fitted]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Those of `peak_lr_optima` that are estimable, as (optimum, low, high).

    >>> parameter_table(trials, lr_intervals(peak_lr_optima(trials)))["peak_lr_low"]
    """
    return {key: (one.value, one.low, one.high) for key, one in optima.items() if isinstance(one, Estimate)}


def _tokens_per_update(trials: pd.DataFrame) -> pd.Series:
    context = trials[f"{col.PARAMS_PREFIX}model.context_length"].astype("float64")
    return trials[BATCH_PATH].astype("float64") * context


def _groups(trials: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    searched = trials[(trials[col.PHASE] == col.SEARCH) & trials[TIED_PATH].notna() & trials[col.EXPERIMENT].isna()]
    tying = searched[TIED_PATH].astype(bool).map(TYING)
    arms = searched[col.ARM].where(searched[col.ARM].notna(), tying)
    groups = searched.groupby([searched[col.SIZE], arms], sort=False)
    return {(str(size), str(arm)): group for (size, arm), group in groups}
