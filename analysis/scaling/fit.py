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

from analysis.runs.branches import branch_trials
from analysis.runs.quoted_loss import with_quoted_loss
from analysis.runs.trial_csv import BATCH, LOSS, LR, D, N
from analysis.scaling.isoflop import IsoFlop, fit_isoflop
from analysis.scaling.loss_law import OPTIMAL, LossLaw, fit_loss_law, fit_size_law
from analysis.scaling.optimum import optimum_table
from analysis.scaling.power_law import PowerLaw, fit_power_law
from analysis.scaling.regressors import levels_of
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, ShowsFitted
from analysis.tables.leaders import CONFIRMED, SEARCHED, results
from analysis.tables.settings import settings_table
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

SETTINGS = (LR, BATCH)
REPORTED = "reported"  # a point's loss that was not selected on, if there is one


@dataclass(frozen=True, repr=False)
class Scaling(ShowsFitted):
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

    def _shown(self) -> Mapping[str, Fitted]:
        return {**self.fitted, **{f"optimum.{path}": one for path, one in self.optimum.items()}}


def points_of(trials: pd.DataFrame, branches: pd.DataFrame | None = None) -> pd.DataFrame:
    """`search_points`, with the column `reported`: the loss that a law may be fitted to.

    That is the mean over seeds of the trial's setting; in an arm that was confirmed, the mean over the confirmation of
    its leader, and missing for all other settings; +inf where the confirmation ended without a leader.

    `branches` are those of the run (`analysis.runs.branches`), if it has any. Each is a point of its own D, as if its
    trial had been trained to it alone; the column `branch` has its fraction, and is missing for whole trials.

    >>> run = analysis.load("runs/quick")
    >>> points_of(run.trials, run.branches)[["N", "D", "loss", "branch"]]
    """
    if branches is None or branches.empty:
        return _points_of(trials)
    parts = [_points_of(trials).assign(**{col.BRANCH: np.nan})]
    for fraction in sorted(branches[col.BRANCH].unique()):
        parts.append(_points_of(branch_trials(trials, branches, fraction)).assign(**{col.BRANCH: fraction}))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _points_of(trials: pd.DataFrame) -> pd.DataFrame:
    trials = with_quoted_loss(trials)
    points, ended = search_points(trials), _ended(trials)
    losses = ended[col.TRIAL].map(_reported_losses(_of_first_arm(trials))).astype("float64").to_numpy()
    points.insert(points.columns.get_loc(BATCH) + 1, REPORTED, np.where(np.isfinite(points[LOSS]), losses, np.nan))
    return points


def search_points(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete and diverged trials of the search as points; N counts non-embedding parameters.

    If the sweep compares arms, only the first one counts. A trial that was stopped early has no final loss and is
    left out. Tied and untied models of a size have the same N, as is usual for scaling laws.
    """
    ended = _ended(with_quoted_loss(trials))
    fields = ("train.steps", "train.batch_size", "model.context_length")
    steps, sequences, context = (ended[f"{col.PARAMS_PREFIX}{field}"].astype("float64") for field in fields)
    batch = sequences * context
    loss = ended[col.LOSS].where(ended[col.STATUS] == col.COMPLETE).fillna(np.inf)
    size, lr = ended[col.PARAMS_NON_EMBEDDING].astype("float64"), ended[LR_PATH].astype("float64")
    points = {N: size, D: steps * batch, LOSS: loss, LR: lr, BATCH: batch}
    return pd.DataFrame({**points, col.SIZE: ended[col.SIZE]}).reset_index(drop=True)


def _of_first_arm(trials: pd.DataFrame) -> pd.DataFrame:
    arm = first_arm(trials)
    return trials if arm is None else trials[trials[col.ARM] == arm]


def _ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete and diverged trials of the search, of the first arm."""
    trials = _of_first_arm(trials)
    ended = trials[trials[col.STATUS].isin((col.COMPLETE, col.DIVERGED)) & trials[LR_PATH].notna()]
    return ended[(ended[col.PHASE] == col.SEARCH) & ended[col.SAME_AS].isna()]  # a copy of a trial is no second one


def first_arm(trials: pd.DataFrame) -> str | None:
    """The arm that laws are fitted to, as a law of several arms would be one of none; None without arms."""
    arms = trials[col.ARM].dropna()
    return str(arms.iloc[0]) if len(arms) else None


def _reported_losses(trials: pd.DataFrame) -> dict[str, float]:
    """By trial: the column `reported` of `points_of`."""
    searched = settings_table(trials[trials[col.PHASE] == col.SEARCH])
    losses = {trial: loss for ids, loss in zip(searched["trials"], searched[col.LOSS], strict=True) for trial in ids}
    found = results(trials)
    leaders = [one for result in found.values() for one in result.leaders]
    lost = {(size, name) for size, result in found.items() for name in result.lost}
    confirmed = {(one.size, one.name) for one in leaders if one.basis == CONFIRMED}
    if confirmed or lost:
        arms = trials[col.ARM].astype(object).where(trials[col.ARM].notna(), None)
        groups = dict(zip(trials[col.TRIAL], zip(trials[col.SIZE], arms, strict=True), strict=True))
        losses |= {trial: np.nan for trial, group in groups.items() if group in confirmed}
        losses |= {trial: np.inf for trial, group in groups.items() if group in lost}
    return losses | {one.setting: one.mean for one in leaders if one.basis != SEARCHED}


def best_points(points: pd.DataFrame) -> pd.DataFrame:
    """The best point of each (N, D) if settings are known, otherwise (models already tuned) all with a finite loss.

    Where a loss was `reported`, that is the loss of the point, and points without one are left out.
    """
    finite = points[np.isfinite(points[LOSS])]
    if not set(SETTINGS) & set(points.columns):
        return finite.reset_index(drop=True)
    if REPORTED in finite:
        cells = finite.groupby([N, D])[REPORTED]
        finite = finite[finite[REPORTED].notna() | (cells.transform("count") == 0)]
        finite = finite.assign(**{LOSS: finite[REPORTED].fillna(finite[LOSS])}).drop(columns=REPORTED)
        finite = finite[np.isfinite(finite[LOSS])]
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
