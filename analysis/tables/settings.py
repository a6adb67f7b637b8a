"""Settings and the seeds that they were trained under: means over seeds instead of the luckiest seed.

A *setting* is everything in a run but its seeds (`train.seed`, `data.seed`) and what all trials of a sweep share, such
as the device: a confirmation on another machine still confirms. A *group* is what is searched on its own and has one
result: a size, an arm of it, or an experiment. Nothing is selected here: `analysis.tables.leaders` does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.runs.quoted_loss import with_quoted_loss
from lmcore import columns as col

SEED_PATHS = (f"{col.PARAMS_PREFIX}train.seed", f"{col.PARAMS_PREFIX}data.seed")
CONSTANT_FIELDS = {
    "train": "device compile cuda_graphs threads eval_every eval_tokens eval_windows final_eval_windows "
    "log_every checkpoint_every branches",
    "data": "source val_source tokenizer vocab_size bin_dtype text_field end_of_text copy val_fraction fingerprint",
}
"""The sweep constants of `lmcore.config.FIELD_ROLES`, repeated here because `lmcore.config` needs pydantic."""
CONSTANTS = [f"{col.PARAMS_PREFIX}{part}.{name}" for part, names in CONSTANT_FIELDS.items() for name in names.split()]
GROUP = [col.SIZE, col.EXPERIMENT, col.ARM]
Array = npt.NDArray[np.float64]
SETTING, SEED = "setting", "seed"
SEED_COUNT, MEAN, SD, HALF, DIVERGED, UNFINISHED, TRIALS = "n", "loss", "sd", "half", "diverged", "unfinished", "trials"


def with_settings(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials whose parameters are known, with the columns `setting` and `seed`.

    `setting` is the id of the first complete trial of the search with that setting in that group, or of the trial that
    was repeated to confirm it; a confirmation trial has the setting of the trial that it repeats. `seed` is an integer
    per pair of train.seed and data.seed. Columns of GROUP, `phase` and `of` are added where they are missing.
    """
    paths = [name for name in trials.columns if name.startswith(col.PARAMS_PREFIX)]
    known = with_quoted_loss(trials[trials[paths].notna().any(axis=1)])
    absent = [name for name in (*GROUP, col.OF, col.LEADER, col.OVER) if name not in known]
    known = known.assign(**dict.fromkeys(absent, None))
    if col.PHASE not in known:
        known[col.PHASE] = col.SEARCH
    seeds = [path for path in SEED_PATHS if path in known]
    varying = [
        path for path in paths if path not in (*SEED_PATHS, *CONSTANTS) and known[path].nunique(dropna=False) > 1
    ]
    # A setting is named after one of its trials: if possible a complete one, and one of the search.
    rank = 2 * (known[col.PHASE] == col.CONFIRM) + (known[col.STATUS] != col.COMPLETE)
    by = known.iloc[np.argsort(rank, kind="stable")].groupby([*GROUP, *varying], dropna=False)
    setting = by[col.TRIAL].transform("first").reindex(known.index)
    of = known[col.OF].map(dict(zip(known[col.TRIAL], setting, strict=True)))
    setting = of.where(of.notna(), setting)
    repeated = dict(zip(setting[known[col.OF].notna()], known[col.OF].dropna(), strict=True))
    known[SETTING] = setting.map(repeated).where(setting.isin(list(repeated)), setting)
    known[SEED] = known.groupby(seeds, dropna=False, sort=False).ngroup() if seeds else 0
    return known


def settings_table(trials: pd.DataFrame) -> pd.DataFrame:
    """One row per setting and phase of each size, arm and experiment, in the order of the trials.

    >>> settings_table(analysis.load("runs/quick").trials)[["setting", "phase", "n", "loss", "half"]]

    Columns: size, experiment, arm, phase, setting (id of a trial of the search with it), n (seeds that were
    trained to the end), loss (their mean, nats per token: the final evaluation's where there was one), sd (between
    seeds), half (of the 95 % interval of the mean, Student's t over the setting's own seeds; NaN for one seed),
    diverged and unfinished (numbers of its other trials; a failed one counts as unfinished), and trials (ids).
    """
    return _summary(with_settings(trials), [*GROUP, col.PHASE, SETTING])


def summary_of(known: pd.DataFrame) -> pd.DataFrame:
    """`settings_table` of trials that have been through `with_settings`, over all their phases together."""
    return _summary(known, [*GROUP, SETTING])


def _summary(known: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    complete = known[(known[col.STATUS] == col.COMPLETE) & np.isfinite(known[col.LOSS])]
    # A run that was repeated under the same seed is one observation.
    per_seed = complete.groupby([*by, SEED], dropna=False, sort=False)[col.LOSS].mean()
    losses = per_seed.groupby(level=list(range(len(by))), dropna=False, sort=False)
    ended = known.assign(
        **{DIVERGED: known[col.STATUS] == col.DIVERGED},
        **{UNFINISHED: ~known[col.STATUS].isin((col.COMPLETE, col.DIVERGED))},
    ).groupby(list(by), dropna=False, sort=False)
    table = pd.concat([ended[[DIVERGED, UNFINISHED]].sum(), ended[col.TRIAL].agg(list).rename(TRIALS)], axis=1)
    table = table.assign(**{SEED_COUNT: losses.size(), MEAN: losses.mean(), SD: losses.std()})
    table[SEED_COUNT] = table[SEED_COUNT].fillna(0).astype(int)
    table[HALF] = half_width(table[SD], table[SEED_COUNT])
    return table.reset_index()[[*by, SEED_COUNT, MEAN, SD, HALF, DIVERGED, UNFINISHED, TRIALS]]


def half_width(sd: pd.Series, n: pd.Series) -> pd.Series:
    """Half of Student's 95 % interval of a mean of n losses with standard deviation sd; NaN where n < 2."""
    return stats.t.ppf(0.975, (n - 1).where(n > 1).astype("float64")) * sd / np.sqrt(n.where(n > 1).astype("float64"))


def loss_matrix(known: pd.DataFrame) -> pd.DataFrame:
    """Losses of complete trials by (group, setting) and seed; NaN where a setting was not trained under a seed.

    The index has the levels GROUP and `setting`; `known` comes from `with_settings`.
    """
    complete = known[(known[col.STATUS] == col.COMPLETE) & np.isfinite(known[col.LOSS])]
    cells = complete.groupby([*GROUP, SETTING, SEED], dropna=False, sort=False)[col.LOSS].mean()
    return cells.unstack(SEED) if len(cells) else pd.DataFrame(index=pd.MultiIndex.from_arrays([[]] * 4))
