"""Batches: windows of tokens as tensors, for training at random and for validation always the same.

Not here: where tokens come from (`lmcore.corpus.tokens`), and any state. A batch is a function of its arguments, so a
resumed run sees the batches it would have seen, and every trial of a sweep sees the same ones.

B batch, T context length, E validation windows.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TokenArray = NDArray[np.integer[Any]] | torch.Tensor


def get_batch(
    tokens: TokenArray, batch_size: int, context_length: int, device: torch.device | str, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows at random places and the token after each of theirs: `(x, y)`, both [B, T] int64 on `device`.

    `y` is `x` shifted by one. Every start 0..len(tokens) - T - 1 is equally likely, and depends on (seed, step) alone:
    the same on every machine, device and version of numpy.

    Args:
        tokens: 1-D integers: a numpy array, a memory map, or a tensor (on any device).
        seed, step: integers >= 0.

    Raises:
        ValueError: when there are fewer than T + 1 tokens.
    """
    num_starts = len(tokens) - context_length
    _check_one_window(num_starts, tokens, context_length)
    # numpy promises the bits of PCG64 and SeedSequence for ever, but not what Generator.integers makes of them
    # (NEP 19). The remainder of 64 bits favours a start by less than num_starts / 2**64.
    bits = np.random.PCG64(np.random.SeedSequence([seed, step])).random_raw(batch_size)
    return _windows(tokens, (bits % np.uint64(num_starts)).astype(np.int64), context_length, torch.device(device))


def validation_windows(tokens: TokenArray, context_length: int, num_windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows spread evenly over the tokens: `(x, y)`, both [E, T] int64 on the CPU (or where the tokens are).

    E = min(num_windows, (len(tokens) - 1) // T), so that no two windows overlap. Nothing is random.

    Raises:
        ValueError: when there are fewer than T + 1 tokens.
    """
    _check_one_window(len(tokens) - context_length, tokens, context_length)
    num_windows = min(num_windows, (len(tokens) - 1) // context_length)
    starts = np.arange(num_windows) * ((len(tokens) - 1) // num_windows)
    device = tokens.device if isinstance(tokens, torch.Tensor) else torch.device("cpu")
    return _windows(tokens, starts, context_length, device)


def _check_one_window(num_starts: int, tokens: TokenArray, context_length: int) -> None:
    if num_starts < 1:
        raise ValueError(
            f"tokens must fill one window of context_length + 1 = {context_length + 1}, but there are {len(tokens)}; "
            "shorten the context or bring more data"
        )


def _windows(
    tokens: TokenArray, starts: NDArray[np.int64], context_length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    positions = starts[:, None] + np.arange(context_length + 1)  # [B, T + 1]
    if isinstance(tokens, torch.Tensor):
        block = tokens[torch.from_numpy(positions).to(tokens.device)].long()
    else:
        block = torch.from_numpy(tokens[positions].astype(np.int64))
    if device.type == "cuda" and block.device.type == "cpu" and torch.cuda.is_available():
        block = block.pin_memory()  # without this non_blocking would wait all the same
    block = block.to(device, non_blocking=True)
    return block[:, :-1].contiguous(), block[:, 1:].contiguous()
