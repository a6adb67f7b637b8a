"""Clipping by the l2 norm of the whole gradient, for a module and for each slot of a population.

||g|| <= M leaves the gradient untouched; otherwise it is scaled by M / (||g|| + eps) (Pascanu et al., 2013). torch's
`clip_grad_norm_` adds eps to the norm before it compares, so it also scales norms in (M - eps, M]. The host never waits
for the device here.

Shapes: K slots, P tensors.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

EPS = 1e-6


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float | Tensor = 1.0, eps: float = EPS) -> Tensor:
    """Clip the gradients of `parameters` in place, together, and return their norm before clipping, a 0-d tensor.

    Parameters without a gradient are skipped; if none has one, the norm is 0. A gradient that is not finite makes all
    of them NaN, as in torch, and shows in the returned norm.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_(weight), weight.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.tensor(0.0)
    norm = slot_grad_norms([grad.unsqueeze(0) for grad in grads]).squeeze(0)
    scale = clip_scale(norm, max_norm, eps)
    for grad in grads:
        grad.mul_(scale)
    return norm


def slot_grad_norms(grads: Sequence[Tensor]) -> Tensor:
    """l2 norm of each slot's gradient: P >= 1 tensors `[K, ...]` -> `[K]`, at least float32.

    Each row of each tensor is reduced on its own, then the P norms of each slot, so a slot's norm depends on its own
    gradient only: bitwise, on a CPU with one thread. A NaN stays in its slot.
    """
    if grads[0].is_cuda and len(grads[0]) == 1:  # one row after the other would not keep a GPU busy
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        norms = torch.stack(torch._foreach_norm(list(grads), dtype=dtype))
        return torch.linalg.vector_norm(norms, dim=0, keepdim=True)  # type: ignore[no-any-return]
    by_tensor = []
    for grad in grads:
        rows = grad.reshape(len(grad), -1).contiguous()  # the order in which a strided row is summed depends on K
        by_tensor.append(torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(grad.dtype, torch.float32)))
    total: Tensor = torch.linalg.vector_norm(torch.stack(by_tensor, dim=1), dim=1)
    return total


def clip_scale(norm: Tensor, max_norm: float | Tensor, eps: float = EPS) -> Tensor:
    """Factor that scales a gradient of this norm to `max_norm`, or 1 if it is not longer: `[...]` -> `[...]`.

    `max_norm` is a number or a tensor that broadcasts; inf does not clip.
    """
    return torch.where(norm <= max_norm, 1.0, max_norm / (norm + eps))
