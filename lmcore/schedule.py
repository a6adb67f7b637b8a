"""Learning rate: linear warm-up, then half a cosine, then constant, as in Llama (Touvron et al., 2023).

    t < T_w           t / T_w * max_lr
    T_w <= t <= T_c   min_lr + 1/2 (1 + cos((t - T_w) / (T_c - T_w) * pi)) (max_lr - min_lr)
    t > T_c           min_lr

A schedule is a pure function without state. `SCHEDULES` holds those that a run may name. The trainer passes the number
of the update, 1..steps, so no update has learning rate 0.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import overload

import torch
from torch import Tensor

Scalar = float | Tensor


@overload  # that numbers also match the second signature is harmless: the first is tried first
def cosine_lr(  # type: ignore[overload-overlap]
    step: float, max_lr: float, min_lr: float, warmup_steps: float, cosine_steps: float
) -> float: ...
@overload
def cosine_lr(step: Scalar, max_lr: Scalar, min_lr: Scalar, warmup_steps: Scalar, cosine_steps: Scalar) -> Tensor: ...
def cosine_lr(step: Scalar, max_lr: Scalar, min_lr: Scalar, warmup_steps: Scalar, cosine_steps: Scalar) -> Scalar:
    """Learning rate of update `step` >= 0.

    Numbers give a float, computed in float64. If any argument is a tensor, all are broadcast together and the result is
    a tensor of the promoted floating type. All tensors are on one device; the host does not wait for it.

    >>> [cosine_lr(t, max_lr=1.0, min_lr=0.0, warmup_steps=2, cosine_steps=4) for t in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]

    `warmup_steps` is T_w; 0 means no warm-up. `cosine_steps` is T_c, the step that reaches min_lr. If it equals T_w,
    step T_w has max_lr and later ones min_lr.
    """
    arguments = (step, max_lr, min_lr, warmup_steps, cosine_steps)
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    if tensors:
        return _cosine_lr_tensor(*_as_tensors(arguments, tensors))
    return _cosine_lr_float(*(x for x in arguments if not isinstance(x, Tensor)))


Schedule = Callable[[float, float, float, float, float], float]
"""From (update, max_lr, min_lr, warmup_steps, steps) to the learning rate of that update, 1..steps."""

SCHEDULES: dict[str, Schedule] = {"cosine": cosine_lr}
"""By `optim.schedule`; the names are also the `Literal` of `lmcore.config.OptimConfig.schedule`."""


def _cosine_lr_float(step: float, max_lr: float, min_lr: float, warmup_steps: float, cosine_steps: float) -> float:
    if step < warmup_steps:
        return step / warmup_steps * max_lr
    if step > cosine_steps:
        return min_lr
    if cosine_steps == warmup_steps:
        return max_lr
    progress = (step - warmup_steps) / (cosine_steps - warmup_steps)
    return min_lr + 0.5 * (1 + math.cos(progress * math.pi)) * (max_lr - min_lr)


def _cosine_lr_tensor(
    step: Tensor, max_lr: Tensor, min_lr: Tensor, warmup_steps: Tensor, cosine_steps: Tensor
) -> Tensor:
    # The gradient of torch.where includes the branch not taken, where 0 * inf would be NaN: keep divisors positive.
    warm = step / torch.where(warmup_steps > 0, warmup_steps, 1) * max_lr
    span = cosine_steps - warmup_steps
    progress = (step - warmup_steps) / torch.where(span > 0, span, 1)
    cosine = min_lr + 0.5 * (1 + torch.cos(progress * math.pi)) * (max_lr - min_lr)
    decayed = torch.where(step > cosine_steps, min_lr, torch.where(span > 0, cosine, max_lr))
    return torch.where(step < warmup_steps, warm, decayed)


def _as_tensors(arguments: tuple[Scalar, ...], tensors: list[Tensor]) -> list[Tensor]:
    """Numbers become 0-d tensors beside the given ones; a fill, unlike torch.tensor, does not wait for the device."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    device = tensors[0].device
    return [x if isinstance(x, Tensor) else torch.full((), x, dtype=dtype, device=device) for x in arguments]
