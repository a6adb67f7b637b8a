"""Validation windows: how many, and where each begins. The only place that says so.

`lmcore.data` cuts the windows out of the tokens, and `lmcore.corpus.documents` finds the documents they begin in. Loads
without torch.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray


def num_starts(num_tokens: int, context_length: int) -> int:
    """In how many places a window and the token after it can begin; raises ValueError if there is none."""
    if num_tokens <= context_length:
        raise ValueError(
            f"tokens must fill one window of context_length + 1 = {context_length + 1}, but there are {num_tokens}; "
            "shorten the context or bring more data"
        )
    return num_tokens - context_length


def window_starts(num_tokens: int, context_length: int, num_windows: int) -> NDArray[np.int64]:
    """Starts of E = min(num_windows, (num_tokens - 1) // T) windows that do not overlap, spread evenly: [E] int64.

    >>> window_starts(num_tokens=101, context_length=10, num_windows=4)
    array([ 0, 25, 50, 75])

    Raises ValueError if there are fewer than T + 1 tokens.
    """
    num_starts(num_tokens, context_length)
    count = min(num_windows, (num_tokens - 1) // context_length)
    return np.arange(count, dtype=np.int64) * ((num_tokens - 1) // count)


def final_window_count(
    asked: Literal["auto"] | int, eval_windows: int, training_tokens: int, context_length: int, val_tokens: int
) -> int:
    """How many windows the loss after the last update is measured on: `asked`, or with auto as many as cost little.

    A forward pass is a third of the FLOPs of forward and backward, so a run that trained on n windows may be validated
    on 0.15 n for 5 % of its FLOPs. auto takes no fewer than `eval_windows`. There are never more windows than fit into
    `val_tokens` tokens without overlap.

    >>> final_window_count("auto", 48, training_tokens=200 * 16 * 128, context_length=128, val_tokens=100_000)
    480
    """
    wanted = max(eval_windows, 3 * training_tokens // (20 * context_length)) if asked == "auto" else asked
    return min(wanted, (val_tokens - 1) // context_length)
