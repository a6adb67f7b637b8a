"""A key-value cache: what attention has computed for the tokens that were read, so that no token is read twice.

`TransformerLM.hidden` reads new tokens at the positions after those in the cache. Its output is what one pass over all
tokens would give at these positions, up to rounding. The cache is for inference: training reads whole windows, and no
gradient flows through it. What happens at the end of the context is decided in `lmcore.export.sampling`.

Shapes: K slots, B batch, S positions read before, T new positions, D width, H heads, G key-value heads.
"""

import torch
from torch import Tensor

from lmcore.config import ModelConfig


class LayerCache:
    """Keys and values of one block: [K*B, G, S, D/H] each. Keys are kept as they were rotated."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is the number of positions that fit."""
        self.capacity = capacity
        self.length = 0
        self._keys = self._values = torch.empty(0)

    @property
    def batch_size(self) -> int:
        """K*B; 0 before the first tokens."""
        return len(self._keys)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [K*B, G, T, D/H] of T new positions; returns those of all S + T positions, as views."""
        if self.length == 0:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class KeyValueCache:
    """The caches of all blocks of a model, for up to context_length positions of a batch.

    >>> cache = KeyValueCache(model.config)  # doctest: +SKIP
    >>> prompt = model.hidden(tokens[:, :, :9], cache=cache)  # [K, B, 9] -> [K, B*9, D]  # doctest: +SKIP
    >>> following = model.hidden(tokens[:, :, 9:], cache=cache)  # positions 9, 10, ...  # doctest: +SKIP
    """

    def __init__(self, config: ModelConfig) -> None:
        self.layers = [LayerCache(config.context_length) for _ in range(config.num_layers)]

    @property
    def length(self) -> int:
        """S, the number of positions that were read."""
        return self.layers[0].length

    @property
    def batch_size(self) -> int:
        """K*B of the tokens that were read; 0 before the first."""
        return self.layers[0].batch_size

    def clear(self) -> None:
        """Forget all positions; the next token that is read has position 0."""
        for layer in self.layers:
            layer.length = 0


def causal_mask(past: int, time: int, device: torch.device) -> Tensor | None:
    """Which of past + time positions each of the last `time` ones sees, [time, past + time]. None: a single one, all.

    >>> causal_mask(1, 2, torch.device("cpu"))
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    if time == 1:
        return None
    return torch.ones(time, past + time, dtype=torch.bool, device=device).tril(past)
