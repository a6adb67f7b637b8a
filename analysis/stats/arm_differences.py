"""The difference between two arms of a size, or two experiments, each represented by its leading setting.

There are three matchings, because "the same model without X" has three meanings if X changes the number of parameters
(`analysis.stats.matching`). At the same shape the leaders are compared directly. At the same number of parameters, the
loss of one arm is interpolated linearly in log N between its sizes, at the size of the other, under each seed by
itself; nothing is extrapolated. Losses are in nats per token. A difference is b minus a, so b is better where it is
negative.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.stats.comparison import BETTER, REFUSED, SAME, SEEDS, TIE, UNKNOWN, WINDOWS, WORSE
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.stats.matching import COUNT_OF, SAME_SHAPE, SHAPE_PATHS
from analysis.stats.windows import estimate_of
from analysis.tables.leaders import ALL_RUNS, CONFIRMED, SEARCHED, Leader, Noise
from analysis.tables.window_pairs import differ, window_difference
from lmcore import columns as col
from lmcore.measure.seed_noise import paired_difference

AS_CONFIGURED = "different shapes"  # in place of SAME_SHAPE, where the arms differ in shape


@dataclass(frozen=True)
class ArmDifference:
    """b minus a at one size, under one matching."""

    size: str
    a: str
    b: str
    matching: str
    difference: Fitted  # n counts seeds, or windows
    basis: str  # SEEDS, WINDOWS (fixed weights: what another seed would change is not included) or UNKNOWN
    one_way: bool = False  # only one arm could be interpolated at the other's size, which overestimates its loss

    @property
    def verdict(self) -> str:
        """On b: better, worse, tie (the interval contains 0), same (bit for bit), or refused (not estimable)."""
        if isinstance(self.difference, NotEstimable):
            return REFUSED
        if self.difference.low == 0 == self.difference.high:
            return SAME
        if self.difference.low <= 0 <= self.difference.high:
            return TIE
        return BETTER if self.difference.value < 0 else WORSE


@dataclass(frozen=True)
class Model:
    """A leader, and a row of `analysis.load`'s trials that has its parameter counts."""

    leader: Leader
    row: Mapping[str, object]

    def count(self, column: str) -> float:
        return float(self.row[column])  # type: ignore[arg-type]


def differences(a: Sequence[Model], b: Sequence[Model], size: str, noise: Noise) -> list[ArmDifference]:
    """b against a at this size under all matchings; `a` and `b` are the arms at every size that has a leader."""
    (first,), (second,) = ([one for one in arm if one.leader.size == size] for arm in (a, b))
    names = str(first.leader.name), str(second.leader.name)
    shape = [path.rpartition(".")[2] for path in SHAPE_PATHS if differ(first.row.get(path), second.row.get(path))]
    direct, basis = _direct(first, second, noise)
    found = [ArmDifference(size, *names, AS_CONFIGURED if shape else SAME_SHAPE, direct, basis)]
    for matching, column in COUNT_OF.items():
        if first.count(column) == second.count(column):
            found.append(ArmDifference(size, *names, matching, direct, basis))
        else:
            difference, source, one_way = _interpolated(a, b, first, second, column)
            found.append(ArmDifference(size, *names, matching, difference, source, one_way))
    return found


def _direct(a: Model, b: Model, noise: Noise) -> tuple[Fitted, str]:
    """b minus a under the seeds that they share, else between their means; on shared windows if no seed tells."""
    if {a.leader.basis, b.leader.basis} == {CONFIRMED, SEARCHED}:
        return NotEstimable(f"{_unconfirmed(a, b)} was not confirmed, and a selected loss is no match"), UNKNOWN
    x, y = a.leader.losses.align(b.leader.losses)
    if (both := (x == y).sum()) and both == (x.notna() & y.notna()).sum():
        return Estimate(0.0, 0.0, 0.0, int(both)), SEEDS
    gap, error, n = paired_difference(x.to_numpy(float), y.to_numpy(float), noise.paired)
    if n and noise.paired.df:
        return _student(gap, error, noise.paired.df, n), SEEDS
    if noise.between.df:
        error = noise.between.sd * (1 / a.leader.n + 1 / b.leader.n) ** 0.5
        return _student(b.leader.mean - a.leader.mean, error, noise.between.df, min(a.leader.n, b.leader.n)), SEEDS
    found = estimate_of(window_difference(a.row, b.row))
    if isinstance(found, NotEstimable):
        once = all(len(one.leader.trials) == 1 and not one.leader.diverged for one in (a, b))
        why = "there is one run of each" if once else "no setting ran to its end under two seeds"
        return NotEstimable(f"{why}, and {found.reason}"), UNKNOWN
    return found, WINDOWS


def _student(value: float, error: float, df: int, n: int) -> Estimate:
    half = float(stats.t.ppf(0.975, df)) * error
    return Estimate(value, value - half, value + half, n)


def _unconfirmed(a: Model, b: Model) -> str:
    return str((a if a.leader.basis == SEARCHED else b).leader.name)


def _interpolated(
    a: Sequence[Model], b: Sequence[Model], first: Model, second: Model, column: str
) -> tuple[Fitted, str, bool]:
    """The difference at the sizes of `first` and `second`, one arm of which is interpolated; both ways if possible."""
    models = (*a, *b)
    if len({one.count(col.TOKENS) for one in models}) > 1:
        return NotEstimable("the sizes were trained on different numbers of tokens"), UNKNOWN, False
    bases = {one.leader.basis for one in models}
    if not (bases <= {CONFIRMED} or bases <= {ALL_RUNS} or bases <= {SEARCHED}):
        return NotEstimable("not every size and arm was confirmed"), UNKNOWN, False
    at_second, at_first = _at(a, second.count(column), column), _at(b, first.count(column), column)
    ways = []
    if at_second is not None:
        ways.append(second.leader.losses - at_second)
    if at_first is not None:
        ways.append(at_first - first.leader.losses)
    if not ways:
        return NotEstimable("no two sizes of one arm enclose the other, and nothing is extrapolated"), UNKNOWN, False
    gaps = pd.concat(ways, axis=1).dropna().mean(axis=1).to_numpy()
    n = len(gaps)
    if n < 2:
        reason = f"{n} shared seed{'' if n == 1 else 's'} of all sizes give no interval; confirm under more seeds"
        return NotEstimable(reason), UNKNOWN, False
    return _student(float(gaps.mean()), float(gaps.std(ddof=1)) / n**0.5, n - 1, n), SEEDS, len(ways) == 1


def _at(arm: Sequence[Model], count: float, column: str) -> pd.Series | None:
    """The arm's loss by seed at this number of parameters, linear in log N between two sizes; None outside of them."""
    ordered = sorted(arm, key=lambda one: one.count(column))
    for below, above in itertools.pairwise(ordered):
        low, high = below.count(column), above.count(column)
        if low <= count <= high and low < high:
            share = np.log(count / low) / np.log(high / low)
            return (1 - share) * below.leader.losses + share * above.leader.losses
    return None
