"""Cross-entropy of next-token prediction, in nats, with a backward that keeps one logits-sized tensor alive.

For the logits o of one position and the next token y, with c = max_j o_j:

    L = log(sum_j exp(o_j - c)) - (o_y - c)         dL/do = softmax(o) - onehot(y)

Logits are by far the largest tensor of a small language model. `torch.nn.functional.cross_entropy` keeps the
log-probabilities beside them until backward, which makes two more of that size. Here forward keeps the logits alone,
and backward recomputes the softmax and turns it into the gradient in place: memory saved, some time spent.

Not here: label smoothing, class weights, ignored targets, masks. Shape letters: V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood: logits `[..., V]`, targets `[...]` of any integer type -> 0-d, at least float32.

    Raises as `token_nll` does.
    """
    return token_nll(logits, targets).mean()


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target: logits `[..., V]`, targets `[...]` of any integer type -> `[...]`.

    float16 and bfloat16 logits are computed in float32, which is also the type of the result; the gradient comes in
    the type of the logits. A position's result depends on its own logits alone, so a NaN stays where it is.

    Raises ValueError for shapes that do not fit and for targets that are not integers. A target outside 0..V-1 is an
    error of the device: RuntimeError on CPU, a failed assertion on CUDA.
    """
    if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
        raise ValueError(
            "targets must have the shape of logits without its last dimension, "
            f"but logits are {list(logits.shape)} and targets {list(targets.shape)}; reshape one of them"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integer token ids, but they are {targets.dtype}; convert them with .long()")
    nll: Tensor = _TokenNLL.apply(logits, targets.long().unsqueeze(-1))  # type: ignore[no-untyped-call]
    return nll.squeeze(-1)


class _TokenNLL(torch.autograd.Function):
    """logits `[..., V]`, index `[..., 1]` -> `[..., 1]`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> Tensor:
        nll = _nll(logits, index)
        ctx.save_for_backward(logits, index, nll)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, index, nll = ctx.saved_tensors
        grad = _softmax(logits).mul_(upstream)
        # p_y - 1 = exp(-L) - 1 is stored, not added: no atomic addition on a GPU
        grad.scatter_(-1, index, torch.expm1(-nll).mul_(upstream))
        return grad.to(logits.dtype), None


_HALF = (torch.float16, torch.bfloat16)


def _nll(logits: Tensor, index: Tensor) -> Tensor:
    if logits.dtype in _HALF:
        shifted = _shifted_float32(logits)
        target = shifted.gather(-1, index)
        return shifted.exp_().sum(-1, keepdim=True).log_().sub_(target)
    # o - c - log(sum_j exp(o_j - c)), fused: one pass instead of amax, sub, exp and sum one after the other.
    return torch.log_softmax(logits, -1).gather(-1, index).neg_()


def _softmax(logits: Tensor) -> Tensor:
    if logits.dtype in _HALF:
        weights = _shifted_float32(logits).exp_()
        return weights.div_(weights.sum(-1, keepdim=True))
    return torch.softmax(logits, -1)


def _shifted_float32(logits: Tensor) -> Tensor:
    """o - c in a new float32 tensor; torch's fused kernels would need another besides a float32 copy."""
    shifted = logits.float()
    return shifted.sub_(shifted.amax(-1, keepdim=True))
