"""Which trials share their validation windows, and their difference on them (`lmcore.measure.window_difference`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lmcore import columns as col
from lmcore.measure.window_difference import WindowDifference, clustered_difference

CONTEXT_PATH = f"{col.PARAMS_PREFIX}model.context_length"
DATA_PATHS = tuple(f"{col.PARAMS_PREFIX}data.{name}" for name in ("source", "val_source", "vocab_size"))


def window_difference(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> WindowDifference | str:
    """b minus a, two rows of `analysis.load`'s trials, over the windows of their last evaluations; or why not."""
    first, second = (one.get(col.WINDOW_LOSSES) for one in (a, b))
    if not isinstance(first, np.ndarray) or not isinstance(second, np.ndarray):
        return "the losses of single windows were not kept"
    if a.get(CONTEXT_PATH) != b.get(CONTEXT_PATH):
        return f"the windows differ in length ({a.get(CONTEXT_PATH)} and {b.get(CONTEXT_PATH)} tokens)"
    if len(first) != len(second):
        return f"the trials were evaluated on different windows ({len(first)} and {len(second)} of them)"
    if any(differ(a.get(path), b.get(path)) for path in DATA_PATHS):
        return "the trials were evaluated on different data"
    found = a.get(col.WINDOW_DOCUMENTS)
    return clustered_difference(first, second, found if isinstance(found, np.ndarray) else None)


def differ(first: Any, second: Any) -> bool:
    """Whether two cells differ; missing ones are equal."""
    both_missing = pd.isna(first), pd.isna(second)
    return not all(both_missing) and (any(both_missing) or bool(first != second))
