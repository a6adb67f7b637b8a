"""Cross-entropy of next-token prediction, in nats, with a backward that keeps one logits-sized tensor alive.

For the logits o of one position and the next token y, with c = max_j o_j:

    L = log(sum_j exp(o_j - c)) - (o_y - c)         dL/do = softmax(o) - onehot(y)

Logits are by far the largest tensor of a small language model. `torch.nn.functional.cross_entropy` keeps the
log-probabilities beside them until backward, which makes two more of that size. Here forward keeps the logits alone,
and backward recomputes the softmax and turns it into the gradient in place: memory saved, some time spent.

Not here: label smoothing, class weights, ignored targets, masks. Shape letters: V vocabulary.

Output head and cross-entropy in one, without ever holding the logits of all positions.

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
from collections.abc import Callable, Iterator
from functools import cache
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


CPU_CHUNK, GPU_CHUNK = 128, 4096
"""C at least: fewer positions make matrix products slow."""
CPU_LOGITS = 2**20
"""C V where that allows more: 4 MB in float32 stay near a CPU's cache."""
HALVES = (torch.float16, torch.bfloat16)
CHUNKS = 16  # at most, so that the head's gradient is not gone through too often


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool = False) -> Tensor:
    """Each slot's mean negative log-likelihood: hidden `[K, ..., D]`, weight `[K, V, D]`, targets `[K, ...]` -> `[K]`.

    A single model may come without K: `[..., D]`, `[V, D]`, `[...]` -> 0-d. The result is at least float32; under
    autocast the matrix products have its type. A slot's result depends on that slot alone. Not differentiable twice.
    `fused` compiles what happens to a chunk's logits into few kernels, for GPUs: a CPU has them in its cache, and is
    faster step by step.

    Raises ValueError for shapes that do not fit and for targets that are not integers. A target outside 0..V-1 is an
    error of the device, as in `lmcore.loss.token_nll`.
    """
    flat_hidden, slot_weight, flat_targets = _by_slot(hidden, weight, targets)
    means: Tensor = _LinearMeanNLL.apply(flat_hidden, slot_weight, flat_targets, fused)  # type: ignore[no-untyped-call]
    return means if weight.ndim == 3 else means.squeeze(0)


def linear_token_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, for evaluation: no gradient. Arguments as above -> shape of targets."""
    with torch.no_grad():
        parts = [_softmax_(logits, index)[0] for _, index, logits in _chunks(*_by_slot(hidden, weight, targets))]
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


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Place of each chunk, its index [K, C, 1] and logits [K, C, V], which the next chunk overwrites."""
    weight = weight.to(hidden.dtype)
    least = max(CPU_CHUNK, CPU_LOGITS // weight.shape[1]) if hidden.device.type == "cpu" else GPU_CHUNK
    size = max(least, 64 * math.ceil(hidden.shape[1] / (64 * CHUNKS)))
    # One piece of memory for all chunks: what is asked for again may come from the system, page by page.
    reused = hidden.new_empty(len(hidden), size, weight.shape[1]) if hidden.shape[1] >= size else None
    for start in range(0, hidden.shape[1], size):
        place = slice(start, start + size)
        whole = start + size <= hidden.shape[1]
        logits = torch.bmm(hidden[:, place], weight.transpose(1, 2), out=reused if whole else None)
        yield place, targets[:, place, None], logits


def _softmax_(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods [K, C], exps [K, C, V] in the memory of the logits, their sums [K, C, 1].

    Step by step: torch's softmax would need a second tensor of this size.
    """
    exps = logits.float() if logits.dtype in HALVES else logits
    exps.sub_(exps.amax(-1, keepdim=True))
    target = exps.gather(-1, index)
    sums = exps.exp_().sum(-1, keepdim=True)
    return (sums.log() - target).squeeze(-1), exps, sums


def _nll_and_gradient_(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods [K, C] and their gradients [K, C, V] by the logits, in whose memory they are."""
    nll, exps, sums = _softmax_(logits, index)
    # p_y - 1 = exp(-L) - 1 is stored, not added: no atomic addition on a GPU
    gradient = exps.div_(sums).scatter_(-1, index, torch.expm1(-nll)[..., None])
    return nll, gradient.to(logits.dtype)


def _nll_and_gradient(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """`_nll_and_gradient_` as a compiler likes it: nothing in place, nothing scattered."""
    wide = logits.float() if logits.dtype in HALVES else logits
    wide = wide - wide.amax(-1, keepdim=True)
    exps = wide.exp()
    sums = exps.sum(-1, keepdim=True)
    nll = sums.log() - wide.gather(-1, index)
    hit = torch.arange(wide.shape[-1], device=wide.device) == index
    return nll.squeeze(-1), torch.where(hit, torch.expm1(-nll), exps / sums).to(logits.dtype)


@cache
def _compiled_nll_and_gradient() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_nll_and_gradient, dynamic=False, fullgraph=True)


class _LinearMeanNLL(torch.autograd.Function):
    """[K, N, D], [K, V, D], [K, N], how -> [K]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, fused: bool) -> Tensor:
        nll_and_gradient = _compiled_nll_and_gradient() if fused else _nll_and_gradient_
        count = hidden.shape[1]
        total = hidden.new_zeros(len(hidden), dtype=_sum_dtype(hidden))
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=_sum_dtype(weight))
        ctx.weight_dtype = weight.dtype  # not that of the products: their sum is not rounded to it
        weight = weight.to(hidden.dtype)
        for place, index, logits in _chunks(hidden, weight, targets):
            nll, p = nll_and_gradient(logits, index)
            total += nll.sum(1)
            grad_hidden[:, place] = torch.bmm(p, weight)
            _add_product_(grad_weight, p.transpose(1, 2), hidden[:, place])
        ctx.save_for_backward(grad_hidden.div_(count), grad_weight.div_(count))
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # A head's gradient is large. In a training step it is right as it is, and a CPU can see that without waiting.
        if upstream.device.type != "cpu" or not bool((upstream == 1).all()):
            grad_hidden, grad_weight = (g * upstream.to(g.dtype)[:, None, None] for g in (grad_hidden, grad_weight))
        return grad_hidden, grad_weight.to(ctx.weight_dtype), None, None


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, which is summed in the type of `total`."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)
