"""The SwiGLU feed-forward network (Shazeer, 2020) of K slots as one autograd function on a CPU.

    a = x W1^T    b = x W3^T    h = silu(a) b    y = h W2^T

    dh = dy W2    db = dh silu(a)    da = dh b silu'(a)    dx = da W1 + db W3

Positions are taken in chunks whose hidden channels stay in the CPU's cache, so h, dh, da and db never exist whole.
Saved are x, a and b; torch's operations save silu(a) and h as well. That memory is the gain: the time is that of
`plain_swiglu`, the reference, within a tenth (row `kernels` of tests/bench/results/core-cpu.json).

Shapes: K slots, N positions of a slot, D width, F hidden channels, C positions of a chunk.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**17  # elements C F of a slot's chunk: half a MB in float32
WHOLE = 2**18  # elements N F up to which all positions are one chunk


def swiglu(x: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    """w2(silu(w1 x) * w3 x): x [K, N, D], w1 and w3 [K, F, D], w2 [K, D, F] -> [K, N, D].

    >>> one = torch.ones(1, 1, 1)
    >>> swiglu(one, one, one, one)
    tensor([[[0.7311]]])
    """
    by_hand = x.device.type == "cpu" and x.dtype == w1.dtype and not torch.is_autocast_enabled("cpu")
    if by_hand and not torch.compiler.is_compiling():
        y: Tensor = _SwiGLU.apply(x, w1, w3, w2)  # type: ignore[no-untyped-call]
        return y
    return plain_swiglu(x, w1, w3, w2)


def plain_swiglu(x: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    """`swiglu` in torch's operations."""
    hidden = F.silu(torch.bmm(x, w1.transpose(1, 2))) * torch.bmm(x, w3.transpose(1, 2))
    return torch.bmm(hidden, w2.transpose(1, 2))


def _chunks(positions: int, width: int) -> list[slice]:
    """Places of the chunks. Their borders do not depend on K, so a slot's result does not."""
    size = positions if positions * width <= WHOLE else 64 * math.ceil(CHUNK / (64 * width))
    return [slice(start, start + size) for start in range(0, positions, size)]


class _SwiGLU(torch.autograd.Function):
    """x, w1, w3, w2 -> y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
        a, b = torch.bmm(x, w1.transpose(1, 2)), torch.bmm(x, w3.transpose(1, 2))
        ctx.save_for_backward(x, w1, w3, w2, a, b)
        places = _chunks(x.shape[1], a.shape[2])
        hidden = (F.silu(a[:, place]).mul_(b[:, place]) for place in places)
        return _joined([torch.bmm(h, w2.transpose(1, 2)) for h in hidden])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        x, w1, w3, w2, a, b = ctx.saved_tensors
        grads_x = []
        grad_w1 = grad_w3 = grad_w2 = None
        for place in _chunks(x.shape[1], a.shape[2]):
            grad_h = torch.bmm(grad[:, place], w2)
            hidden = F.silu(a[:, place])
            grad_b = grad_h * hidden
            hidden.mul_(b[:, place])
            grad_w2 = _plus(grad_w2, grad[:, place].transpose(1, 2), hidden)
            grad_a = grad_h.mul_(b[:, place])
            torch.ops.aten.silu_backward.grad_input(grad_a, a[:, place], grad_input=grad_a)
            grads_x.append(torch.bmm(grad_a, w1).baddbmm_(grad_b, w3))
            grad_w1 = _plus(grad_w1, grad_a.transpose(1, 2), x[:, place])
            grad_w3 = _plus(grad_w3, grad_b.transpose(1, 2), x[:, place])
        return _joined(grads_x), grad_w1, grad_w3, grad_w2


def _joined(chunks: list[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)


def _plus(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """The sum of the chunks before, which is changed, and a b."""
    return torch.bmm(a, b) if total is None else total.baddbmm_(a, b)
