"""How much each searched hyperparameter mattered, per size, with an interval: Optuna's evaluators on resampled trials.

| evaluator | question                                                                 | trials used                |
|-----------|--------------------------------------------------------------------------|----------------------------|
| ped-anova | which hyperparameters set the best quarter of the trials apart?          | complete, pruned, diverged |
| fanova    | which share of the variance of the loss does each one explain by itself? | complete                   |

PED-ANOVA (Watanabe et al. 2023) is the default because it only uses the order of trials: a diverged trial ranks last,
a pruned one behind all complete ones. Optuna would drop both (+inf and PRUNED), and with them the very region that a
hyperparameter decides about. The cost is that pruning was decided by an early loss.

Both evaluators assign some importance to every parameter, even if losses are pure noise, and shares always sum to 1.
Therefore the average importance under shuffled losses is subtracted before shares are computed, and a size in which no
parameter exceeds the shuffles is not estimable.
"""

import warnings
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.runs.quoted_loss import with_quoted_loss
from analysis.stats.bootstrap import Array
from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.searched import searched_dimensions
from lmcore import columns as col

COLUMNS = (col.SIZE, "parameter", "importance", "low", "high", "n", "complete", "separable", "refused")

TOP = 0.25  # the best quarter; Optuna's 0.1 leaves too few of the few trials that a sweep of language models has
SIGNIFICANCE = 0.05  # of the test for `separable`, over all parameters of a size together
MAX_TRIALS = 300  # per size; with 5,000 the resamples take minutes and give the same answer
MIN_RESAMPLES = round(1 / SIGNIFICANCE) - 1
MAX_CHOICES = 12  # a numeric parameter with more distinct values is treated as a range
FANOVA_TREES = 16  # Optuna uses 64: a resample takes a second, and averaging over resamples smooths as well


class Evaluator(NamedTuple):
    """One of Optuna's evaluators and what it needs."""

    build: Callable[[float], BaseImportanceEvaluator]  # takes the fraction of trials that count as the best
    statuses: tuple[str, ...]  # statuses of the trials that it can use
    min_trials: int
    min_complete: int


EVALUATORS = {
    # Optuna wants 5 trials among the best; half of the 20 may be pruned or diverged.
    "ped-anova": Evaluator(
        lambda top: PedAnovaImportanceEvaluator(target_quantile=top), (col.COMPLETE, col.PRUNED, col.DIVERGED), 20, 10
    ),
    "fanova": Evaluator(lambda top: FanovaImportanceEvaluator(n_trees=FANOVA_TREES, seed=0), (col.COMPLETE,), 40, 40),
}


def importance(trials: pd.DataFrame, evaluator: str = "ped-anova", resamples: int = 100, seed: int = 0) -> pd.DataFrame:
    """The share of each searched hyperparameter in the importance of all, per size, the most important first.

    >>> table = importance(analysis.load("runs/quick").trials)
    >>> table[["parameter", "importance", "low", "high"]]

    `trials` are those of `analysis.load`. Trials of experiments are left out, because their settings were listed rather
    than searched. If a size has more than 300 trials, 300 drawn at random are used.

    Columns of the result: size, parameter (dotted path), importance, low, high (shares of 1), n (trials used), complete
    (complete ones among them), separable (exceeds what `resamples` shuffles of the losses give, at the 5 % level over
    all parameters together), refused (why a size is not estimable, else missing).

    The interval is share +- 1.96 bootstrap standard errors, cut to [0, 1]; trials are resampled within each status. Low
    is 0 for a parameter that is not separable. A size is not estimable, and has a single row, if it has too few trials
    (EVALUATORS), fewer than two searched hyperparameters, or no separable one. Raises ValueError if the evaluator is
    unknown, or there are fewer than 19 resamples, which cannot reach the 5 % level.
    """
    if evaluator not in EVALUATORS:
        raise ValueError(f"evaluator must be one of {', '.join(EVALUATORS)} (got {evaluator!r}); choose one of them")
    if resamples < MIN_RESAMPLES:
        raise ValueError(f"resamples must be >= {MIN_RESAMPLES} (got {resamples}); the default is 100")
    rows: list[tuple[object, ...]] = []
    trials = with_quoted_loss(trials)
    for index, (size, group) in enumerate(trials.groupby(col.SIZE, sort=False)):
        rng = np.random.default_rng([seed, index])
        searched = group[group[col.EXPERIMENT].isna()]
        if col.SAME_AS in searched:  # a copy of a trial is no second observation
            searched = searched[searched[col.SAME_AS].isna()]
        rows += [(size, *row) for row in _rows_of_size(searched, EVALUATORS[evaluator], resamples, rng)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"parameter": "str", "refused": "str"})


def estimates(table: pd.DataFrame) -> dict[str, Fitted]:
    """The table of `importance` as `importance.<size>.<path>` for report.json."""
    fitted: dict[str, Fitted] = {}
    for row in table.itertuples():
        if pd.notna(row.refused):
            fitted[f"importance.{row.size}"] = NotEstimable(row.refused)
        else:
            fitted[f"importance.{row.size}.{row.parameter}"] = Estimate(row.importance, row.low, row.high, row.n)
    return fitted


def _rows_of_size(
    group: pd.DataFrame, evaluator: Evaluator, resamples: int, rng: np.random.Generator
) -> list[tuple[object, ...]]:
    """COLUMNS without the size."""
    finite = np.isfinite(group[col.LOSS]) | (group[col.STATUS] != col.COMPLETE)
    usable = group[group[col.STATUS].isin(evaluator.statuses) & finite]
    if len(usable) > MAX_TRIALS:
        usable = usable.iloc[np.sort(rng.choice(len(usable), MAX_TRIALS, replace=False))]
    usable = usable.reset_index(drop=True)
    n, complete = len(usable), int((usable[col.STATUS] == col.COMPLETE).sum())
    paths = searched_dimensions(usable)

    def not_estimable(reason: str) -> list[tuple[object, ...]]:
        return [(None, np.nan, np.nan, np.nan, n, complete, False, reason)]

    if n < evaluator.min_trials or complete < evaluator.min_complete:
        least = f"at least {evaluator.min_trials} and {evaluator.min_complete}"
        return not_estimable(f"{n} trials, {complete} of them complete, are too few ({least})")
    if len(paths) < 2:
        return not_estimable(f"{len(paths) or 'no'} hyperparameter was searched, and a share needs two")

    sample = _Sample(usable[paths], _ranked_losses(usable), evaluator.build(min(TOP, complete / n)))
    study = sample.study(np.arange(n))
    observed = sample.evaluate(study, np.arange(n))
    shuffled = np.array([sample.evaluate(study, rng.permutation(n)) for _ in range(resamples)])
    null, spread = shuffled.mean(axis=0), np.maximum(shuffled.std(axis=0), 1e-12)
    # Compare with the largest over all parameters in each shuffle, which corrects for testing many parameters.
    largest = ((shuffled - null) / spread).max(axis=1)
    exceeded = (largest[:, None] >= (observed - null) / spread).sum(axis=0)
    separable = (1 + exceeded) / (1 + resamples) <= SIGNIFICANCE
    if not separable.any():
        return not_estimable(f"in {n} trials no hyperparameter stands out from what shuffled losses give")

    share = _shares(observed - null)
    # Percentiles of resampled shares would be biased: shares end at 0 and 1, and resampling pulls them inwards.
    half = 1.96 * _standard_errors(sample, usable[col.STATUS].to_numpy(), resamples, rng)
    low, high = np.where(separable, np.maximum(share - half, 0.0), 0.0), np.minimum(share + half, 1.0)
    names = [path.removeprefix(col.PARAMS_PREFIX) for path in paths]
    return [(names[k], share[k], low[k], high[k], n, complete, bool(separable[k]), None) for k in np.argsort(-share)]


def _standard_errors(
    sample: "_Sample", statuses: npt.NDArray[np.str_], resamples: int, rng: np.random.Generator
) -> Array:
    """Bootstrap standard error of each share [P]; trials are resampled within each status."""
    strata = [np.flatnonzero(statuses == status) for status in np.unique(statuses)]
    raw, null = [], []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        study = sample.study(rows)
        raw.append(sample.evaluate(study, rows))
        # Repeated trials raise the importance of noise, so resamples are corrected by their own shuffles.
        null.append(sample.evaluate(study, rng.permutation(rows)))
    return np.asarray(np.nanstd([_shares(one - np.mean(null, axis=0)) for one in raw], axis=0, ddof=1))


def _shares(gains: Array) -> Array:
    """Each positive gain over the sum of all; NaN if none is positive."""
    gains = np.maximum(gains, 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(gains / gains.sum())


def _ranked_losses(usable: pd.DataFrame) -> Array:
    """Final losses [n]; all pruned trials rank behind them, and all diverged ones behind those."""
    worst = usable.loc[usable[col.STATUS] == col.COMPLETE, col.LOSS].max()
    behind = usable[col.STATUS].map({col.PRUNED: worst + 1, col.DIVERGED: worst + 2})
    return np.asarray(behind.fillna(usable[col.LOSS]), dtype=float)


class _GivenTrials(optuna.Study):
    """A study of these trials. Adding them to a study copies and checks each: most of the time of a bootstrap."""

    def __init__(self, empty: optuna.Study, storage: BaseStorage, trials: list[FrozenTrial]) -> None:
        super().__init__(empty.study_name, storage)
        self._given = trials

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._given if states is None or trial.state in states]


class _Sample:
    """The trials of one size as Optuna trials, from which studies are made; no database is opened."""

    def __init__(self, values: pd.DataFrame, losses: Array, evaluator: BaseImportanceEvaluator) -> None:
        self._paths, self._losses, self._evaluator = list(values), losses, evaluator
        ranges, points = zip(*(_axis(values[path]) for path in values), strict=True)
        distributions = dict(zip(values, ranges, strict=True))
        params = [dict(zip(values, point, strict=True)) for point in zip(*points, strict=True)]
        self._points = [{"params": one, "distributions": distributions} for one in params]
        self._storage = InMemoryStorage()
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study is logged otherwise
        try:
            self._empty = optuna.create_study(storage=self._storage)
        finally:
            optuna.logging.set_verbosity(verbosity)

    def study(self, rows: npt.NDArray[np.intp]) -> optuna.Study:
        """A study of the trials `rows`, numbered in this order, without their losses."""
        nothing: dict[str, Any] = {
            **dict.fromkeys(("datetime_start", "datetime_complete")),
            **{name: {} for name in ("user_attrs", "system_attrs", "intermediate_values")},
        }
        trials = [
            FrozenTrial(number, TrialState.COMPLETE, value=0.0, trial_id=number, **self._points[row], **nothing)
            for number, row in enumerate(rows)
        ]
        return _GivenTrials(self._empty, self._storage, trials)

    def evaluate(self, study: optuna.Study, losses_of: npt.NDArray[np.intp]) -> Array:
        """Unnormalised importance of each parameter [P], when trial i of the study has the loss of losses_of[i]."""
        losses = self._losses[losses_of]
        with warnings.catch_warnings(action="ignore"):  # `target` is minimised
            found = self._evaluator.evaluate(
                study, params=self._paths, target=lambda trial: float(losses[trial.number])
            )
        return np.array([found[path] for path in self._paths], dtype=float)


def _axis(values: pd.Series) -> tuple[BaseDistribution, list[float]]:
    """A distribution that the values were probably drawn from (choices or a range), and each trial's value in it."""
    codes, choices = pd.factorize(values, use_na_sentinel=False)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.notna().all()
    if not numeric or (len(choices) <= MAX_CHOICES and 2 * len(choices) <= len(values)):
        return CategoricalDistribution(tuple(range(len(choices)))), codes.tolist()
    points = np.asarray(values, dtype=float)
    if points.min() > 0 and points.max() >= 10 * points.min() and _unevenness(np.log(points)) < _unevenness(points):
        points = np.log(points)  # a log distribution would not do: fanova's marginals use the plain values
    return FloatDistribution(points.min(), points.max()), points.tolist()


def _unevenness(points: Array) -> float:
    """Kolmogorov's distance from the uniform distribution over the range; 0 is perfectly even."""
    within = np.sort((points - points.min()) / (points.max() - points.min()))
    return float(np.abs(within - np.linspace(0, 1, len(within))).max())
