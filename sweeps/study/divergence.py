"""What a report row says of its trial, before any comparison with other trials."""

import math
from collections.abc import Mapping
from typing import Any

from lmcore import columns as col


def divergence(row: Mapping[str, Any], vocab_size: int) -> str | None:
    """Why the trial has diverged, or None: a loss that is not finite, or a validation loss above 2 ln V.

    ln V is the loss of a model that knows nothing; one twice as bad has left its start in the wrong direction.
    """
    for name in (col.TRAIN_LOSS, col.VAL_LOSS):
        if not math.isfinite(row[name]):
            return f"{name} is {row[name]} at step {row[col.STEP]}"
    limit = 2 * math.log(vocab_size)
    if row[col.VAL_LOSS] > limit:
        return f"{col.VAL_LOSS} {row[col.VAL_LOSS]:.3f} is above 2 ln V = {limit:.3f} at step {row[col.STEP]}"
    return None
