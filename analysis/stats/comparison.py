"""Is one kind of model better than another? Differences of paired trials, matched three ways, each with a verdict.

    from analysis.stats.comparison import compare, compare_experiments
    tying = compare(trials, "model.tie_embeddings", False, True)
    tying.table(), tying.sentence
    compare_experiments(trials, "baseline", "post-norm")

Trials of a random search differ in everything at once: nothing there is a pair, near neighbours are not either, and the
comparison is refused. The best trials of each kind, which are no paired comparison, are in
`analysis.tables.trials.parameter_table`.

Losses are in nats per token; a difference is that of b minus a, so b is better where it is negative.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.stats.matching import (
    DIFFERENCE,
    MATCHINGS,
    SAME_SHAPE,
    Arms,
    lost_pairs,
    match,
    seed_noise,
    size_columns,
)
from analysis.tables.searched import SEED_PATHS, param_columns
from lmcore import columns as col

BETTER, WORSE, TIE, REFUSED = "better", "worse", "tie", "refused"  # b, seen from a
SEEDS, WINDOWS, UNKNOWN = "seeds", "windows", "unknown"
ALL_SIZES = "all"
COLUMNS = ("matching", col.SIZE, DIFFERENCE, "low", "high", "n", "noise", "noise_from", "verdict", "refused")


@dataclass(frozen=True)
class Matched:
    """What the pairs of one matching, of all sizes or of one, say."""

    matching: str
    size: str
    """ALL_SIZES, or a size's name."""
    difference: Fitted
    """Mean over pairs, with the paired t interval; n counts pairs. Pairs of all sizes and settings count alike: where
    the difference depends on them, the mean is that of those that were run, and the interval is the wider for it."""
    noise: float
    """nats per token: a difference up to this is a tie; NaN where it is unknown."""
    noise_from: str
    """`seeds`: standard deviation of the loss between training seeds; `windows`: standard error of a validation loss,
    where no two trials differ in their seed alone; `unknown`."""
    verdict: str
    pairs: pd.DataFrame
    """As `analysis.stats.matching.match` returns them; empty where the comparison was refused."""


@dataclass(frozen=True)
class Comparison:
    """b against a, all matchings."""

    fields: str
    """What is compared: `model.tie_embeddings`."""
    a: str
    b: str
    matchings: Mapping[str, Matched]
    """By `analysis.stats.matching.MATCHINGS`."""
    by_size: Mapping[str, Matched]
    """The same shape, of each size that has pairs."""
    notes: tuple[str, ...]
    """What a reader has to know beside the verdicts, one sentence each."""

    def table(self) -> pd.DataFrame:
        """One row per matching, then one per size of the same shape. Columns COLUMNS: all numbers in nats per token but
        n, pairs; `refused`, the reason, is missing where there is a difference."""
        rows = [_row(one) for one in (*self.matchings.values(), *self.by_size.values())]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"refused": "str"})

    def fitted(self, prefix: str) -> dict[str, Fitted]:
        """The differences for report.json, as `<prefix>.same_shape` and so on."""
        return {f"{prefix}.{name.replace(' ', '_')}": one.difference for name, one in self.matchings.items()}

    @property
    def verdict_changes(self) -> bool:
        """Whether two matchings that could be judged disagree."""
        return len({one.verdict for one in self.matchings.values()} - {REFUSED}) > 1

    @property
    def sentence(self) -> str:
        """All verdicts with intervals and pairs; says so when the verdict changes with the matching."""
        said = "; ".join(_clause(one) for one in self.matchings.values())
        refusals = {one.difference.reason for one in self.matchings.values() if one.verdict == REFUSED}
        if all(one.verdict == REFUSED for one in self.matchings.values()) and len(refusals) == 1:
            said = f"cannot be compared: {refusals.pop()}"
        end = ": the verdict changes with the matching" if self.verdict_changes else ""
        return f"{self.fields}, {self.b} against {self.a}: {said}{end}."


def compare(trials: pd.DataFrame, path: str, a: Any, b: Any) -> Comparison:
    """Trials whose field `path` is b against those where it is a, paired on all other fields, seeds and data included.

    Without pairs every matching is refused. ValueError for a path that is no field of the trials.
    """
    path = path.removeprefix(col.PARAMS_PREFIX)
    column = f"{col.PARAMS_PREFIX}{path}"
    if column not in trials:
        raise ValueError(f"path must be a field of the trials (got {path!r}); one is named optim.lr")
    known = _known(trials)
    arms = Arms(*(known[_equals(known[column], value)] for value in (a, b)), (column,), size_columns(known))
    return _compare(arms, str(a), str(b))


def compare_experiments(trials: pd.DataFrame, a: str, b: str) -> Comparison:
    """Experiment b against experiment a, at each size that both were run at.

    Trials that repeat one of them under another seed take part, whatever they are called. ValueError for a name that no
    trial carries.
    """
    known = _known(trials)
    names = known[col.EXPERIMENT].dropna().unique()
    for name in (a, b):
        if name not in names:
            raise ValueError(
                f"an experiment must be one of {', '.join(names) or 'none'} (got {name!r}); choose another"
            )
    paths = [path for path in param_columns(known) if path not in SEED_PATHS]
    varying = [path for path in paths if known[path].nunique(dropna=False) > 1]
    cells = known[varying].astype(object).where(known[varying].notna(), None)
    fields = dict(zip(known.index, cells.itertuples(index=False, name=None), strict=True))
    run_of = {
        name: {known.at[i, col.SIZE]: fields[i] for i in known.index[known[col.EXPERIMENT] == name]} for name in (a, b)
    }
    sizes = [size for size in run_of[a] if size in run_of[b]]
    changed = {
        path
        for size in sizes
        for path, one, other in zip(varying, run_of[a][size], run_of[b][size], strict=True)
        if one != other
    }
    compared = tuple(path for path in varying if path in changed)
    if not compared:
        reason = f"{a} and {b} differ in seeds at most" if sizes else f"{a} and {b} have no size in common"
        return Comparison("experiments", a, b, _all_refused(NotEstimable(reason)), {}, ())
    members = {name: {run_of[name][size] for size in sizes} for name in (a, b)}
    a_trials, b_trials = (known[[fields[i] in members[name] for i in known.index]] for name in (a, b))
    return _compare(Arms(a_trials, b_trials, compared, size_columns(known)), a, b)


def _compare(arms: Arms, a: str, b: str) -> Comparison:
    found = {matching: match(arms, matching) for matching in MATCHINGS}
    matchings = {matching: _judge(matching, ALL_SIZES, pairs, arms) for matching, pairs in found.items()}
    same_shape = found[SAME_SHAPE]
    by_size = {}
    if isinstance(same_shape, pd.DataFrame):
        by_size = {
            size: _judge(SAME_SHAPE, size, pairs.reset_index(drop=True), arms)
            for size, pairs in same_shape.groupby(col.SIZE, sort=False)
        }
    return Comparison(arms.fields, a, b, matchings, by_size, _notes(arms, matchings, by_size, a, b))


def _judge(matching: str, size: str, pairs: pd.DataFrame | NotEstimable, arms: Arms) -> Matched:
    if isinstance(pairs, NotEstimable):
        return Matched(matching, size, pairs, np.nan, UNKNOWN, REFUSED, pd.DataFrame())
    noise, noise_from = _noise(arms, size)
    difference = paired_t(pairs[DIFFERENCE].to_numpy())
    if isinstance(difference, NotEstimable):
        verdict = REFUSED
    elif difference.low <= 0 <= difference.high or abs(difference.value) <= noise:  # False for an unknown noise
        verdict = TIE
    else:
        verdict = BETTER if difference.value < 0 else WORSE
    return Matched(matching, size, difference, noise, noise_from, verdict, pairs)


def paired_t(differences: np.ndarray) -> Fitted:
    """Mean and 95 % t interval of differences that are independent and roughly normal."""
    n = len(differences)
    if n < 2:
        return NotEstimable(f"{n} pair has no interval; run it under more seeds")
    mean = float(np.mean(differences))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def _noise(arms: Arms, size: str) -> tuple[float, str]:
    both = [kind if size == ALL_SIZES else kind[kind[col.SIZE] == size] for kind in (arms.a, arms.b)]
    spread, groups = seed_noise(both)
    if groups:
        return spread, SEEDS
    complete = pd.concat(both)
    errors = complete.loc[complete[col.STATUS] == col.COMPLETE, col.VAL_LOSS_SE].dropna()
    return (float(np.sqrt(np.mean(errors**2))), WINDOWS) if len(errors) else (np.nan, UNKNOWN)


def _notes(
    arms: Arms, matchings: Mapping[str, Matched], by_size: Mapping[str, Matched], a: str, b: str
) -> tuple[str, ...]:
    paired = [one for one in matchings.values() if len(one.pairs)]
    notes = []
    if paired:
        noise, noise_from = paired[0].noise, paired[0].noise_from
        notes.append(
            {
                SEEDS: f"Another training seed changes the loss by {noise:.3f} (standard deviation).",
                WINDOWS: "No two trials differ in train.seed alone: the noise is that of the validation windows "
                f"({noise:.3f}), and the spread between seeds is unknown.",
                UNKNOWN: "Neither the spread between seeds nor the error of a validation loss is known.",
            }[noise_from]
        )
        seeds = [path for path in SEED_PATHS if path in paired[0].pairs]
        if not seeds or len(paired[0].pairs[seeds].drop_duplicates()) == 1:
            notes.append("All pairs share their seeds: the intervals do not hold what another seed would change.")
    if {BETTER, WORSE} <= {one.verdict for one in by_size.values()}:
        notes.append("At the same shape the verdict changes with the size: the mean over sizes hides it.")
    if any(one.pairs["one_way"].any() for one in paired):
        notes.append("Some losses were interpolated one way only, which overestimates the interpolated kind's.")
    lost = lost_pairs(arms)
    if lost["a_diverged"] or lost["b_diverged"]:
        notes.append(f"Not counted: pairs of which {a} diverged ({lost['a_diverged']}), or {b} ({lost['b_diverged']}).")
    if lost["unfinished"]:
        notes.append(f"Not counted: pairs that did not both run to their end ({lost['unfinished']}).")
    return tuple(notes)


def _clause(one: Matched) -> str:
    if isinstance(one.difference, NotEstimable):
        return f"refused at the {one.matching} ({one.difference.reason})"
    d = one.difference
    word = "a tie" if one.verdict == TIE else one.verdict
    return f"{word} at the {one.matching} ({d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {d.n} pairs)"


def _row(one: Matched) -> tuple[Any, ...]:
    d, about = one.difference, (one.noise, one.noise_from, one.verdict)
    if isinstance(d, NotEstimable):
        return (one.matching, one.size, np.nan, np.nan, np.nan, len(one.pairs), *about, d.reason)
    return (one.matching, one.size, d.value, d.low, d.high, d.n, *about, None)


def _all_refused(refused: NotEstimable) -> dict[str, Matched]:
    return {m: Matched(m, ALL_SIZES, refused, np.nan, UNKNOWN, REFUSED, pd.DataFrame()) for m in MATCHINGS}


def _known(trials: pd.DataFrame) -> pd.DataFrame:
    """Without trials of which nothing but their number is known yet."""
    return trials[trials[param_columns(trials)].notna().any(axis=1)].reset_index(drop=True)


def _equals(column: pd.Series, value: Any) -> pd.Series:
    return column.isna() if value is None else column == value
