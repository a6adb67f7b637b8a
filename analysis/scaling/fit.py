"""All fits to the trained models together: loss laws, compute-optimal sizes, and how optimal settings change with size.

Points come from runs (`points_of`) or from a CSV file (`analysis.runs.trial_csv`). Columns: N (parameters), D (tokens),
loss (nats per token, +inf if it diverged), and lr and batch (tokens per update) if known. The fits themselves are in
`analysis.scaling.loss_law`, `analysis.scaling.isoflop`, `analysis.scaling.optimum` and `analysis.scaling.power_law`,
and so are the conditions under which a number is not estimable.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.runs.quoted_loss import with_quoted_loss
from analysis.runs.trial_csv import BATCH, LOSS, LR, D, N
from analysis.scaling.isoflop import IsoFlop, fit_isoflop
from analysis.scaling.loss_law import OPTIMAL, LossLaw, fit_loss_law, fit_size_law
from analysis.scaling.optimum import optimum_table
from analysis.scaling.power_law import PowerLaw, fit_power_law
from analysis.scaling.regressors import levels_of
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

SETTINGS = (LR, BATCH)


@dataclass(frozen=True)
class Scaling:
    """The results of `fit_scaling`."""

    fitted: Mapping[str, Fitted]
    """`loss_nd.alpha`, `loss_n.alpha`, `compute_optimal.N_exponent`, `isoflop.N_exponent`, ..."""
    optimum: Mapping[str, Fitted]  # `lr.N_exponent`, `batch.D_exponent`, ...
    points: pd.DataFrame  # the points that the loss laws are fitted to
    loss_nd: LossLaw
    loss_n: LossLaw
    n_points: pd.DataFrame  # the points that `loss_n` is fitted to, all with the same number of tokens
    isoflop: IsoFlop
    optima: pd.DataFrame  # `analysis.scaling.optimum.optimum_table` by (N, D) of the settings that vary
    laws: Mapping[str, PowerLaw | None]  # by setting


def points_of(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete and diverged trials of `analysis.load` as points; N counts non-embedding parameters.

    A trial that was stopped early has no final loss and is left out. Tied and untied models of a size have the same N,
    as is usual for scaling laws.
    """
    trials = with_quoted_loss(trials)
    ended = trials[trials[col.STATUS].isin((col.COMPLETE, col.DIVERGED)) & trials[LR_PATH].notna()]
    fields = ("train.steps", "train.batch_size", "model.context_length")
    steps, sequences, context = (ended[f"{col.PARAMS_PREFIX}{field}"].astype("float64") for field in fields)
    batch = sequences * context
    loss = ended[col.LOSS].where(ended[col.STATUS] == col.COMPLETE).fillna(np.inf)
    size, lr = ended[col.PARAMS_NON_EMBEDDING].astype("float64"), ended[LR_PATH].astype("float64")
    points = {N: size, D: steps * batch, LOSS: loss, LR: lr, BATCH: batch, col.SIZE: ended[col.SIZE]}
    return pd.DataFrame(points).reset_index(drop=True)


def best_points(points: pd.DataFrame) -> pd.DataFrame:
    """The best point of each (N, D) if settings are known, otherwise (models already tuned) all with a finite loss."""
    finite = points[np.isfinite(points[LOSS])]
    if not set(SETTINGS) & set(points.columns):
        return finite.reset_index(drop=True)
    return finite.loc[finite.groupby([N, D])[LOSS].idxmin()].reset_index(drop=True)


def fit_scaling(points: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> Scaling:
    """Every law that the points may support; what they do not support is NotEstimable.

    >>> scaling = fit_scaling(points_of(analysis.load("runs/quick").trials))
    >>> scaling.fitted["loss_nd.alpha"], scaling.optimum["lr.N_exponent"]
    """
    best = best_points(points)
    loss_nd = fit_loss_law(best[N], best[D], best[LOSS], resamples, seed)
    same_data = _most_common_tokens(best)
    loss_n = fit_size_law(same_data[N], same_data[LOSS], resamples, seed)
    isoflop = fit_isoflop(best[N], best[D], best[LOSS], seed=seed)
    fitted = {f"loss_nd.{name}": one for name, one in loss_nd.fitted.items() if name != OPTIMAL}
    fitted |= {f"loss_n.{name}": one for name, one in loss_n.fitted.items()}
    fitted |= _compute_optimal(loss_nd.fitted[OPTIMAL], isoflop.fitted[OPTIMAL])
    fitted |= {f"isoflop.{name}": one for name, one in isoflop.fitted.items()}
    optima, optimum, laws = _settings(points, resamples, seed)
    return Scaling(fitted, optimum, best, loss_nd, loss_n, same_data, isoflop, optima, laws)


def _compute_optimal(from_law: Fitted, from_minima: Fitted) -> dict[str, Fitted]:
    """a and 1 - a in N* ~ C^a and D* ~ C^(1 - a), preferably from the loss law, because it uses all points."""
    names = ("compute_optimal.N_exponent", "compute_optimal.D_exponent")
    for exponent in (from_law, from_minima):
        if isinstance(exponent, Estimate):
            return dict(zip(names, (exponent, exponent.complement), strict=True))
    reasons = "; ".join(one.reason for one in (from_law, from_minima) if isinstance(one, NotEstimable))
    return dict.fromkeys(names, NotEstimable(reasons))


def _settings(
    points: pd.DataFrame, resamples: int, seed: int
) -> tuple[pd.DataFrame, dict[str, Fitted], dict[str, PowerLaw | None]]:
    """Optima by cell, and the power laws through them, of the settings that vary within a cell."""
    varying = [name for name in SETTINGS if name in points and (points.groupby([N, D])[name].nunique() > 1).any()]
    fitted: dict[str, Fitted] = {}
    laws: dict[str, PowerLaw | None] = {}
    optima = optimum_table(points, [N, D], varying, LOSS, resamples, seed) if varying else pd.DataFrame()
    for name in varying:
        cells = optima[optima["setting"] == name]
        known = cells[cells["value"].notna()]
        if known.empty:
            reason = NotEstimable(f"no cell has an optimum of {name} ({cells['refused'].iloc[0]})")
            fitted |= {f"{name}.{key}": reason for key in ("coefficient", "N_exponent", "D_exponent")}
            laws[name] = None
        else:
            fit = fit_power_law(known["value"], known[N], known[D], seed=seed)
            fitted |= {f"{name}.{key}": one for key, one in fit.fitted.items()}
            laws[name] = fit.law
    return optima, fitted, laws


def _most_common_tokens(points: pd.DataFrame) -> pd.DataFrame:
    """The points with the most common number of tokens; the largest one, if several are equally common."""
    levels = levels_of(np.log(points[D].to_numpy(float)))
    counts = np.bincount(levels)
    chosen = np.flatnonzero(counts == counts.max(initial=0)).max(initial=0)
    return points[levels == chosen].reset_index(drop=True)
