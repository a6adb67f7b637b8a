"""Batches of token windows: random ones for training, fixed ones for validation.

A batch is a pure function of its arguments, so a resumed run sees the batches that it would have seen, and every trial
of a sweep sees the same ones. Tokens come from `lmcore.corpus.tokens`.

Shapes: B batch, T context length, E validation windows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmcore.corpus.mapped_ids import MappedIds
from lmcore.corpus.windows import num_starts, window_starts

TokenArray = NDArray[np.integer[Any]] | MappedIds | torch.Tensor


def get_batch(
    tokens: TokenArray, batch_size: int, context_length: int, device: torch.device | str, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows and their next tokens: `(x, y)`, both [B, T] int64 on `device`; `y` is `x` shifted by one.

    Every start 0..len(tokens) - T - 1 is equally likely. The starts depend on (seed, step) only, and are the same on
    every machine, device and version of numpy.

    >>> x, y = get_batch(np.arange(100), batch_size=2, context_length=3, device="cpu", seed=0, step=0)
    >>> x[0], y[0]
    (tensor([ 8,  9, 10]), tensor([ 9, 10, 11]))

    `tokens` are 1-D integers: a numpy array, a memory map, ids in files, or a tensor on any device. `seed` and `step`
    are >= 0. Raises ValueError if there are fewer than T + 1 tokens.
    """
    starts = num_starts(len(tokens), context_length)
    # numpy promises never to change the bits of PCG64 and SeedSequence, but not what Generator.integers makes of them
    # (NEP 19). The modulo of 64 bits favours a start by less than starts / 2**64.
    bits = np.random.PCG64(np.random.SeedSequence([seed, step])).random_raw(batch_size)
    return _windows(tokens, (bits % np.uint64(starts)).astype(np.int64), context_length, torch.device(device))


def validation_windows(tokens: TokenArray, context_length: int, num_windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows spread evenly over the tokens: `(x, y)`, both [E, T] int64 on the CPU, or the device of the tokens.

    E = min(num_windows, (len(tokens) - 1) // T), so that no two windows overlap. Nothing is random.

    Raises ValueError if there are fewer than T + 1 tokens.
    """
    starts = window_starts(len(tokens), context_length, num_windows)
    device = tokens.device if isinstance(tokens, torch.Tensor) else torch.device("cpu")
    return _windows(tokens, starts, context_length, device)


def validation_batches(
    tokens: TokenArray, context_length: int, num_windows: int, batch_size: int, device: torch.device | str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The windows of `validation_windows` as batches `(x, y)`, both [batch_size, T] int64 on `device`, one at a time.

    All batches have the same shape: the last one repeats its last window if it is not full. Raises as
    `validation_windows` does.

    >>> [x.tolist() for x, _ in validation_batches(np.arange(9), 2, 3, batch_size=2, device="cpu")]
    [[[0, 1], [2, 3]], [[4, 5], [4, 5]]]
    """
    starts = window_starts(len(tokens), context_length, num_windows)
    for begin in range(0, len(starts), batch_size):
        some = starts[begin : begin + batch_size]
        full = np.pad(some, (0, batch_size - len(some)), mode="edge")
        yield _windows(tokens, full, context_length, torch.device(device))


def _windows(
    tokens: TokenArray, starts: NDArray[np.int64], context_length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    positions = starts[:, None] + np.arange(context_length + 1)  # [B, T + 1]
    if isinstance(tokens, torch.Tensor):
        block = tokens[torch.from_numpy(positions).to(tokens.device)].long()
    else:
        block = torch.from_numpy(tokens[positions].astype(np.int64))
    if device.type == "cuda" and block.device.type == "cpu" and torch.cuda.is_available():
        block = block.pin_memory()  # otherwise the non_blocking copy waits
    block = block.to(device, non_blocking=device.type == "cuda")
    return block[:, :-1].contiguous(), block[:, 1:].contiguous()
