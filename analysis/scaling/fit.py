"""What all trained models say together: the loss against size and data, and how the best settings move with them.

Points come from runs (`points_of`) or from a CSV (`analysis.runs.trial_csv`): columns N (parameters), D (tokens), loss
(nats per token, +inf where it diverged), and lr and batch (tokens per update) where they are known. The fits
themselves, and when they refuse, are those of `analysis.scaling.loss_law`, `analysis.scaling.isoflop`,
`analysis.scaling.optimum` and `analysis.scaling.power_law`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.runs.trial_csv import BATCH, LOSS, LR, D, N
from analysis.scaling.isoflop import IsoFlop, fit_isoflop
from analysis.scaling.loss_law import OPTIMAL, LossLaw, fit_loss_law, fit_size_law
from analysis.scaling.optimum import optimum_table
from analysis.scaling.power_law import PowerLaw, fit_power_law
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

SETTINGS = {LR: "lr", BATCH: "batch"}
FEW_TOKENS = 0.01
"""Token counts within 1 % are one: they are rounded to whole updates."""


@dataclass(frozen=True)
class Scaling:
    """What came of all fits."""

    fitted: Mapping[str, Fitted]
    """`loss_nd.alpha`, `loss_n.alpha`, `compute_optimal.N_exponent`, `isoflop.N_exponent`."""
    optimum: Mapping[str, Fitted]
    """`lr.N_exponent`, `batch.D_exponent`, ..."""
    points: pd.DataFrame
    """Those that the laws of the loss are fitted to."""
    loss_nd: LossLaw
    loss_n: LossLaw
    n_points: pd.DataFrame
    """Those of `loss_n`: all on as many tokens."""
    isoflop: IsoFlop
    optima: pd.DataFrame
    """`analysis.scaling.optimum.optimum_table` of the settings that vary, by (N, D)."""
    laws: Mapping[str, PowerLaw | None]
    """By setting."""


def points_of(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete and diverged trials of `analysis.load` as points; N counts parameters that are not embeddings.

    A trial that was stopped early has no final loss and is no point. Tied and untied models of a size have one N: it
    is what scaling laws count, and what they share.
    """
    ended = trials[trials[col.STATUS].isin((col.COMPLETE, col.DIVERGED)) & trials[LR_PATH].notna()]
    field = {name: ended[f"{col.PARAMS_PREFIX}{name}"] for name in ("train.batch_size", "model.context_length")}
    batch = field["train.batch_size"].astype("float64") * field["model.context_length"].astype("float64")
    tokens = ended[f"{col.PARAMS_PREFIX}train.steps"].astype("float64") * batch
    points = pd.DataFrame(
        {
            N: ended[col.PARAMS_NON_EMBEDDING].astype("float64"),
            D: tokens,
            LOSS: ended[col.VAL_LOSS].where(ended[col.STATUS] == col.COMPLETE).fillna(np.inf),
            LR: ended[LR_PATH].astype("float64"),
            BATCH: batch,
            col.SIZE: ended[col.SIZE],
        }
    )
    return points.reset_index(drop=True)


def best_points(points: pd.DataFrame) -> pd.DataFrame:
    """The best of each (N, D) where settings are known; without any each row is a tuned model as it stands."""
    finite = points[np.isfinite(points[LOSS])]
    if not set(SETTINGS) & set(points.columns):
        return finite.reset_index(drop=True)
    return finite.loc[finite.groupby([N, D])[LOSS].idxmin()].reset_index(drop=True)


def fit_scaling(points: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> Scaling:
    """Every law that the points may support; each says itself when they do not."""
    best = best_points(points)
    loss_nd = fit_loss_law(best[N], best[D], best[LOSS], resamples, seed)
    same_data = _largest_group_of_tokens(best)
    loss_n = fit_size_law(same_data[N], same_data[LOSS], resamples, seed)
    isoflop = fit_isoflop(best[N], best[D], best[LOSS], seed=seed)
    fitted = {f"loss_nd.{name}": one for name, one in loss_nd.fitted.items() if name != OPTIMAL}
    fitted |= {f"loss_n.{name}": one for name, one in loss_n.fitted.items()}
    fitted |= _compute_optimal(loss_nd.fitted[OPTIMAL], isoflop)
    fitted |= {f"isoflop.{name}": one for name, one in isoflop.fitted.items()}
    optima, optimum, laws = _settings(points, resamples, seed)
    return Scaling(fitted, optimum, best, loss_nd, loss_n, same_data, isoflop, optima, laws)


def _compute_optimal(of_law: Fitted, isoflop: IsoFlop) -> dict[str, Fitted]:
    """N* ~ C^a, D* ~ C^(1 - a): from the loss law, which uses all points, or where that refuses from the minima."""
    exponent = isoflop.fitted[OPTIMAL] if isinstance(of_law, NotEstimable) else of_law
    if isinstance(exponent, NotEstimable):
        reason = f"{of_law.reason}; {exponent.reason}" if isinstance(of_law, NotEstimable) else exponent.reason
        return dict.fromkeys(("compute_optimal.N_exponent", "compute_optimal.D_exponent"), NotEstimable(reason))
    rest = Estimate(1 - exponent.value, 1 - exponent.high, 1 - exponent.low, exponent.n)
    return {"compute_optimal.N_exponent": exponent, "compute_optimal.D_exponent": rest}


def _settings(
    points: pd.DataFrame, resamples: int, seed: int
) -> tuple[pd.DataFrame, dict[str, Fitted], dict[str, PowerLaw | None]]:
    """Optima by cell, and the laws through them, of those settings that vary within a cell."""
    varying = [name for name in SETTINGS if name in points and (points.groupby([N, D])[name].nunique() > 1).any()]
    fitted: dict[str, Fitted] = {}
    laws: dict[str, PowerLaw | None] = {}
    optima = optimum_table(points, [N, D], varying, LOSS, resamples, seed) if varying else pd.DataFrame()
    for name in varying:
        known = optima[(optima["setting"] == name) & optima["value"].notna()]
        if known.empty:
            reasons = optima.loc[optima["setting"] == name, "refused"]
            refused = NotEstimable(f"no cell has an optimum of {name} ({reasons.iloc[0]})")
            fitted |= {f"{name}.{key}": refused for key in ("coefficient", "N_exponent", "D_exponent")}
            laws[name] = None
            continue
        fit = fit_power_law(known["value"], known[N], known[D], seed=seed)
        fitted |= {f"{name}.{key}": one for key, one in fit.fitted.items()}
        laws[name] = fit.law
    return optima, fitted, laws


def _largest_group_of_tokens(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the token count that most have; of several, the largest."""
    if points.empty:
        return points
    logs = np.log(points[D].to_numpy())
    order = np.argsort(logs, kind="stable")
    group = np.empty(len(logs), int)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > FEW_TOKENS)])
    counts = np.bincount(group)
    return points[group == np.flatnonzero(counts == counts.max())[-1]].reset_index(drop=True)
