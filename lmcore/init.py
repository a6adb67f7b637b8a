"""Initial weights of one slot: a pure function of (seed, tensor name).

Matrices are normal(0, 0.02) truncated at three standard deviations; the two that write into the residual stream are
divided by sqrt(2 N); norm weights are 1. muP narrows some matrices further (`lmcore.parametrization`). Every tensor has
its own generator, so weights do not depend on tying, on the number of slots, or on which slot they are in.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmcore.config import ModelConfig
from lmcore.parametrization import parametrization_of

STD = 0.02
RESIDUAL_OUTPUTS = ("attn.output_proj.weight", "ffn.w2.weight")


def init_tensor(name: str, shape: torch.Size, seed: int, num_layers: int, factor: float = 1.0) -> Tensor:
    """The initial value of tensor `name` of one slot (`shape` without the slot dimension), float32 on CPU.

    `factor` multiplies the standard deviation of a matrix.
    """
    if len(shape) == 1:
        return torch.ones(shape)
    std = factor * (STD / math.sqrt(2 * num_layers) if name.endswith(RESIDUAL_OUTPUTS) else STD)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()  # the same on every machine, unlike hash()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-3 * std, b=3 * std, generator=generator)


@torch.no_grad()
def init_slot_(parameters: Mapping[str, Tensor], slot: int, seed: int, config: ModelConfig) -> None:
    """Write the initial weights for `seed` into row `slot` of every `[K, ...]` parameter of a model of this config."""
    factor = parametrization_of(config).init_factor
    for name, parameter in parameters.items():
        value = init_tensor(name, parameter.shape[1:], seed, config.num_layers, factor(config, name))
        parameter[slot].copy_(value)
