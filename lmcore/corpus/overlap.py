"""How much of the validation data is part of the training data, which makes a validation loss too low."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcore.corpus.mapped_ids import MappedIds, id_chunks

WINDOW = 64  # tokens; a power of two
MOST_WINDOWS = 2048
MOST_TOKENS = 1 << 30
"""Training tokens that are searched: more take longer than a minute."""
CHUNK = 1 << 20
FACTOR = 0x9E3779B97F4A7C15  # odd, with about as many ones as zeros


def val_in_train(train: Any, val: Any, tell: Callable[[int], None] = lambda done: None) -> float | None:
    """Share of the validation windows of WINDOW tokens that occur in the training tokens, at any place.

    Up to MOST_WINDOWS windows, spread evenly over `val`, are searched in the first MOST_TOKENS tokens of `train`, by a
    hash of 64 bits. None if `val` or `train` is shorter than a window. `tell` is called with the tokens that are done.

    >>> val_in_train(np.arange(1000), np.arange(900, 1100))
    0.5
    """
    count = min(MOST_WINDOWS, len(val) // WINDOW)
    if count == 0 or len(train) < WINDOW:
        return None
    starts = np.arange(count) * (len(val) // count)
    windows = np.asarray(val[starts[:, None] + np.arange(WINDOW)], np.uint64)
    wanted = np.unique(hashes := _hashes(windows)[:, 0])
    near = np.zeros(1 << 16, bool)  # by the highest bits: most windows are none of the wanted ones
    near[wanted >> np.uint64(48)] = True
    found = np.zeros(len(wanted), bool)
    before, done = np.empty(0, np.uint64), 0
    for chunk in _first(train, MOST_TOKENS):
        ids = np.concatenate([before, chunk.astype(np.uint64)])
        if len(ids) >= WINDOW:
            own = _hashes(ids)
            own = own[near[own >> np.uint64(48)]]
            at = np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)
            found[at[wanted[at] == own]] = True
        before, done = ids[-(WINDOW - 1) :], done + len(chunk)
        tell(done)
    return float(found[np.searchsorted(wanted, hashes)].mean())


def _hashes(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hash of the window at each position of the last axis: sum of FACTOR ** i * ids[i], modulo 2 ** 64."""
    hashes, width, factor = ids + np.uint64(1), 1, FACTOR
    while width < WINDOW:
        # A window of twice the width is two neighbours.
        hashes = hashes[..., :-width] + np.uint64(factor) * hashes[..., width:]
        width, factor = 2 * width, factor * factor % 2**64
    return hashes


def _first(ids: NDArray[np.integer[Any]] | MappedIds, most: int) -> Any:
    for chunk in id_chunks(ids, CHUNK):
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return
