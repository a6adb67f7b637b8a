"""RMSNorm (Zhang & Sennrich, 2019) with a gain for each slot, as one autograd function on a CPU.

    r = 1 / sqrt(mean(x^2) + eps)        y = x r w

    dL/dw = sum over positions of x r dL/dy
    dL/dx = r (w dL/dy - x r mean(x r w dL/dy))

torch differentiates `F.rms_norm` operation by operation on a CPU, with more passes over memory.
`plain_rms_norm` is the reference. A program that torch.compile makes fuses it by itself, and GPUs have a kernel.

Shapes: K slots, N positions of a slot, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [K, N, D] normalized over its last dimension, times weight [K, D] -> [K, N, D].

    >>> rms_norm(torch.tensor([[[3.0, 4.0]]]), torch.ones(1, 2), eps=0.0)
    tensor([[[0.8485, 1.1314]]])
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype and not torch.compiler.is_compiling():
        y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y
    return plain_rms_norm(x, weight, eps)


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` in torch's operations."""
    return F.rms_norm(x, x.shape[-1:], eps=eps) * weight[:, None, :]


class _RMSNorm(torch.autograd.Function):
    """Saves x and a number for each position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = norms.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight[:, None, :])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        normalized = x * r
        product = grad * normalized
        grad_weight = product.sum(1)
        # Slot by slot, because the last bit of a batched product of a matrix and a vector depends on K.
        along = torch.stack([torch.mv(product[k], weight[k]) for k in range(len(x))])[..., None].div_(-x.shape[-1])
        grad_x = torch.mul(grad, weight[:, None, :], out=product).addcmul_(normalized, along).mul_(r)
        return grad_x, grad_weight, None
