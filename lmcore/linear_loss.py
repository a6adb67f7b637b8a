"""Output head and cross-entropy in one, without ever holding the logits of all positions.

For hidden states h and the head's matrix W, the logits o = W h are by far the largest tensor of a small language model:
V numbers a position, against D. Here positions are taken a chunk at a time. The chunk's logits become probabilities in
place, and while they are in the cache they become both gradients as well:

    dL/dh = (softmax(o) - onehot(y)) W / N          dL/dW = sum over positions of (softmax(o) - onehot(y)) h / N

so backward only scales what forward has found, by one number per slot. The plain reference is
`lmcore.loss`, which takes logits.

Slots never meet: chunk borders depend on no K, and sums run in a fixed order. Shapes: K slots, N positions of a slot,
D width, V vocabulary, C positions of a chunk.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK, GPU_CHUNK = 128, 4096
"""C at least: fewer positions make matrix products slow."""
CPU_LOGITS = 2**19
"""C V where that allows more: 2 MB in float32 stay near a CPU's cache."""
CHUNKS = 16  # at most, so that the head's gradient is not gone through too often


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Each slot's mean negative log-likelihood: hidden `[K, ..., D]`, weight `[K, V, D]`, targets `[K, ...]` -> `[K]`.

    A single model may come without K: `[..., D]`, `[V, D]`, `[...]` -> 0-d. The result is at least float32; under
    autocast the matrix products have its type. A slot's result depends on that slot alone. Not differentiable twice.

    Raises ValueError for shapes that do not fit and for targets that are not integers. A target outside 0..V-1 is an
    error of the device, as in `lmcore.loss.token_nll`.
    """
    flat_hidden, slot_weight, flat_targets = _by_slot(hidden, weight, targets)
    means: Tensor = _LinearMeanNLL.apply(flat_hidden, slot_weight, flat_targets)  # type: ignore[no-untyped-call]
    return means if weight.ndim == 3 else means.squeeze(0)


def linear_token_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, for evaluation: no gradient. Arguments as above -> shape of targets."""
    with torch.no_grad():
        parts = [nll for _, _, nll, _, _ in _chunks(*_by_slot(hidden, weight, targets))]
        return torch.cat(parts, dim=1).view(targets.shape)


def _by_slot(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[K, N, D] in the type of matrix products, [K, V, D] as it is, and [K, N] int64."""
    fits = weight.ndim in (2, 3) and hidden.shape[:-1] == targets.shape and hidden.shape[-1:] == weight.shape[-1:]
    if weight.ndim == 3:
        fits = fits and targets.ndim >= 2 and targets.shape[0] == weight.shape[0]
    if not fits:
        raise ValueError(
            "hidden, weight and targets must be [K, ..., D], [K, V, D] and [K, ...], or the same without K, "
            f"but they are {list(hidden.shape)}, {list(weight.shape)} and {list(targets.shape)}; reshape them"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integer token ids, but they are {targets.dtype}; convert them with .long()")
    if weight.ndim == 2:
        hidden, weight, targets = hidden[None], weight[None], targets[None]
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.flatten(1, -2).to(dtype), weight, targets.flatten(1).long()


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Place of each chunk, index [K, C, 1], negative log-likelihoods [K, C], exps [K, C, V], their sums [K, C, 1]."""
    weight = weight.to(hidden.dtype)
    least = max(CPU_CHUNK, CPU_LOGITS // weight.shape[1]) if hidden.device.type == "cpu" else GPU_CHUNK
    size = max(least, 64 * math.ceil(hidden.shape[1] / (64 * CHUNKS)))
    # One piece of memory for all chunks: what is asked for again may come from the system, page by page.
    reused = hidden.new_empty(len(hidden), size, weight.shape[1]) if hidden.shape[1] >= size else None
    for start in range(0, hidden.shape[1], size):
        place = slice(start, start + size)
        index = targets[:, place, None]
        whole = start + size <= hidden.shape[1]
        logits = torch.bmm(hidden[:, place], weight.transpose(1, 2), out=reused if whole else None)
        # Softmax in place, step by step: the fused one would need a second tensor of this size.
        weights = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        weights.sub_(weights.amax(-1, keepdim=True))
        target = weights.gather(-1, index)
        total = weights.exp_().sum(-1, keepdim=True)
        yield place, index, (total.log() - target).squeeze(-1), weights, total


class _LinearMeanNLL(torch.autograd.Function):
    """[K, N, D], [K, V, D], [K, N] -> [K]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        count = hidden.shape[1]
        total = hidden.new_zeros(len(hidden), dtype=_sum_dtype(hidden))
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=_sum_dtype(weight))
        ctx.weight_dtype = weight.dtype  # not that of the products: their sum is not rounded to it
        weight = weight.to(hidden.dtype)
        for place, index, nll, exps, sums in _chunks(hidden, weight, targets):
            total += nll.sum(1)
            p = exps.div_(sums)
            # p_y - 1 = exp(-L) - 1 is stored, not added: no atomic addition on a GPU
            p.scatter_(-1, index, torch.expm1(-nll)[..., None])
            p = p.to(hidden.dtype)
            grad_hidden[:, place] = torch.bmm(p, weight)
            _add_product_(grad_weight, p.transpose(1, 2), hidden[:, place])
        ctx.save_for_backward(grad_hidden.div_(count), grad_weight.div_(count))
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # A head's gradient is large. In a training step it is right as it is, and a CPU can see that without waiting.
        if upstream.device.type != "cpu" or not bool((upstream == 1).all()):
            grad_hidden, grad_weight = (g * upstream.to(g.dtype)[:, None, None] for g in (grad_hidden, grad_weight))
        return grad_hidden, grad_weight.to(ctx.weight_dtype), None


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, which is summed in the type of `total`."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)
