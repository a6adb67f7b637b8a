"""The difference of two models on the windows that both were evaluated on, with an error that knows of documents.

Both models see the same windows, so what a window adds to both losses cancels, and the error of the difference is far
below that of two independent means. Windows of one document are not independent of each other: what suits a document
suits all its windows. The documents are therefore the clusters of the standard error (Liang and Zeger 1986). Where they
are unknown, clusters are blocks of neighbouring windows, because windows are in the order of the text. Imports numpy
alone, because both the sweep and its analysis need it.

Shapes: n windows, G clusters.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


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
