"""Which trials form pairs: two that differ in the compared fields alone, so that their losses may be subtracted.

There are three matchings, because "the same model without X" has three meanings if X changes the number of parameters:

| matching                      | a pair is                                                                           |
|-------------------------------|-------------------------------------------------------------------------------------|
| same shape                    | two trials equal in every other field: widths, layers, hyperparameters, seeds, data |
| same total parameters         | two trials of equal params_exact, or else two size series                           |
| same non-embedding parameters | the same by params_non_embedding                                                    |

A size series is the trials of one arm that differ in size alone, with equal hyperparameters, seeds, data and tokens. If
the parameter counts of two series do not coincide, the loss of one is interpolated linearly in log N at the sizes of
the other, and vice versa; nothing is extrapolated. Interpolation overestimates a loss that is convex in log N. Doing it
both ways penalises each arm in turn, so the error cancels. Two series count as one pair, whatever their number of
sizes, because their differences share trials.

`analysis.stats.comparison` draws conclusions from the pairs. Losses are in nats per token; differences are b minus a.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.stats.estimate import NotEstimable
from analysis.tables.searched import SEED_PATHS
from analysis.tables.trials import complete_trials, param_columns
from analysis.tables.window_pairs import window_difference
from lmcore import columns as col

SAME_SHAPE = "same shape"
SAME_TOTAL = "same total parameters"
SAME_NON_EMBEDDING = "same non-embedding parameters"
COUNT_OF = {SAME_TOTAL: col.PARAMS_EXACT, SAME_NON_EMBEDDING: col.PARAMS_NON_EMBEDDING}
MATCHINGS = (SAME_SHAPE, *COUNT_OF)

SHAPE_PATHS = tuple(f"{col.PARAMS_PREFIX}model.{name}" for name in ("d_model", "num_layers", "num_heads", "d_ff"))
SIZED_PATHS = tuple(f"{col.PARAMS_PREFIX}{path}" for path in ("model.num_kv_heads", "train.micro_batch_size"))
"""Fields that follow the shape from size to size, but are no part of it: arms that differ in them have one shape."""

LOSS_A, LOSS_B, DIFFERENCE = "loss_a", "loss_b", "difference"
INTERPOLATED = "interpolated"
NUMBERS = ("params", LOSS_A, LOSS_B, DIFFERENCE, INTERPOLATED, "one_way")
RESULTS = [col.SIZE, *NUMBERS]
MOST_PAIRS = 200  # of which the error over windows is computed
MOST_FINISHED_FIRST = (col.COMPLETE, col.DIVERGED, col.PRUNED, col.RUNNING, col.PAUSED, col.FAILED)


@dataclass(frozen=True)
class Arms:
    """The two arms of a comparison: trials of any status, and the columns in which the arms differ.

    >>> column, tied = "params.model.tie_embeddings", trials["params.model.tie_embeddings"] == True
    >>> arms = Arms(trials[~tied], trials[tied], (column,), size_columns(trials))
    >>> match(arms, SAME_SHAPE)
    """

    a: pd.DataFrame
    b: pd.DataFrame
    compared: tuple[str, ...]  # columns `params.<path>`
    sized: tuple[str, ...]  # columns determined by the size (`size_columns`), which may vary within a series

    @property
    def key(self) -> list[str]:
        """Columns in which the two trials of a pair agree; those that are constant over all trials are left out."""
        return [path for path in varying(pd.concat([self.a, self.b])) if path not in self.compared]

    @property
    def fields(self) -> str:
        """The compared fields by dotted path, for a sentence."""
        return " and ".join(path.removeprefix(col.PARAMS_PREFIX) for path in self.compared)


def varying(trials: pd.DataFrame) -> list[str]:
    """Columns `params.<path>`, and the phase, that take more than one value; a missing one counts.

    The phase, so that a run that was selected is never paired with one that was not.
    """
    paths = [*param_columns(trials), *([col.PHASE] if col.PHASE in trials else [])]
    return [path for path in paths if trials[path].nunique(dropna=False) > 1]


def size_columns(trials: pd.DataFrame) -> tuple[str, ...]:
    """Columns in which sizes differ by design: the shape and what follows it, and constant settings of the optimizer.

    Steps, batch size and context length never are: a model trained on more tokens is no match.
    """
    shape = tuple(path for path in (*SHAPE_PATHS, *SIZED_PATHS) if path in trials)
    by_size = trials.groupby(col.SIZE)
    if by_size.size().min() < 2:
        return shape  # a value that occurs once may be constant by chance
    settings = [path for path in trials if path.startswith(f"{col.PARAMS_PREFIX}optim.")]
    return shape + tuple(path for path in settings if by_size[path].nunique(dropna=False).max() == 1)


def match(arms: Arms, matching: str) -> pd.DataFrame | NotEstimable:
    """The pairs of complete trials under one of MATCHINGS, or why there are none.

    One row per pair. Columns: the shared fields that vary (`arms.key`; for series, those not determined by the size),
    size (of a pair of series, all sizes), params (the matched count; the largest for series, and a's params_exact for
    the same shape), loss_a, loss_b (NaN for series), difference, interpolated, one_way (only one of the series could be
    interpolated at the other's sizes, so that the interpolation error does not cancel).
    """
    a, b = complete_trials(arms.a), complete_trials(arms.b)
    if a.empty or b.empty:
        return NotEstimable(f"the {'first' if a.empty else 'second'} arm of {arms.fields} has no complete trial")
    shape = [path.removeprefix(col.PARAMS_PREFIX) for path in arms.compared if path in SHAPE_PATHS]
    if matching == SAME_SHAPE and shape:
        return NotEstimable(f"the two arms differ in {' and '.join(shape)}, which is the shape")
    pairs = _same_fields(a, b, arms) if matching == SAME_SHAPE else _same_count(a, b, arms, COUNT_OF[matching])
    remedy = "run a grid or experiments that change nothing else, as configs/tying.yaml does"
    none = NotEstimable(f"no pairs: no two complete trials differ in {arms.fields} alone; {remedy}")
    return none if pairs is None else pairs


def lost_pairs(arms: Arms) -> dict[str, int]:
    """Numbers of same-shape pairs without a difference because one trial or both are not complete.

    Keys: `a_diverged` and `b_diverged` (the other trial is complete), and `unfinished` for all others.
    """
    a, b = (
        arm.groupby("key")[col.STATUS].agg(lambda statuses: min(statuses, key=MOST_FINISHED_FIRST.index))
        for arm in keyed(arms.key, arms.a, arms.b)
    )
    both = pd.concat([a, b], axis=1, keys=["a", "b"], join="inner")
    pairs = list(both.itertuples(index=False, name=None))
    a_diverged, b_diverged = pairs.count((col.DIVERGED, col.COMPLETE)), pairs.count((col.COMPLETE, col.DIVERGED))
    unfinished = len(pairs) - pairs.count((col.COMPLETE, col.COMPLETE)) - a_diverged - b_diverged
    return {"a_diverged": a_diverged, "b_diverged": b_diverged, "unfinished": unfinished}


def seed_noise(trials: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation of the loss between seeds, and the number of groups of trials it is pooled over.

    A group is the complete trials of one phase that differ in train.seed or data.seed alone. (NaN, 0) if there is none
    of two or more.
    """
    complete = complete_trials(trials)
    paths = varying(complete)
    seeds = [path for path in SEED_PATHS if path in paths]
    (complete,) = keyed([path for path in paths if path not in seeds], complete)
    groups = complete.groupby(["key", *seeds], dropna=False)[col.LOSS].mean().groupby("key")
    sizes = groups.size()
    degrees = (sizes - 1)[sizes > 1]
    if degrees.empty:
        return np.nan, 0
    return float(np.sqrt((groups.var()[degrees.index] * degrees).sum() / degrees.sum())), len(degrees)


def paired_errors(arms: Arms, a: pd.DataFrame, b: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Standard errors over shared windows of the first MOST_PAIRS same-shape pairs; empty if windows were not kept."""
    first, second = (
        arm.drop_duplicates("key").set_index("key") for arm in keyed(arms.key, complete_trials(a), complete_trials(b))
    )
    both = [key for key in first.index if key in second.index][:MOST_PAIRS]
    found = [window_difference(first.loc[key].to_dict(), second.loc[key].to_dict()) for key in both]
    return np.array([one.se for one in found if not isinstance(one, str) and one.df], float)


def keyed(paths: Sequence[str], *frames: pd.DataFrame) -> list[pd.DataFrame]:
    """The frames with a column `key`: equal integers for rows that agree in these columns; missing values agree."""
    together = pd.concat(frames, ignore_index=True)
    same = together.groupby(list(paths), dropna=False, sort=False).ngroup() if paths else np.zeros(len(together), int)
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    return [frame.assign(key=part) for frame, part in zip(frames, np.split(np.asarray(same), ends), strict=True)]


def _same_fields(a: pd.DataFrame, b: pd.DataFrame, arms: Arms) -> pd.DataFrame | None:
    """Pairs that agree in all fields; trials that repeat each other count once, with their mean loss."""
    a, b = keyed(arms.key, a, b)
    means = [arm.groupby("key", sort=False)[col.LOSS].mean() for arm in (a, b)]
    losses = pd.concat(means, axis=1, keys=[LOSS_A, LOSS_B], join="inner")
    if losses.empty:
        return None
    shared = a.drop_duplicates("key").set_index("key").loc[losses.index]
    pairs = shared[[*arms.key, col.SIZE]].assign(params=shared[col.PARAMS_EXACT].astype(float), **losses)
    pairs[DIFFERENCE] = pairs[LOSS_B] - pairs[LOSS_A]
    return pairs.assign(interpolated=False, one_way=False)[[*arms.key, *RESULTS]].reset_index(drop=True)


def _same_count(a: pd.DataFrame, b: pd.DataFrame, arms: Arms, count: str) -> pd.DataFrame | NotEstimable | None:
    shared = [path for path in arms.key if path not in arms.sized]
    series_a, series_b = (dict(list(arm.groupby("key", sort=False))) for arm in keyed(shared, a, b))
    both = [key for key in series_a if key in series_b]
    if not both:
        return None
    pairs = {key: _pairs_of_series(series_a[key], series_b[key], count) for key in both}
    rows = [(*series_a[key].iloc[0][shared], *pair) for key in both for pair in pairs[key]]
    if not rows:
        spans = " and ".join(f"{arm[count].min():,} to {arm[count].max():,}" for arm in (a, b))
        sizes = len({*a[col.SIZE], *b[col.SIZE]})
        found = f"{spans} parameters, {sizes} size{'s' if sizes > 1 else ''}"
        rule = "no series of sizes of one arm encloses a size of the other"
        return NotEstimable(f"{rule} ({found}), and nothing is extrapolated")
    return pd.DataFrame(rows, columns=[*shared, *RESULTS])


def _pairs_of_series(series_a: pd.DataFrame, series_b: pd.DataFrame, count: str) -> list[tuple[object, ...]]:
    """RESULTS for each parameter count that both series have, else for the series as a whole, else none."""
    a, b = (series.groupby(series[count].astype(float))[col.LOSS].mean() for series in (series_a, series_b))
    same = a.index.intersection(b.index)
    if len(same):
        size_of = dict(zip(series_a[count][::-1], series_a[col.SIZE][::-1], strict=True))  # the first trial's
        return [(size_of[N], N, a[N], b[N], b[N] - a[N], False, False) for N in same]
    ways = [gaps for gaps in (b[_within(b, a)] - _at(a, b), _at(b, a) - a[_within(a, b)]) if len(gaps)]
    if not ways:
        return []
    sizes = ", ".join(pd.concat([series_a, series_b])[col.SIZE].unique())
    difference = float(np.mean([gaps.mean() for gaps in ways]))
    return [(sizes, max(gaps.index.max() for gaps in ways), np.nan, np.nan, difference, True, len(ways) == 1)]


def _within(series: pd.Series, other: pd.Series) -> npt.NDArray[np.bool_]:
    """Which counts of `series` are inside the range of `other`."""
    return np.asarray((series.index >= other.index.min()) & (series.index <= other.index.max()))


def _at(series: pd.Series, other: pd.Series) -> pd.Series:
    """The loss of `series`, interpolated linearly in log N, at those counts of `other` that are inside its range."""
    counts = other.index[_within(other, series)]
    return pd.Series(np.interp(np.log(counts), np.log(series.index), series), counts, dtype=float)
