"""Cross-entropy of next-token prediction, in nats: the textbook form, and the form that training uses.

For the logits o of one position and the next token y, with c = max_j o_j:

    L = log(sum_j exp(o_j - c)) - (o_y - c)         dL/do = softmax(o) - onehot(y)

`cross_entropy` and `token_nll` are the reference and take logits. Training and evaluation use `linear_cross_entropy`
and `linear_token_nll`, which take hidden states h and the output head W. They compute o = W h for one chunk of
positions at a time and, while its probabilities are in the cache, also both gradients, which backward only scales:

    dL/dh = (softmax(o) - onehot(y)) W / N          dL/dW = sum over positions of (softmax(o) - onehot(y)) h / N

The logits of all positions, the largest tensor of a small language model, never exist. Row `loss` of
tests/bench/results/core-cpu.json has its speed and memory; tests/core/test_linear_loss.py holds it equal to the
reference in float64. Slots never mix: chunk borders do not depend on K. There is no label smoothing, class weight,
ignored target or mask.

Shapes: K slots, N positions of a slot, D width, V vocabulary, C positions of a chunk.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK, GPU_CHUNK = 128, 4096  # smallest C; matrix products of fewer positions are slow
CPU_LOGITS = 2**20  # C V on a CPU where CPU_CHUNK allows it: 4 MB in float32 stay near the CPU's cache
MAX_CHUNKS = 16  # each chunk reads and writes the head's whole gradient


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood: logits `[..., V]`, targets `[...]` of any integer type -> 0-d, at least float32.

    >>> cross_entropy(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.long))  # log 8
    tensor(2.0794)

    Raises what `token_nll` raises.
    """
    return token_nll(logits, targets).mean()


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target: logits `[..., V]`, targets `[...]` of any integer type -> `[...]`.

    float16 and bfloat16 logits are computed in float32, which is also the type of the result; the gradient has the type
    of the logits. A position's result depends on its own logits only, so a NaN does not spread.

    Raises ValueError if shapes do not fit or targets are not integers. A target outside 0..V-1 is an error of the
    device: RuntimeError on CPU, a failed assertion on CUDA.
    """
    if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
        raise ValueError(
            "targets must have the shape of logits without its last dimension, "
            f"but logits are {list(logits.shape)} and targets {list(targets.shape)}; reshape one of them"
        )
    nll: Tensor = _TokenNLL.apply(logits, _token_ids(targets)[..., None])  # type: ignore[no-untyped-call]
    return nll


class _TokenNLL(torch.autograd.Function):
    """logits `[..., V]`, index `[..., 1]` -> `[...]`; backward recomputes the softmax, which saves memory."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(logits, index)
        return _exps_(_as_float(logits, copy=True), index)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, index = ctx.saved_tensors
        _, gradient = _nll_and_gradient_(_as_float(logits, copy=True), index)
        return gradient.mul_(upstream[..., None]).to(logits.dtype), None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool = False) -> Tensor:
    """Each slot's mean negative log-likelihood: hidden `[K, ..., D]`, weight `[K, V, D]`, targets `[K, ...]` -> `[K]`.

    A single model may come without K: `[..., D]`, `[V, D]`, `[...]` -> 0-d. The result is at least float32; under
    autocast the matrix products have its type. A slot's result depends on that slot only. Not differentiable twice.
    `fused` compiles the work on a chunk's logits into few kernels. It is for GPUs: on a CPU the chunk is in the cache,
    and separate operations are faster. Raises what `token_nll` raises.

    >>> hidden, head = torch.zeros(5, 4), torch.randn(8, 4)
    >>> linear_cross_entropy(hidden, head, torch.arange(5))  # log 8
    tensor(2.0794)
    """
    means: Tensor = _LinearMeanNLL.apply(*_by_slot(hidden, weight, targets), fused)  # type: ignore[no-untyped-call]
    return means if weight.ndim == 3 else means.squeeze(0)


@torch.no_grad()
def linear_token_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, without a gradient, for evaluation -> the shape of `targets`.

    Arguments and errors are those of `linear_cross_entropy`.
    """
    chunks = _chunks(*_by_slot(hidden, weight, targets))
    return torch.cat([_exps_(_as_float(logits), index)[0] for _, index, logits in chunks], dim=1).view(targets.shape)


class _LinearMeanNLL(torch.autograd.Function):
    """[K, N, D], [K, V, D], [K, N], fused -> [K]; gradients are computed in forward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool) -> Tensor:
        nll_and_gradient = _compiled_nll_and_gradient() if fused else _nll_and_gradient_
        total = hidden.new_zeros(len(hidden), dtype=_sum_dtype(hidden))
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=_sum_dtype(weight))
        ctx.weight_dtype = weight.dtype  # of the parameter; under autocast the products have another
        weight = weight.to(hidden.dtype)
        for place, index, logits in _chunks(hidden, weight, targets):
            nll, p = nll_and_gradient(logits, index)
            total += nll.sum(1)
            grad_hidden[:, place] = torch.bmm(p, weight)
            if grad_weight.dtype == p.dtype:
                grad_weight.baddbmm_(p.transpose(1, 2), hidden[:, place])
            else:
                grad_weight += torch.bmm(p.transpose(1, 2), hidden[:, place])
        count = hidden.shape[1]
        ctx.save_for_backward(grad_hidden.div_(count), grad_weight.div_(count))
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # Training on whole batches multiplies by 1. A CPU can skip that pass over the head's gradient; a GPU would have
        # to wait to know.
        if upstream.device.type != "cpu" or not bool((upstream == 1).all()):
            grad_hidden, grad_weight = (g * upstream.to(g.dtype)[:, None, None] for g in (grad_hidden, grad_weight))
        return grad_hidden, grad_weight.to(ctx.weight_dtype), None, None


def _by_slot(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Checked arguments: [K, N, D] in the type of matrix products, [K, V, D] as it is, and [K, N] int64."""
    fits = weight.ndim in (2, 3) and hidden.shape[:-1] == targets.shape and hidden.shape[-1:] == weight.shape[-1:]
    if not fits or (weight.ndim == 3 and (targets.ndim < 2 or len(targets) != len(weight))):
        raise ValueError(
            "hidden, weight and targets must be [K, ..., D], [K, V, D] and [K, ...], or the same without K, "
            f"but they are {list(hidden.shape)}, {list(weight.shape)} and {list(targets.shape)}; reshape them"
        )
    targets = _token_ids(targets)
    if weight.ndim == 2:
        hidden, weight, targets = hidden[None], weight[None], targets[None]
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.flatten(1, -2).to(dtype), weight, targets.flatten(1)


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Place of each chunk, its index [K, C, 1] and logits [K, C, V], which the next chunk overwrites."""
    weight = weight.to(hidden.dtype)
    smallest = max(CPU_CHUNK, CPU_LOGITS // weight.shape[1]) if hidden.device.type == "cpu" else GPU_CHUNK
    size = max(smallest, 64 * math.ceil(hidden.shape[1] / (64 * MAX_CHUNKS)))
    # All chunks share one buffer: memory that is allocated anew may have to be mapped again, page by page.
    buffer = hidden.new_empty(len(hidden), size, weight.shape[1]) if hidden.shape[1] >= size else None
    for start in range(0, hidden.shape[1], size):
        place = slice(start, start + size)
        out = buffer if place.stop <= hidden.shape[1] else None
        logits = torch.bmm(hidden[:, place], weight.transpose(1, 2), out=out)
        yield place, targets[:, place, None], logits


def _exps_(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods [...], exps [..., V] in the memory of the logits, and their sums [..., 1].

    Separate operations because torch's softmax needs a second tensor of this size.
    """
    logits.sub_(logits.amax(-1, keepdim=True))
    target = logits.gather(-1, index)
    sums = logits.exp_().sum(-1, keepdim=True)
    return (sums.log() - target).squeeze(-1), logits, sums


def _nll_and_gradient_(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods [...] and, in the memory of the logits if they are float, their gradients [..., V]."""
    nll, exps, sums = _exps_(_as_float(logits), index)
    # p_y - 1 = exp(-L) - 1 is stored rather than added: no atomic addition on a GPU.
    gradient = exps.div_(sums).scatter_(-1, index, torch.expm1(-nll)[..., None])
    return nll, gradient.to(logits.dtype)


def _nll_and_gradient(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """`_nll_and_gradient_` in a form that compiles well: nothing in place, nothing scattered."""
    floats = _as_float(logits)
    shifted = floats - floats.amax(-1, keepdim=True)
    exps = shifted.exp()
    sums = exps.sum(-1, keepdim=True)
    nll = sums.log() - shifted.gather(-1, index)
    is_target = torch.arange(shifted.shape[-1], device=shifted.device) == index
    return nll.squeeze(-1), torch.where(is_target, torch.expm1(-nll), exps / sums).to(logits.dtype)


@cache
def _compiled_nll_and_gradient() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_nll_and_gradient, dynamic=False, fullgraph=True)


def _token_ids(targets: Tensor) -> Tensor:
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integer token ids, but they are {targets.dtype}; convert them with .long()")
    return targets.long()


def _as_float(logits: Tensor, copy: bool = False) -> Tensor:
    return logits.to(_sum_dtype(logits), copy=copy)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
