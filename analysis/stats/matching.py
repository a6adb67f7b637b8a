"""Which trials form pairs: two that differ in the compared fields alone, so that their losses may be subtracted.

Three matchings, because "the same model without X" has three meanings where X changes the number of parameters:

| matching                      | a pair is                                                                        |
|-------------------------------|----------------------------------------------------------------------------------|
| same shape                    | two trials equal in every other field: widths, layers, hyperparameters, seeds, data |
| same total parameters         | two trials of equal params_exact, or else two *lines*, see below                 |
| same non-embedding parameters | the same by params_non_embedding                                                 |

A line is the trials of one kind that differ in size alone (same hyperparameters, seeds, data and tokens). Where the
counts of two lines do not coincide, the loss of one is interpolated in log N at the sizes of the other, never
extrapolated, and both ways round: a loss that is convex in log N is overestimated between two sizes, which favours each
kind in turn and cancels. A pair of lines is one pair, whatever its number of sizes: its differences share their trials.

What the pairs say is judged in `analysis.stats.comparison`. Losses are in nats per token; differences are b minus a.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.estimate import NotEstimable
from analysis.tables.searched import SEED_PATHS, param_columns
from lmcore import columns as col

SAME_SHAPE = "same shape"
SAME_TOTAL = "same total parameters"
SAME_NON_EMBEDDING = "same non-embedding parameters"
COUNT_OF = {SAME_TOTAL: col.PARAMS_EXACT, SAME_NON_EMBEDDING: col.PARAMS_NON_EMBEDDING}
MATCHINGS = (SAME_SHAPE, *COUNT_OF)

SHAPE_PATHS = tuple(f"{col.PARAMS_PREFIX}model.{name}" for name in ("d_model", "num_layers", "num_heads", "d_ff"))

LOSS_A, LOSS_B, DIFFERENCE = "loss_a", "loss_b", "difference"
RESULTS = (col.SIZE, "params", LOSS_A, LOSS_B, DIFFERENCE, "interpolated", "one_way")


@dataclass(frozen=True)
class Arms:
    """The two arms of trials that are compared, whatever their status, and the columns in which they differ."""

    a: pd.DataFrame
    b: pd.DataFrame
    compared: tuple[str, ...]
    """Columns `params.<path>`."""
    sized: tuple[str, ...]
    """Columns that the size decides (`size_columns`): along a line they may change."""

    @property
    def key(self) -> list[str]:
        """Columns that the two trials of a pair share; those that are the same in all trials are not listed."""
        both = pd.concat([self.a, self.b])
        paths = [path for path in param_columns(both) if path not in self.compared]
        return [path for path in paths if both[path].nunique(dropna=False) > 1]

    @property
    def fields(self) -> str:
        """The compared fields by dotted path, for a sentence."""
        return " and ".join(path.removeprefix(col.PARAMS_PREFIX) for path in self.compared)


def size_columns(trials: pd.DataFrame) -> tuple[str, ...]:
    """Columns in which sizes differ by design: the shape, and optimizer settings that are constant within each size.

    Never steps, batch size or context length: what was trained on more tokens is no match.
    """
    shape = tuple(path for path in SHAPE_PATHS if path in trials)
    by_size = trials.groupby(col.SIZE)
    if by_size.size().min() < 2:
        return shape  # a value that occurs once may be constant by chance
    settings = [path for path in trials if path.startswith(f"{col.PARAMS_PREFIX}optim.")]
    return shape + tuple(path for path in settings if by_size[path].nunique(dropna=False).max() == 1)


def match(arms: Arms, matching: str) -> pd.DataFrame | NotEstimable:
    """The pairs of complete trials under one of MATCHINGS, or why there are none.

    One row per pair. Columns: the shared fields that vary (`arms.key`; of lines, those that the size does not decide),
    size (all sizes of a pair of lines), params (the count that is matched, the largest of a pair of lines; of the same
    shape, a's params_exact), loss_a, loss_b (NaN for lines), difference, interpolated, one_way (a line was interpolated
    at the other's sizes but not the reverse, so that the error of interpolation does not cancel).
    """
    a, b = (_complete(kind) for kind in (arms.a, arms.b))
    for kind, name in ((a, "first"), (b, "second")):
        if kind.empty:
            return NotEstimable(f"no complete trial is of the {name} kind of {arms.fields}")
    if matching == SAME_SHAPE:
        shape = [path.removeprefix(col.PARAMS_PREFIX) for path in arms.compared if path in SHAPE_PATHS]
        if shape:
            return NotEstimable(f"the two arms differ in {' and '.join(shape)}, which is the shape")
        return _by_key(a, b, arms)
    return _by_count(a, b, arms, COUNT_OF[matching])


def lost_pairs(arms: Arms) -> dict[str, int]:
    """Pairs of the same shape that cannot be compared, because not both trials were complete, by how they ended.

    Keys: `a_diverged`, `b_diverged` (the other was complete), and `unfinished` for all others.
    """
    a, b = (kind.groupby("key")[col.STATUS].agg(_best) for kind in _keyed(arms.key, arms.a, arms.b))
    both = pd.concat([a, b], axis=1, keys=["a", "b"], join="inner")
    a_complete, b_complete = both["a"] == col.COMPLETE, both["b"] == col.COMPLETE
    lost = {
        "a_diverged": int(((both["a"] == col.DIVERGED) & b_complete).sum()),
        "b_diverged": int(((both["b"] == col.DIVERGED) & a_complete).sum()),
    }
    return {**lost, "unfinished": int((~(a_complete & b_complete)).sum()) - sum(lost.values())}


def _best(statuses: pd.Series) -> str:
    order = (col.COMPLETE, col.DIVERGED, col.PRUNED, col.RUNNING, col.FAILED)
    return min(statuses, key=order.index)


def _by_key(a: pd.DataFrame, b: pd.DataFrame, arms: Arms) -> pd.DataFrame | NotEstimable:
    """A trial that was run twice counts once, with its mean loss."""
    a, b = _keyed(arms.key, a, b)
    means = [kind.groupby("key", sort=False)[col.VAL_LOSS].mean() for kind in (a, b)]
    losses = pd.concat(means, axis=1, keys=[LOSS_A, LOSS_B], join="inner")
    if losses.empty:
        return _no_pairs(arms)
    shared = a.drop_duplicates("key").set_index("key").loc[losses.index]
    pairs = shared[[*arms.key, col.SIZE]].assign(params=shared[col.PARAMS_EXACT].astype(float), **losses)
    pairs[DIFFERENCE] = pairs[LOSS_B] - pairs[LOSS_A]
    return pairs.assign(interpolated=False, one_way=False)[[*arms.key, *RESULTS]].reset_index(drop=True)


def _by_count(a: pd.DataFrame, b: pd.DataFrame, arms: Arms, count: str) -> pd.DataFrame | NotEstimable:
    shared = [path for path in arms.key if path not in arms.sized]
    lines_a, lines_b = (dict(list(kind.groupby("key", sort=False))) for kind in _keyed(shared, a, b))
    both = [key for key in lines_a if key in lines_b]
    if not both:
        return _no_pairs(arms)
    records = []
    for key in both:
        line_a, line_b = lines_a[key], lines_b[key]
        fixed = line_a.iloc[0][shared].to_dict()
        records += [{**fixed, **pair} for pair in _pairs_of_lines(line_a, line_b, count)]
    if not records:
        spans = " and ".join(f"{kind[count].min():,} to {kind[count].max():,}" for kind in (a, b))
        sizes = len({*a[col.SIZE], *b[col.SIZE]})
        return NotEstimable(
            f"no line of sizes of one kind encloses a size of the other ({spans} parameters, {sizes} "
            f"size{'s' if sizes > 1 else ''}), and nothing is extrapolated"
        )
    return pd.DataFrame(records)[[*shared, *RESULTS]]


def _pairs_of_lines(line_a: pd.DataFrame, line_b: pd.DataFrame, count: str) -> list[dict[str, object]]:
    """A pair for every count that both lines have; or one of the lines as a whole; or none."""
    a, b = (line.groupby(line[count].astype(float))[col.VAL_LOSS].mean() for line in (line_a, line_b))
    size_of = line_a.assign(count=line_a[count].astype(float)).drop_duplicates("count").set_index("count")[col.SIZE]
    same = a.index.intersection(b.index)
    if len(same):
        return [
            {
                **{col.SIZE: size_of[N], "params": N, LOSS_A: a[N], LOSS_B: b[N], DIFFERENCE: b[N] - a[N]},
                **{"interpolated": False, "one_way": False},
            }
            for N in same
        ]
    ways = [gaps for gaps in (b[_within(b, a)] - _at(a, b), _at(b, a) - a[_within(a, b)]) if len(gaps)]
    if not ways:
        return []
    sizes = pd.concat([line_a, line_b])[col.SIZE].unique()
    return [
        {
            col.SIZE: ", ".join(sizes),
            "params": max(gaps.index.max() for gaps in ways),
            LOSS_A: np.nan,
            LOSS_B: np.nan,
            DIFFERENCE: float(np.mean([gaps.mean() for gaps in ways])),
            "interpolated": True,
            "one_way": len(ways) == 1,
        }
    ]


def _within(line: pd.Series, other: pd.Series) -> np.ndarray:
    """Which counts of `line` lie inside the range of `other`."""
    return (line.index >= other.index.min()) & (line.index <= other.index.max())


def _at(line: pd.Series, other: pd.Series) -> pd.Series:
    """The loss of `line`, linear in log N between its neighbouring sizes, at the counts of `other` inside its range."""
    counts = other.index[_within(other, line)]
    return pd.Series(np.interp(np.log(counts), np.log(line.index), line), counts, dtype=float)


def seed_noise(arms: Sequence[pd.DataFrame]) -> tuple[float, int]:
    """Standard deviation of the loss between training seeds, and the number of groups of trials that it rests on.

    A group is the complete trials that differ in train.seed alone; (NaN, 0) where there is none. Groups are pooled.
    """
    complete = _complete(pd.concat(arms))
    seed = SEED_PATHS[0]
    paths = [p for p in param_columns(complete) if p != seed and complete[p].nunique(dropna=False) > 1]
    (complete,) = _keyed(paths, complete)
    groups = complete.groupby(["key", seed])[col.VAL_LOSS].mean().groupby("key")
    seeds = groups.size()
    degrees = (seeds - 1)[seeds > 1]
    if degrees.empty:
        return np.nan, 0
    return float(np.sqrt((groups.var()[degrees.index] * degrees).sum() / degrees.sum())), len(degrees)


def _complete(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[(trials[col.STATUS] == col.COMPLETE) & np.isfinite(trials[col.VAL_LOSS])]


def _keyed(paths: Sequence[str], *frames: pd.DataFrame) -> list[pd.DataFrame]:
    """With a column `key`: equal numbers for equal values of these columns; missing values equal each other."""
    together = pd.concat(frames, ignore_index=True)
    keys = np.zeros(len(together), dtype=int)
    if paths:
        keys = together.groupby(list(paths), dropna=False, sort=False).ngroup().to_numpy()
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    return [frame.assign(key=part) for frame, part in zip(frames, np.split(keys, ends), strict=True)]


def _no_pairs(arms: Arms) -> NotEstimable:
    return NotEstimable(
        f"no pairs: no two complete trials differ in {arms.fields} alone; "
        "run a grid or experiments that change nothing else, as configs/tying.yaml does"
    )
