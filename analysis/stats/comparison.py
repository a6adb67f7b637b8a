"""Is b better than a? Mean loss differences of paired trials, matched three ways, each with a verdict.

    from analysis.stats.comparison import compare, compare_experiments
    tying = compare(trials, "model.tie_embeddings", False, True)
    tying.table(), tying.sentence
    compare_experiments(trials, "baseline", "post-norm")

Trials of a random search differ in everything at once. They form no pairs, not even approximately, and the difference
is not estimable. `analysis.tables.trials.parameter_table` shows the best trial of each arm, which is no paired
comparison.

Losses are in nats per token. A difference is b minus a, so b is better where it is negative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.quoted_loss import with_quoted_loss
from analysis.stats import matching as m
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable, as_cells
from analysis.stats.matching import DIFFERENCE, MATCHINGS, SAME_SHAPE, Arms
from analysis.tables.formatting import MISSING
from analysis.tables.searched import SEED_PATHS
from analysis.tables.trials import param_columns
from lmcore import columns as col
from lmcore.notebook import html_card, html_lines, html_table

BETTER, WORSE, TIE, SAME, REFUSED = "better", "worse", "tie", "same", "refused"
"""Verdicts on b; `same`: every pair has one loss bit for bit, so what is compared changes nothing, or one is a copy of
the other; `refused`: the difference is not estimable."""
SEEDS, WINDOWS, LOSSES, UNKNOWN = "seeds", "windows", "losses", "unknown"
ALL_SIZES = "all"
COLUMNS = ("matching", col.SIZE, DIFFERENCE, "low", "high", "n", "noise", "noise_from", "verdict", "refused")


@dataclass(frozen=True)
class Matched:
    """The result of one matching, over all sizes or for one."""

    matching: str
    size: str  # ALL_SIZES, or a size's name
    difference: Fitted
    """Mean over pairs with the paired t interval; n counts pairs. All pairs have equal weight. If the difference
    depends on size or settings, this is the mean over those that were run, and the interval is wider for it."""
    noise: float  # nats per token; a difference of at most this is a tie. NaN if unknown
    noise_from: str
    """`seeds`: standard deviation of the loss between training seeds; if no two trials differ in their seeds alone,
    `windows`: standard error of a pair's difference over the windows that both share; or `losses`: standard error of a
    single validation loss, if the losses of single windows were not kept; `unknown`."""
    verdict: str
    pairs: pd.DataFrame = field(repr=False)  # as returned by `analysis.stats.matching.match`; empty if there are none


@dataclass(frozen=True, repr=False)
class Comparison:
    """b against a under all matchings; made by `compare` and `compare_experiments`.

    >>> comparison = compare(trials, "model.tie_embeddings", False, True)
    >>> comparison.matchings["same shape"].difference, comparison.matchings["same shape"].verdict
    """

    fields: str  # what is compared: `model.tie_embeddings`
    a: str
    b: str
    matchings: Mapping[str, Matched]  # by the names in `analysis.stats.matching.MATCHINGS`
    by_size: Mapping[str, Matched]  # same shape, for each size that has pairs
    notes: tuple[str, ...]  # sentences that a reader needs besides the verdicts

    def __repr__(self) -> str:
        return f"<Comparison of {self.sentence}>"

    def _repr_html_(self) -> str:
        rows = [
            (one.matching, one.size, *_cells_of(one.difference, len(one.pairs)), one.verdict)
            for one in (*self.matchings.values(), *self.by_size.values())
        ]
        table = html_table(["matching", "size", "difference", "95 % interval", "pairs", "verdict"], rows, [2, 3, 4])
        title = f"{self.fields}: {self.b} against {self.a}"
        changes = ["The verdict changes with the matching."] if self.verdict_changes else []
        refused = {one.difference.reason for one in self.matchings.values() if isinstance(one.difference, NotEstimable)}
        why = [f"Not estimable: {reason}." for reason in sorted(refused)]
        unit = f"Difference: {self.b} minus {self.a}, in nats per token; a verdict is on {self.b}."
        return html_card(title, table, html_lines([*changes, unit, *why, *self.notes]))

    def table(self) -> pd.DataFrame:
        """A row per matching, then a row per size for the same shape. Columns: COLUMNS, in nats per token except n
        (pairs); `refused` is why there is no difference, else missing."""
        rows = []
        for one in (*self.matchings.values(), *self.by_size.values()):
            *numbers, reason = as_cells(one.difference, n=len(one.pairs))
            rows.append((one.matching, one.size, *numbers, one.noise, one.noise_from, one.verdict, reason))
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"refused": "str"})

    def fitted(self, prefix: str) -> dict[str, Fitted]:
        """The differences for report.json, as `<prefix>.same_shape` and so on."""
        return {f"{prefix}.{name.replace(' ', '_')}": one.difference for name, one in self.matchings.items()}

    @property
    def verdict_changes(self) -> bool:
        """Whether matchings disagree, among those with an estimate."""
        return len({one.verdict for one in self.matchings.values()} - {REFUSED}) > 1

    @property
    def is_estimable(self) -> bool:
        """Whether any matching has an estimate."""
        return any(isinstance(one.difference, Estimate) for one in self.matchings.values())

    @property
    def summary(self) -> str:
        """`sentence` without the matchings that are not estimable."""
        known = (one for one in self.matchings.values() if isinstance(one.difference, Estimate))
        end = ": the verdict changes with the matching" if self.verdict_changes else ""
        return f"{self.fields}, {self.b} against {self.a}: {'; '.join(_clause(one) for one in known)}{end}."

    @property
    def sentence(self) -> str:
        """All verdicts with intervals and numbers of pairs; says so if the verdict changes with the matching."""
        first, *others = (one.difference for one in self.matchings.values())
        text = "; ".join(_clause(one) for one in self.matchings.values())
        if isinstance(first, NotEstimable) and all(one == first for one in others):
            text = f"cannot be compared: {first.reason}"
        end = ": the verdict changes with the matching" if self.verdict_changes else ""
        return f"{self.fields}, {self.b} against {self.a}: {text}{end}."


def compare(trials: pd.DataFrame, path: str, a: Any, b: Any) -> Comparison:
    """The loss difference between trials whose field `path` is b and those where it is a, all other fields being equal.

    >>> compare(analysis.load("runs/tying").trials, "model.tie_embeddings", False, True).sentence

    `trials` are those of `analysis.load`. Estimated is the mean difference over pairs (see `analysis.stats.matching`)
    with its 95 % paired t interval. It is not estimable with fewer than two pairs. Raises ValueError if `path` is not a
    field of the trials.
    """
    path = path.removeprefix(col.PARAMS_PREFIX)
    column = f"{col.PARAMS_PREFIX}{path}"
    if column not in trials:
        raise ValueError(f"path must be a field of the trials (got {path!r}); one is named optim.lr")
    known = _with_params(trials)
    a_trials, b_trials = (known[known[column].isna() if v is None else known[column] == v] for v in (a, b))
    return _compare(Arms(a_trials, b_trials, (column,), m.size_columns(known)), str(a), str(b))


def compare_experiments(trials: pd.DataFrame, a: str, b: str) -> Comparison:
    """As `compare`, between experiments a and b, at each size that both were run at.

    >>> compare_experiments(analysis.load("runs/ablation").trials, "baseline", "post-norm").sentence

    Trials that repeat one of the two under another seed are included, whatever their experiment is called. Raises
    ValueError if no trial belongs to an experiment of that name.
    """
    known = _with_params(trials)
    names = known[col.EXPERIMENT].dropna().unique()
    for name in (a, b):
        if name not in names:
            rule = f"an experiment must be one of {', '.join(names) or 'none'}"
            raise ValueError(f"{rule} (got {name!r}); choose another")
    varying = [path for path in m.varying(known) if path not in (*SEED_PATHS, col.PHASE)]
    (known,) = m.keyed(varying, known)
    newest = known.drop_duplicates([col.EXPERIMENT, col.SIZE], keep="last").set_index(col.SIZE)
    runs_a, runs_b = (newest[newest[col.EXPERIMENT] == name] for name in (a, b))
    sizes = [size for size in runs_a.index if size in runs_b.index]
    runs_a, runs_b = runs_a.loc[sizes], runs_b.loc[sizes]
    compared = tuple(path for path in varying if not runs_a[path].equals(runs_b[path]))
    if not compared:
        reason = NotEstimable(f"{a} and {b} {'differ in seeds at most' if sizes else 'have no size in common'}")
        none = {name: _judge(name, ALL_SIZES, reason, None) for name in MATCHINGS}
        return Comparison("experiments", a, b, none, {}, ())
    a_trials, b_trials = (known[known["key"].isin(runs["key"])] for runs in (runs_a, runs_b))
    return _compare(Arms(a_trials, b_trials, compared, m.size_columns(known)), a, b)


def _compare(arms: Arms, a: str, b: str) -> Comparison:
    matchings = {matching: _judge(matching, ALL_SIZES, m.match(arms, matching), arms) for matching in MATCHINGS}
    pairs = matchings[SAME_SHAPE].pairs
    groups = pairs.groupby(col.SIZE, sort=False) if len(pairs) else ()
    by_size = {size: _judge(SAME_SHAPE, size, group.reset_index(drop=True), arms) for size, group in groups}
    return Comparison(arms.fields, a, b, matchings, by_size, _notes(arms, matchings, by_size, a, b))


def _judge(matching: str, size: str, pairs: pd.DataFrame | NotEstimable, arms: Arms | None) -> Matched:
    if isinstance(pairs, NotEstimable) or arms is None:
        return Matched(matching, size, pairs, np.nan, UNKNOWN, REFUSED, pd.DataFrame())
    noise, noise_from = _noise(arms, size)
    difference = paired_t(pairs[DIFFERENCE].to_numpy())
    if (pairs[DIFFERENCE] == 0).all():
        difference, verdict = Estimate(0.0, 0.0, 0.0, len(pairs)), SAME
    elif isinstance(difference, NotEstimable):
        verdict = REFUSED
    elif difference.low <= 0 <= difference.high or abs(difference.value) <= noise:  # False if the noise is NaN
        verdict = TIE
    else:
        verdict = BETTER if difference.value < 0 else WORSE
    return Matched(matching, size, difference, noise, noise_from, verdict, pairs)


def paired_t(differences: Array) -> Fitted:
    """The mean of independent, roughly normal differences [n], with its 95 % Student t interval; needs n >= 2."""
    n = len(differences)
    if n < 2:
        return NotEstimable(f"{n} pair has no interval; run it under more seeds")
    mean = float(np.mean(differences))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def _noise(arms: Arms, size: str) -> tuple[float, str]:
    """What a difference must exceed (nats per token), and where the number comes from."""
    arm_trials = [arm if size == ALL_SIZES else arm[arm[col.SIZE] == size] for arm in (arms.a, arms.b)]
    both = pd.concat(arm_trials)
    spread, groups = m.seed_noise(both)
    if groups:
        return spread, SEEDS
    if len(paired := m.paired_errors(arms, *arm_trials)):
        return float(np.sqrt(np.mean(paired**2))), WINDOWS
    errors = both.loc[both[col.STATUS] == col.COMPLETE, col.LOSS_SE].dropna()
    return (float(np.sqrt(np.mean(errors**2))), LOSSES) if len(errors) else (np.nan, UNKNOWN)


def _notes(
    arms: Arms, matchings: Mapping[str, Matched], by_size: Mapping[str, Matched], a: str, b: str
) -> tuple[str, ...]:
    paired = [one for one in matchings.values() if len(one.pairs)]
    notes = []
    if paired:
        noise = paired[0].noise
        sources = {
            SEEDS: f"Another training seed changes the loss by {noise:.3f} (standard deviation).",
            WINDOWS: "No two trials differ in their seeds alone: the noise is that of the validation windows, paired "
            f"({noise:.3f}), and the spread between seeds is unknown.",
            LOSSES: "No two trials differ in their seeds alone: the noise is the error of a single validation loss "
            f"({noise:.3f}), because the losses of single windows were not kept, and the spread between seeds is "
            "unknown.",
            UNKNOWN: "Neither the spread between seeds nor the error of a validation loss is known.",
        }
        notes.append(sources[paired[0].noise_from])
        seeds = [path for path in SEED_PATHS if path in paired[0].pairs]
        if not seeds or len(paired[0].pairs[seeds].drop_duplicates()) == 1:
            notes.append("All pairs share their seeds: the intervals do not include what another seed would change.")
    if {BETTER, WORSE} <= {one.verdict for one in by_size.values()}:
        notes.append("At the same shape the verdict changes with the size: the mean over sizes hides it.")
    if any(one.pairs["one_way"].any() for one in paired):
        notes.append("Some losses could be interpolated for one arm only, which overestimates the loss of that arm.")
    lost = m.lost_pairs(arms)
    if lost["a_diverged"] or lost["b_diverged"]:
        arms_lost = f"{a} diverged ({lost['a_diverged']}), or {b} ({lost['b_diverged']})"
        notes.append(f"Not counted: pairs in which {arms_lost}.")
    if lost["unfinished"]:
        notes.append(f"Not counted: pairs that did not both run to their end ({lost['unfinished']}).")
    return tuple(notes)


def _cells_of(difference: Fitted, pairs: int) -> tuple[str, str, str]:
    """Value, interval and number of pairs."""
    if isinstance(difference, NotEstimable):
        return MISSING, MISSING, str(pairs)
    return f"{difference.value:+.3f}", f"{difference.low:+.3f} to {difference.high:+.3f}", str(difference.n)


def _clause(one: Matched) -> str:
    d = one.difference
    if isinstance(d, NotEstimable):
        return f"not estimable at the {one.matching} ({d.reason})"
    if one.verdict == SAME:
        return f"the same bit for bit at the {one.matching} ({d.n} pair{'' if d.n == 1 else 's'})"
    word = "a tie" if one.verdict == TIE else one.verdict
    return f"{word} at the {one.matching} ({d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {d.n} pairs)"


def _with_params(trials: pd.DataFrame) -> pd.DataFrame:
    """Only trials whose parameters are known: those of a trial that has just been queued are not."""
    trials = with_quoted_loss(trials)
    return trials[trials[param_columns(trials)].notna().any(axis=1)].reset_index(drop=True)
