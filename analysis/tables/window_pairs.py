"""The difference of two trials on the windows that both were evaluated on, with an error that knows of documents.

Both trials see the same windows, so what a window adds to both losses cancels, and the error of the difference is far
below that of two independent means. Windows of one document are not independent of each other: what suits a document
suits all its windows. The documents are therefore the clusters of the standard error (Liang and Zeger 1986). Where they
are unknown, clusters are blocks of neighbouring windows, because windows are in the order of the text.

Shapes: n windows, G clusters.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lmcore import columns as col

Array = npt.NDArray[np.float64]
CONTEXT_PATH = f"{col.PARAMS_PREFIX}model.context_length"
DATA_PATHS = tuple(f"{col.PARAMS_PREFIX}data.{name}" for name in ("source", "val_source", "vocab_size"))


class WindowDifference(NamedTuple):
    """Mean of b - a over windows (nats per token), its standard error, the error's degrees of freedom, and n."""

    mean: float
    se: float
    df: int
    n: int


def clustered_difference(a: npt.ArrayLike, b: npt.ArrayLike, documents: npt.ArrayLike | None) -> WindowDifference:
    """The mean of b [n] - a [n], with clusters by `documents` [n], or blocks of ceil(n^(1/3)) windows without.

    >>> clustered_difference([1.0, 2.0, 3.0, 4.0], [1.1, 2.1, 3.3, 4.3], [0, 0, 1, 1])
    WindowDifference(mean=0.2..., se=0.1..., df=1, n=4)

    The error is NaN with a single cluster.
    """
    delta = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    n = len(delta)
    labels = np.arange(n) // math.ceil(n ** (1 / 3)) if documents is None else np.asarray(documents)
    _, cluster = np.unique(labels, return_inverse=True)
    mean = float(delta.mean())
    sums = np.bincount(cluster, delta - mean)
    G = len(sums)
    se = math.sqrt(G / (G - 1) * float(sums @ sums)) / n if G > 1 else math.nan
    return WindowDifference(mean, se, G - 1, n)


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
