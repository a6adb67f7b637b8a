"""Which loss of a trial is quoted: the final evaluation's if there was one, otherwise the last of the small set.

`val_loss` is measured at every report on a small set of windows, so that trials can be stopped early. A run that made
all its updates is measured once more on many windows: `final_val_loss`. Only these two functions choose between them.
"""

import pandas as pd

from lmcore import columns as col


def with_quoted_loss(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with the columns `loss` and `loss_se` (nats per token), chosen for each trial.

    >>> with_quoted_loss(pd.DataFrame({"val_loss": [4.2, 4.3], "final_val_loss": [4.1, float("nan")]}))["loss"].tolist()
    [4.1, 4.3]
    """
    if col.FINAL_VAL_LOSS not in trials:
        return trials.assign(**{col.LOSS: trials[col.VAL_LOSS], col.LOSS_SE: trials.get(col.VAL_LOSS_SE, float("nan"))})
    final = is_final(trials)
    small_se, final_se = (trials.get(name, float("nan")) for name in (col.VAL_LOSS_SE, col.FINAL_VAL_LOSS_SE))
    se = pd.Series(final_se, trials.index).where(final, small_se)
    return trials.assign(**{col.LOSS: trials[col.FINAL_VAL_LOSS].where(final, trials[col.VAL_LOSS]), col.LOSS_SE: se})


def is_final(trials: pd.DataFrame) -> pd.Series:
    """Whether the quoted loss of each trial is that of its final evaluation."""
    if col.FINAL_VAL_LOSS not in trials:
        return pd.Series(False, trials.index)
    return trials[col.FINAL_VAL_LOSS].notna()
