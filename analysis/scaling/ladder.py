"""`Ladder`: the sizes of a sweep from small to large, with the trials of each, as the laws of optima and of losses need
them.

A size counts with at least `ENOUGH` trials of its search, one of them complete; trials that were stopped early count
with their outlook (`analysis.scaling.outlook`). A ladder needs `MIN_SIZES` of them. Arms have a ladder each.
`analysis.scaling.optimum_law`, `analysis.scaling.held_out` and `analysis.scaling.forecast` fit them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.trial_csv import BATCH, FLOPS_PER_PARAMETER_AND_TOKEN, LOSS, LR, D, N
from analysis.scaling.outlook import outlooks
from analysis.scaling.regressors import count_levels, indistinguishable
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import NotEstimable, too_few
from analysis.tables.leaders import CONFIRMED, Leader, results
from analysis.tables.searched import searched_dimensions
from analysis.tables.settings import CONSTANTS
from analysis.tables.trials import TIED_PATH, complete_trials, short_names
from lmcore import columns as col
from lmcore.measure.axis import Axis

ENOUGH = 3
"""Trials of a size that counts: with fewer, neither its optimum nor its best loss says much."""
MIN_SIZES = 3
MIN_VALUES = 3
"""Different values of a field over all sizes, and in each size at least 2. Others are choices, without an order."""
ON_LINE = 0.1
"""How far the log of D may be from the line that the sizes are on. A forecast of the loss holds only there."""


@dataclass(frozen=True)
class LadderSize:
    """A size: N parameters (without embeddings) trained on D tokens, and its trials."""

    name: str
    N: float
    D: float
    flops: float
    """FLOPs of training one model."""
    values: Array
    """The fields of `Ladder.axes` in each trial, [n, P]."""
    choices: Array
    """1 for the choices that a trial has, 0 for others, [n, Q]."""
    losses: Array
    """Nats per token, [n]."""
    trials: tuple[str, ...]
    """Ids, [n]."""
    loss: float
    """The loss of the size: that of its leading setting, which is confirmed where it can be; else the lowest."""
    half: float = math.nan
    """Half of the 95 % interval of that loss from seeds; NaN for one seed."""
    confirmed: bool = False

    @property
    def logs(self) -> Array:
        """log N and log D."""
        return np.log([self.N, self.D])


@dataclass(frozen=True)
class Line:
    """How D follows N along a ladder: log D rises with `slope` log N. Its sizes are told apart by N alone."""

    slope: float
    N: float
    D: float
    """A point on it."""

    def tokens(self, parameters: float) -> float:
        """D of this N on the line."""
        return float(self.D * (parameters / self.N) ** self.slope)

    def has(self, parameters: float, tokens: float) -> bool:
        """Whether a model is on the line."""
        return abs(math.log(tokens / self.tokens(parameters))) <= ON_LINE


@dataclass(frozen=True)
class Ladder:
    """The sizes of an arm, by rising training FLOPs.

    >>> ladder_of(analysis.load("runs/ladder").trials).sizes[-1].name
    '0.44M'
    """

    arm: str | None
    sizes: tuple[LadderSize, ...]
    axes: tuple[Axis, ...]
    """The numeric fields that were searched in all sizes, each over the values tried in any of them."""
    names: tuple[str, ...]
    """Short names of these fields: `lr`."""
    left_out: tuple[tuple[str, int], ...]
    """Sizes with too few trials, and how many they have."""

    @property
    def refused(self) -> NotEstimable | None:
        """Why no law can be fitted; None if one can."""
        levels = count_levels(np.log([one.N for one in self.sizes]))
        reason = too_few(levels, f"size with {ENOUGH} trials", MIN_SIZES, " for a law")
        return reason if levels < MIN_SIZES else None

    @property
    def line(self) -> Line | None:
        """The line that all sizes are on; None if N and D do not rise together."""
        logs = np.array([one.logs for one in self.sizes])
        centred = logs - logs.mean(axis=0)
        n, d = centred.T
        if not np.any(n) or (np.std(d) > ON_LINE / 2 and not indistinguishable(n, d)):
            return None
        slope = float(n @ d / (n @ n))
        whole = round(slope)
        return Line(float(whole) if abs(slope - whole) < ON_LINE / 2 else slope, self.sizes[-1].N, self.sizes[-1].D)

    def line_through(self, parameters: float, tokens: float) -> Line:
        """The line that a model is judged on: that of all sizes, or else that of equal tokens per parameter."""
        return self.line or Line(1.0, parameters, tokens)

    def without_largest(self) -> "Ladder":
        """The same without its last size."""
        return replace(self, sizes=self.sizes[:-1])

    def only(self, sizes: Sequence[LadderSize]) -> "Ladder":
        """The same with these sizes."""
        return replace(self, sizes=tuple(sizes))


def arms_of(trials: pd.DataFrame) -> list[str | None]:
    """The arms whose ladders can be asked for; [None] for a sweep without arms."""
    return list(dict.fromkeys(trials[col.ARM].dropna().astype(str))) or [None]


def ladder_of(trials: pd.DataFrame, arm: str | None = None, rows: pd.DataFrame | None = None) -> Ladder:
    """The ladder of an arm, by default the first, from the trials of `analysis.load`.

    In a table of trials with the columns N, D, loss, and lr or batch (`analysis.runs.trial_csv.read_trials`), each (N,
    D) is a size. Trials that diverged or belong to an experiment are left out, and without `rows`, those of the run,
    also trials that were stopped early.

    >>> ladder_of(run.trials, "tied", run.rows).axes
    (Axis(name='optim.lr', low=0.0003, high=0.1, scale='log'),)
    """
    if col.TRIAL not in trials:
        return _ladder_of_points(trials)
    arm = arms_of(trials)[0] if arm is None else arm
    own = trials if arm is None else trials[trials[col.ARM] == arm]
    own = own[own[col.EXPERIMENT].isna()]
    complete = complete_trials(own)
    complete = complete[complete[col.PHASE] == col.SEARCH]
    leaders = _leaders(own, arm)
    if rows is not None and len(expected := outlooks(own, rows)):
        complete = pd.concat([complete, own.loc[expected.index].assign(**{col.LOSS: expected})])
    groups = {str(size): group for size, group in complete.groupby(col.SIZE, sort=False)}
    kept = {size: group for size, group in groups.items() if len(group) >= ENOUGH and size in leaders}
    sizes = list(dict.fromkeys(own[col.SIZE].astype(str)))
    left_out = tuple((size, len(groups.get(size, ()))) for size in sizes if size not in kept)
    together = pd.concat(kept.values()) if kept else complete.iloc[:0]
    paths, choices = _fields(together)
    axes = tuple(Axis.over(path.removeprefix(col.PARAMS_PREFIX), together[path].astype(float)) for path in paths)
    found = [
        _size(size, group, leaders[size], group[paths].to_numpy(float), _chosen(group, choices))
        for size, group in kept.items()
    ]
    short = short_names([name for name in trials if str(name).startswith(col.PARAMS_PREFIX)])
    ascending = tuple(sorted(found, key=lambda one: one.flops))
    return Ladder(arm, ascending, axes, tuple(short[path] for path in paths), left_out)


def _size(name: str, group: pd.DataFrame, leader: Leader, values: Array, choices: Array) -> LadderSize:
    whole = group[group[col.STATUS] == col.COMPLETE]  # others have not seen all tokens
    parameters, tokens, flops = (
        float(whole[column].astype("float64").median())
        for column in (col.PARAMS_NON_EMBEDDING, col.TOKENS, col.TRAIN_FLOPS)
    )
    losses, ids = group[col.LOSS].to_numpy(float), tuple(group[col.TRIAL].astype(str))
    confirmed = leader.basis == CONFIRMED
    return LadderSize(
        name, parameters, tokens, flops, values, choices, losses, ids, leader.mean, leader.half, confirmed
    )


def _leaders(trials: pd.DataFrame, arm: str | None) -> dict[str, Leader]:
    """The leading setting of each size; a size without one is left out."""
    found = results(trials) if len(trials) else {}
    return {
        size: one
        for size, result in found.items()
        for one in result.leaders
        if one.name == arm and np.isfinite(one.mean)
    }


def _fields(trials: pd.DataFrame) -> tuple[list[str], list[tuple[str, Any]]]:
    """The columns of numbers that were searched in all sizes; and each value of the choices, with its column."""
    if trials.empty:
        return [], []
    numbers, others = [], []
    for path in searched_dimensions(trials):
        values = trials[path]
        in_sizes = trials.groupby(col.SIZE, sort=False)[path].nunique()
        if _is_numeric(values) and values.nunique() >= MIN_VALUES and (in_sizes > 1).all():
            numbers.append(path)
        elif path not in CONSTANTS and (path == TIED_PATH or not _is_numeric(values) or in_sizes.max() < MIN_VALUES):
            others.append(path)
    return numbers, [(path, value) for path in others for value in trials[path].dropna().unique()]


def _is_numeric(values: pd.Series) -> bool:
    """Whether every trial has a number; what applies to some trials only is none."""
    return all(isinstance(one, (int, float)) and not isinstance(one, bool) and one == one for one in values.tolist())


def _chosen(group: pd.DataFrame, choices: Sequence[tuple[str, Any]]) -> Array:
    """1 for the choices that each trial has, 0 for others, [n, Q]."""
    columns = [(group[path] == value).to_numpy(float) for path, value in choices]
    return np.stack(columns, axis=1) if columns else np.zeros((len(group), 0))


def _ladder_of_points(points: pd.DataFrame) -> Ladder:
    """The ladder of a table of trials."""
    finite = points[np.isfinite(points[LOSS])]
    groups = {(float(n), float(d)): group for (n, d), group in finite.groupby([N, D])}
    kept = {key: group for key, group in groups.items() if len(group) >= ENOUGH}
    together = pd.concat(kept.values()) if kept else finite.iloc[:0]
    fields = [
        name
        for name in (LR, BATCH)
        if name in together
        and together[name].nunique() >= MIN_VALUES
        and all(group[name].nunique() > 1 for group in kept.values())
    ]
    sizes = [
        LadderSize(
            f"N={n:.3g}, D={d:.3g}",
            n,
            d,
            FLOPS_PER_PARAMETER_AND_TOKEN * n * d,
            group[fields].to_numpy(float),
            np.zeros((len(group), 0)),
            group[LOSS].to_numpy(float),
            tuple(map(str, group.index)),
            float(group[LOSS].min()),
        )
        for (n, d), group in kept.items()
    ]
    axes = tuple(Axis.over(name, together[name]) for name in fields)
    left_out = tuple((f"N={n:.3g}, D={d:.3g}", len(group)) for (n, d), group in groups.items() if (n, d) not in kept)
    return Ladder(None, tuple(sorted(sizes, key=lambda one: one.flops)), axes, tuple(fields), left_out)
