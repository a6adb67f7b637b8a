"""How much each searched hyperparameter mattered, per size, with an interval: Optuna's evaluators on resampled trials.

| evaluator | asks                                                            | uses trials that are           |
|-----------|-----------------------------------------------------------------|--------------------------------|
| ped-anova | in what do the best quarter of the trials differ from the rest? | complete, pruned, diverged     |
| fanova    | which share of the loss's variance does each one explain alone? | complete: it needs final losses |

PED-ANOVA is the default because it looks at the order of trials alone: a diverged trial (the study holds +inf) is worse
than all others, a pruned one worse than all complete ones. To drop them, as Optuna does with +inf and PRUNED, would
hide the very region that a hyperparameter decides about. The price: who is pruned was decided by an early loss.

Both evaluators give every parameter something, even of pure noise, and their shares always sum to 1. So what shuffled
losses give on average is subtracted before shares are taken, and a size in which nothing stands out from the shuffles
is refused.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, create_trial

from analysis.stats.estimate import Estimate, Fitted, NotEstimable
from analysis.tables.searched import searched_dimensions
from lmcore import columns as col

COLUMNS = (col.SIZE, "parameter", "importance", "low", "high", "n", "complete", "separable", "refused")

TOP = 0.25  # the best quarter; Optuna's 0.1 leaves too few of the few trials that a sweep of language models has
LEVEL = 0.05  # of the test that a parameter stands out, over all parameters of a size together
MAX_TRIALS = 300  # of a size; with 5,000 the resamples take minutes and say the same
MIN_RESAMPLES = round(1 / LEVEL) - 1
MAX_CHOICES = 12  # more different values are taken for a range
FANOVA_TREES = 16  # of Optuna's 64: a resample costs a second, and the average over resamples smooths as well


@dataclass(frozen=True)
class Evaluator:
    """One of Optuna's evaluators and what it needs."""

    build: Callable[[float], BaseImportanceEvaluator]
    """From the fraction of trials that count as the best."""
    statuses: tuple[str, ...]
    """Trials that it can use."""
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
    """The share of each searched hyperparameter, of every size, the most important first.

    Columns: size, parameter (dotted path), importance, low, high (shares of 1; 95 % interval from the bootstrap's
    standard error over trials, each status resampled by itself), n (trials that it rests on), complete (those of them
    that are), separable (stands out from `resamples` shuffles of the losses at the 5 % level, all parameters taken
    together), refused. A size that cannot be judged has one row, with the reason; elsewhere refused is
    missing. What is not separable has low 0.

    Of more than 300 trials of a size, 300 drawn at random are used, and n says so. Trials of experiments are left out:
    they were listed, not searched. ValueError for an unknown evaluator, or for fewer than 19 resamples, which cannot
    reach that level.
    """
    if evaluator not in EVALUATORS:
        raise ValueError(f"evaluator must be one of {', '.join(EVALUATORS)} (got {evaluator!r}); choose one of them")
    if resamples < MIN_RESAMPLES:
        raise ValueError(f"resamples must be >= {MIN_RESAMPLES} (got {resamples}); the default is 100")
    records = []
    for place, (size, group) in enumerate(trials.groupby(col.SIZE, sort=False)):
        rng = np.random.default_rng([seed, place])
        records += _of_size(size, group[group[col.EXPERIMENT].isna()], EVALUATORS[evaluator], resamples, rng)
    return pd.DataFrame(records, columns=list(COLUMNS)).astype({"parameter": "str", "refused": "str"})


def estimates(table: pd.DataFrame) -> dict[str, Fitted]:
    """What `importance` returned, as `importance.<size>.<path>` for report.json."""
    found: dict[str, Fitted] = {}
    for row in table.itertuples():
        if pd.notna(row.refused):
            found[f"importance.{row.size}"] = NotEstimable(row.refused)
        else:
            found[f"importance.{row.size}.{row.parameter}"] = Estimate(row.importance, row.low, row.high, row.n)
    return found


def _of_size(
    size: str, group: pd.DataFrame, evaluator: Evaluator, resamples: int, rng: np.random.Generator
) -> list[tuple[object, ...]]:
    finite = np.isfinite(group[col.VAL_LOSS]) | (group[col.STATUS] != col.COMPLETE)
    usable = group[group[col.STATUS].isin(evaluator.statuses) & finite]
    if len(usable) > MAX_TRIALS:
        usable = usable.iloc[np.sort(rng.choice(len(usable), MAX_TRIALS, replace=False))]
    usable = usable.reset_index(drop=True)
    n, complete = len(usable), int((usable[col.STATUS] == col.COMPLETE).sum())
    paths = searched_dimensions(usable)
    names = [path.removeprefix(col.PARAMS_PREFIX) for path in paths]

    def refused(reason: str) -> list[tuple[object, ...]]:
        return [(size, None, np.nan, np.nan, np.nan, n, complete, False, reason)]

    if n < evaluator.min_trials or complete < evaluator.min_complete:
        few = f"{n} trials, {complete} of them complete, are too few"
        return refused(f"{few} (at least {evaluator.min_trials} and {evaluator.min_complete})")
    if len(paths) < 2:
        return refused(f"{len(paths) or 'no'} hyperparameter was searched, and a share needs two")

    drawn = _Trials(usable[paths], _losses(usable), evaluator.build(min(TOP, complete / n)))
    everything = drawn.study(np.arange(n))
    observed = drawn.evaluate(everything, np.arange(n))
    shuffled = np.array([drawn.evaluate(everything, rng.permutation(n)) for _ in range(resamples)])
    null, spread = shuffled.mean(axis=0), np.maximum(shuffled.std(axis=0), 1e-12)
    # The largest of all parameters in each shuffle: so that many parameters do not make one of them stand out.
    extremes = ((shuffled - null) / spread).max(axis=1)
    exceeded = (extremes[:, None] >= (observed - null) / spread).sum(axis=0)
    separable = (1 + exceeded) / (1 + resamples) <= LEVEL
    if not separable.any():
        return refused(f"in {n} trials no hyperparameter stands out from what shuffled losses give")

    share = _shares(observed - null)
    # Not the quantiles of the resampled shares: shares end at 0 and 1, and resampling pulls them away from the ends.
    half = 1.96 * _standard_errors(drawn, usable[col.STATUS].to_numpy(), resamples, rng)
    low, high = np.where(separable, np.maximum(share - half, 0.0), 0.0), np.minimum(share + half, 1.0)
    return [
        (size, names[k], share[k], low[k], high[k], n, complete, bool(separable[k]), None) for k in np.argsort(-share)
    ]


def _standard_errors(drawn: "_Trials", statuses: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Of the shares, over resampled trials."""
    strata = [np.flatnonzero(statuses == status) for status in np.unique(statuses)]
    raw, null = [], []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        study = drawn.study(rows)
        raw.append(drawn.evaluate(study, rows))
        # Repeated trials alone raise what noise gives, so the resamples have a noise of their own to be subtracted.
        null.append(drawn.evaluate(study, rng.permutation(rows)))
    shares = np.array([_shares(one - np.mean(null, axis=0)) for one in raw])
    return np.nanstd(shares, axis=0, ddof=1)


def _shares(gains: np.ndarray) -> np.ndarray:
    """Of the sum of all positive gains; NaN where there is none."""
    gains = np.maximum(gains, 0.0)
    with np.errstate(invalid="ignore"):
        return gains / gains.sum()


def _losses(usable: pd.DataFrame) -> np.ndarray:
    """Final losses; all pruned trials behind them, and all diverged ones behind those."""
    worst = usable.loc[usable[col.STATUS] == col.COMPLETE, col.VAL_LOSS].max()
    behind = usable[col.STATUS].map({col.PRUNED: worst + 1, col.DIVERGED: worst + 2})
    return behind.fillna(usable[col.VAL_LOSS]).to_numpy(dtype=float)


class _Trials:
    """The trials of one size as Optuna's, from which studies are made in memory: no database is opened."""

    def __init__(self, values: pd.DataFrame, losses: np.ndarray, evaluator: BaseImportanceEvaluator) -> None:
        axes = {path: _axis(values[path]) for path in values}
        distributions = {path: distribution for path, (distribution, _) in axes.items()}
        self._paths = list(values)
        self._losses = losses
        self._evaluator = evaluator
        self._frozen: list[FrozenTrial] = [
            create_trial(
                params={path: places[i] for path, (_, places) in axes.items()}, distributions=distributions, value=0.0
            )
            for i in range(len(losses))
        ]

    def study(self, rows: np.ndarray) -> optuna.Study:
        """A study of these trials, in memory and without their losses."""
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study is announced otherwise
        try:
            study = optuna.create_study()
        finally:
            optuna.logging.set_verbosity(verbosity)
        study.add_trials([self._frozen[row] for row in rows])
        return study

    def evaluate(self, study: optuna.Study, losses_of: np.ndarray) -> np.ndarray:
        """Importance, not normalised, of each parameter, if trial i of the study had had the loss of losses_of[i]."""
        losses = self._losses[losses_of]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that `target` is minimised, and that `normalize` is experimental
            found = get_param_importances(
                study,
                evaluator=self._evaluator,
                params=self._paths,
                target=lambda trial: losses[trial.number],
                normalize=False,
            )
        return np.array([found[path] for path in self._paths], dtype=float)


def _axis(values: pd.Series) -> tuple[BaseDistribution, list[float]]:
    """A dimension as it was probably searched, and the places of the trials in it: choices, or a range."""
    codes, choices = pd.factorize(values, use_na_sentinel=False)
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.notna().all()
    if not numbers or (len(choices) <= MAX_CHOICES and 2 * len(choices) <= len(values)):
        return CategoricalDistribution(tuple(range(len(choices)))), codes.tolist()
    places = values.to_numpy(dtype=float)
    if places.min() > 0 and places.max() >= 10 * places.min() and _evenness(np.log(places)) < _evenness(places):
        places = np.log(places)  # fanova's marginals would be over the plain values of a log distribution
    return FloatDistribution(places.min(), places.max()), places.tolist()


def _evenness(places: np.ndarray) -> float:
    """Kolmogorov's distance from the uniform distribution over the range; 0 is even."""
    within = np.sort((places - places.min()) / (places.max() - places.min()))
    return float(np.abs(within - np.linspace(0, 1, len(within))).max())
