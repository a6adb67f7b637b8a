"""Parts of the model by hand against their plain forms, forward and backward: arms for `tests/bench/core.py`."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lmcore.config import ModelConfig
from lmcore.kernels.rms_norm import plain_rms_norm, rms_norm
from lmcore.kernels.swiglu import plain_swiglu, swiglu
from lmcore.rotary import rope_tables, rotary_of, rotate, turn
from tests.bench.race import Arm


def kernel_arms(model: ModelConfig, batch_size: int) -> dict[str, dict[str, Arm]]:
    """Arms `by hand` and `plain` of each kernel, on tensors of one slot of this model."""
    N, D, F = batch_size * model.context_length, model.d_model, model.d_ff
    x, norm = torch.randn(1, N, D), torch.rand(1, D) + 0.5
    weights = [0.05 * torch.randn(1, *shape) for shape in ((F, D), (F, D), (D, F))]
    windows = torch.randn(batch_size, model.context_length, D)
    tables = rope_tables(model.context_length, model.head_dim, model.rope_theta)
    turns = rotary_of(*tables, model.num_heads).turns
    assert turns is not None

    def half_split(x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], model.num_heads, model.head_dim).transpose(1, 2)
        return rotate(heads, *tables).transpose(1, 2)

    eps = model.norm_eps
    return {
        "RMSNorm": _arms(partial(rms_norm, eps=eps), partial(plain_rms_norm, eps=eps), x, norm),
        "SwiGLU": _arms(swiglu, plain_swiglu, x, *weights),
        "rotary positions": _arms(lambda x: turn(x, turns), half_split, windows),
    }


def _arms(by_hand: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> dict[str, Arm]:
    leaves = [tensor.requires_grad_() for tensor in inputs]

    def both_ways(function: Callable[..., Tensor]) -> Arm:
        upstream = torch.randn_like(function(*leaves))

        def arm() -> None:
            for leaf in leaves:
                leaf.grad = None
            function(*leaves).backward(upstream)  # type: ignore[no-untyped-call]

        return arm

    return {"by hand": both_ways(by_hand), "plain": both_ways(plain)}
