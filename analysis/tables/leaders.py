"""The result of each group of trials: its leading setting, and the settings that cannot be told apart from it.

What was selected on is never what is reported. A group that was confirmed is judged by its confirmation trials alone:
new seeds, the same for every candidate. Its leader is the one that the sweep recorded when the confirmation was over,
and until then the search's best setting. An experiment was not selected, so all its runs count. A group without either
is judged by its search; its best loss is then the luckiest of many, and `basis` says so.

Settings that share seeds are compared seed by seed, with the noise of all settings of the size together
(`lmcore.measure.seed_noise`). With one run each, two settings are compared on the windows of their evaluation, which
does not include what another seed would change.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.tables.settings import (
    DIVERGED,
    GROUP,
    HALF,
    MEAN,
    SEED_COUNT,
    SETTING,
    UNFINISHED,
    Array,
    loss_matrix,
    summary_of,
    with_settings,
)
from analysis.tables.window_pairs import window_difference
from lmcore import columns as col
from lmcore.measure.seed_noise import SeedNoise, seed_noise

CONFIRMED, ALL_RUNS, SEARCHED = "confirmed", "all runs", "searched"
NEAREST = 50  # settings with one run that are compared with the best by their windows
ROUGH_T = 2.0  # standard errors, where windows were not kept and degrees of freedom are unknown


@dataclass(frozen=True)
class Noise:
    """How much the loss of a size changes with the seed, in nats per token; NaN and 0 where nothing shows it."""

    between: SeedNoise
    """Standard deviation between the seeds of a setting, pooled over settings."""
    paired: SeedNoise
    """What is left of it between settings that share their seeds."""


@dataclass(frozen=True)
class Leader:
    """The result of a group. A setting is named by the id of a trial of the search that has it."""

    size: str
    name: str | None  # of the arm or experiment; None for a whole size
    basis: str  # CONFIRMED, ALL_RUNS or SEARCHED
    setting: str
    losses: pd.Series  # nats per token by seed; one entry for a setting with one run
    n: int  # seeds
    mean: float
    half: float  # of the 95 % interval of the mean, from its own seeds; NaN for one seed
    diverged: int  # other seeds of the leading setting, which diverged
    same: tuple[str, ...]  # compared settings that are not significantly worse
    same_from: str
    """`seeds`, `windows`, `errors` (of the two losses, as windows were not kept), or `` for none of them."""
    unconfirmed: tuple[str, ...]  # of the search: not confirmed, but within the noise of the leader
    beaten: tuple[str, ...]
    unstable: tuple[str, ...]  # settings of which a seed diverged
    trials: tuple[str, ...]  # ids of the leader's complete trials that count
    over: bool  # False while a confirmation that has begun has no result


@dataclass(frozen=True)
class SizeResult:
    """The results of all groups of a size, in the order of the trials."""

    size: str
    noise: Noise
    leaders: tuple[Leader, ...]
    lost: tuple[str | None, ...]  # groups without a leader, because no run of their confirmation ran to its end


def results(trials: pd.DataFrame) -> dict[str, SizeResult]:
    """By size: the noise between seeds, and the leader of each group that has a complete trial."""
    known = with_settings(trials)
    found = {}
    for size, of_size in known.groupby(col.SIZE, sort=False):
        groups = {
            name: group
            for key, group in of_size.groupby([col.EXPERIMENT, col.ARM], dropna=False, sort=False)
            for name in [" ".join(str(part) for part in key if pd.notna(part)) or None]
        }
        lost = tuple(name for name, group in groups.items() if _is_lost(group))
        evidence = {name: _evidence(group) for name, group in groups.items()}
        counted = pd.concat([part for part, _ in evidence.values()])
        noise = noise_of(loss_matrix(counted))
        leaders = (
            _leader(str(size), name, group, *evidence[name], noise)
            for name, group in groups.items()
            if name not in lost
        )
        found[str(size)] = SizeResult(str(size), noise, tuple(one for one in leaders if one is not None), lost)
    return found


def noise_of(matrix: pd.DataFrame) -> Noise:
    """The noise of a size from its `loss_matrix`."""
    if matrix.empty:
        return Noise(SeedNoise(math.nan, 0), SeedNoise(math.nan, 0))
    values = matrix.to_numpy(np.float64)
    spread = values[np.isfinite(values).sum(axis=1) > 1]
    df = int(np.isfinite(spread).sum()) - len(spread)
    between = math.sqrt(np.nansum((spread - np.nanmean(spread, axis=1, keepdims=True)) ** 2) / df) if df else math.nan
    # A setting with one seed, and a seed of one setting, say nothing about the noise of differences.
    kept, size = spread, -1
    while kept.size != size:
        size = kept.size
        kept = kept[:, np.isfinite(kept).sum(axis=0) > 1]
        kept = kept[np.isfinite(kept).sum(axis=1) > 1]
    return Noise(SeedNoise(between, df), seed_noise(kept) if kept.size else SeedNoise(math.nan, 0))


def _evidence(group: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The trials that a group is judged by, and the basis."""
    if group[col.EXPERIMENT].notna().any():
        return group, ALL_RUNS
    confirmation = _confirmation(group)
    complete = confirmation[confirmation[col.STATUS] == col.COMPLETE]
    first = _best_of_search(group)
    if len(complete) and (_is_over(group) or first is None or first in set(complete[SETTING])):
        return confirmation, CONFIRMED
    return group[group[col.PHASE] == col.SEARCH], SEARCHED


def _confirmation(group: pd.DataFrame) -> pd.DataFrame:
    return group[group[col.PHASE] == col.CONFIRM]


def _is_over(group: pd.DataFrame) -> bool:
    """False while a confirmation that has begun has no result."""
    return bool(_confirmation(group)[col.OVER].fillna(False).astype(bool).all())


def _is_lost(group: pd.DataFrame) -> bool:
    """Whether a confirmation is over and names no leader. Experiments have all their runs, and no leader is named."""
    confirmation = _confirmation(group)
    if confirmation.empty or group[col.EXPERIMENT].notna().any() or not _is_over(group):
        return False
    named = confirmation[col.LEADER].fillna(False).astype(bool).any()
    return not named or not (confirmation[col.STATUS] == col.COMPLETE).any()


def _leader(
    size: str, name: str | None, group: pd.DataFrame, counted: pd.DataFrame, basis: str, noise: Noise
) -> Leader | None:
    table = summary_of(counted).set_index(SETTING)
    table = table[table[SEED_COUNT] > 0]
    if table.empty:
        return None
    matrix = loss_matrix(counted).droplevel(GROUP)
    named = counted.loc[counted[col.LEADER].fillna(False).astype(bool), SETTING]
    choices = [named.iloc[0] if len(named) else None]
    if basis != ALL_RUNS:
        choices += [_best_of_search(group), _best_of_search(group, table.index)]
    setting = next((one for one in choices if one in table.index), None) or _best(table)
    unstable = table.index[table[DIVERGED] > 0]
    others = matrix.drop(index=[setting, *unstable], errors="ignore")
    own = matrix.loc[setting]
    worse, same_from = _worse(others, own, noise, counted, setting)
    row = table.loc[setting]
    of_setting = counted[(counted[SETTING] == setting) & (counted[col.STATUS] == col.COMPLETE)]
    return Leader(
        size,
        name,
        basis,
        str(setting),
        own.dropna(),
        int(row[SEED_COUNT]),
        float(row[MEAN]),
        float(row[HALF]),
        int(row[DIVERGED]),
        tuple(others.index[worse == 0]),
        same_from,
        _unconfirmed(group, counted, row, noise) if basis == CONFIRMED else (),
        tuple(others.index[worse == 1]),
        tuple(one for one in unstable if one != setting),
        tuple(of_setting[col.TRIAL]),
        _is_over(group),
    )


def _best(table: pd.DataFrame) -> str:
    """The lowest mean over seeds. A setting with a seed that diverged or was stopped comes after all others."""
    stable = table[(table[DIVERGED] == 0) & (table[UNFINISHED] == 0)]
    stable = stable if len(stable) else table[table[DIVERGED] == 0]
    return str((stable if len(stable) else table)[MEAN].idxmin())


def _best_of_search(group: pd.DataFrame, among: pd.Index | None = None) -> str | None:
    """The search's best setting, of those that did not diverge in the confirmation while there are others."""
    searched = summary_of(group[group[col.PHASE] == col.SEARCH]).set_index(SETTING)
    searched = searched[searched[SEED_COUNT] > 0]
    searched = searched if among is None else searched[searched.index.isin(among)]
    confirmation = _confirmation(group)
    fallen = confirmation.loc[confirmation[col.STATUS] == col.DIVERGED, SETTING]
    left = searched[~searched.index.isin(fallen)]
    left = left if len(left) else searched
    return _best(left) if len(left) else None


def _gaps(others: pd.DataFrame, own: pd.Series, noise: Noise) -> tuple[Array, Array, Array]:
    """Mean of each setting minus the leader's, its standard error and its degrees of freedom (0: unknown)."""
    both = others.notna() & own.notna()
    shared = both.sum(axis=1).to_numpy()
    paired = others.sub(own).where(both).mean(axis=1)
    n, m = others.notna().sum(axis=1), int(own.notna().sum())
    is_paired = (shared > 0) & (noise.paired.df > 0)
    gap = paired.where(is_paired, others.mean(axis=1) - own.mean()).to_numpy()
    apart = noise.between.sd * np.sqrt(1 / n.to_numpy() + 1 / m)
    error = np.where(is_paired, noise.paired.sd * np.sqrt(2 / np.maximum(shared, 1)), apart)
    return gap, error, np.where(is_paired, noise.paired.df, noise.between.df)


def _worse(
    others: pd.DataFrame, own: pd.Series, noise: Noise, counted: pd.DataFrame, setting: str
) -> tuple[Array, str]:
    """For each setting 1 if it is significantly worse, 0 if not, NaN if nothing shows it; and what it was judged by."""
    if others.empty:
        return np.zeros(0), ""
    if noise.between.df or noise.paired.df:
        gap, error, df = _gaps(others, own, noise)
        return np.where(df > 0, gap > _t(np.maximum(df, 1)) * error, np.nan).astype(float), "seeds"
    runs = counted[(counted[col.STATUS] == col.COMPLETE)].drop_duplicates(SETTING).set_index(SETTING)
    nearest = (others.mean(axis=1) - own.mean()).sort_values(kind="stable").index[:NEAREST]
    leader, sources = runs.loc[setting].to_dict(), set()
    verdict = pd.Series(1.0, others.index)
    verdict[others.index.difference(nearest)] = np.nan
    for one in nearest:
        verdict[one], source = _worse_on_windows(leader, runs.loc[one].to_dict())
        sources.add(source)
    return verdict.to_numpy(), "windows" if sources == {"windows"} else "errors" if "errors" in sources else ""


def _worse_on_windows(a: dict[str, object], b: dict[str, object]) -> tuple[float, str]:
    found = window_difference(a, b)
    if not isinstance(found, str) and found.df:
        return float(found.mean > _t(found.df) * found.se), "windows"
    first, second = (np.array([one[col.LOSS], one[col.LOSS_SE]], float) for one in (a, b))
    error = float(np.hypot(first[1], second[1]))
    return (math.nan, "") if math.isnan(error) else (float(second[0] - first[0] > ROUGH_T * error), "errors")


def _unconfirmed(group: pd.DataFrame, counted: pd.DataFrame, leader: pd.Series, noise: Noise) -> tuple[str, ...]:
    """Settings of the search that were not confirmed, and whose loss is within the noise of the leader's mean."""
    if not noise.between.df:
        return ()
    searched = summary_of(group[group[col.PHASE] == col.SEARCH])
    known = (searched[SEED_COUNT] > 0) & (searched[DIVERGED] == 0) & ~searched[SETTING].isin(counted[SETTING])
    searched = searched[known].sort_values(MEAN, kind="stable")
    error = noise.between.sd * np.sqrt(1 / searched[SEED_COUNT] + 1 / leader[SEED_COUNT])
    return tuple(searched.loc[searched[MEAN] - leader[MEAN] <= _t(noise.between.df) * error, SETTING])


def _t(df: object) -> Array:
    """Student's quantile for a one-sided test at 2.5 %."""
    return np.asarray(stats.t.ppf(0.975, df))
