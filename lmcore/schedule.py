"""Learning rate: linear warm-up, then one of several ways down, then constant.

    t < T_w           t / T_w * max_lr
    T_w <= t <= T_0   max_lr
    T_0 <= t <= T     min_lr + d(p) (max_lr - min_lr),  p = (t - T_0) / (T - T_0)
    t > T             min_lr

    cosine            d(p) = 1/2 (1 + cos(pi p)),  T_0 = T_w
    linear            d(p) = 1 - p,                T_0 = T_w
    wsd               d(p) = 1 - sqrt(p),          T_0 = max(T_w, T - T_d)
    constant                                       T_0 = T

The cosine is that of Llama (Touvron et al., 2023); wsd, which is warm-up, stable, decay, that of Haegele et al. (2024).
A schedule is a pure function without state. `SCHEDULES` holds those that a run may name. The trainer passes the number
of the update, 1..steps, so no update has learning rate 0.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple, overload

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
    """Learning rate of update `step` >= 0 of the cosine schedule.

    Numbers give a float, computed in float64. If any argument is a tensor, all are broadcast together and the result is
    a tensor of the promoted floating type. All tensors are on one device; the host does not wait for it.

    >>> [cosine_lr(t, max_lr=1.0, min_lr=0.0, warmup_steps=2, cosine_steps=4) for t in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]

    `warmup_steps` is T_w; 0 means no warm-up. `cosine_steps` is T, the step that reaches min_lr. If it equals T_w,
    step T_w has max_lr and later ones min_lr.
    """
    arguments = (step, max_lr, min_lr, warmup_steps, cosine_steps)
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    if tensors:
        return _cosine_lr_tensor(*_as_tensors(arguments, tensors))
    return _cosine_lr_float(*(x for x in arguments if not isinstance(x, Tensor)))


class Phases(NamedTuple):
    """Updates of a run."""

    warmup: float
    """T_w."""
    decay: float
    """T_d, the last ones, in which wsd decays."""
    steps: float
    """T, all of them."""


def linear_lr(step: float, max_lr: float, min_lr: float, phases: Phases) -> float:
    """Learning rate of update `step` >= 0 of the linear schedule.

    >>> [linear_lr(t, 1.0, 0.5, Phases(warmup=2, decay=0, steps=4)) for t in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """
    return _lr(step, max_lr, min_lr, phases, phases.warmup, lambda p: 1 - p)


def wsd_lr(step: float, max_lr: float, min_lr: float, phases: Phases) -> float:
    """Learning rate of update `step` >= 0 of the schedule warm-up, stable, decay.

    >>> [wsd_lr(t, 1.0, 0.0, Phases(warmup=2, decay=4, steps=8)) for t in range(9)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.2928932188134524, 0.1339745962155614, 0.0]
    """
    begin = max(phases.warmup, phases.steps - phases.decay)
    if phases.warmup <= step <= begin:
        return max_lr  # at T_0 as well to the last bit, so that runs of any length share these updates
    return _lr(step, max_lr, min_lr, phases, begin, lambda p: 1 - math.sqrt(p))


def constant_lr(step: float, max_lr: float, min_lr: float, phases: Phases) -> float:
    """Learning rate of update `step` >= 0 that stays at its maximum up to the last update.

    >>> [constant_lr(t, 1.0, 0.0, Phases(warmup=2, decay=0, steps=4)) for t in range(5)]
    [0.0, 0.5, 1.0, 1.0, 1.0]
    """
    return _lr(step, max_lr, min_lr, phases, phases.steps, lambda p: 1.0)


Schedule = Callable[[float, float, float, Phases], float]
"""From (update, max_lr, min_lr, phases) to the learning rate of that update, 1..steps."""

SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda step, max_lr, min_lr, phases: cosine_lr(step, max_lr, min_lr, phases.warmup, phases.steps),
    "linear": linear_lr,
    "wsd": wsd_lr,
    "constant": constant_lr,
}
"""By `optim.schedule`; the names are also the `Literal` of `lmcore.config.OptimConfig.schedule`."""


def _lr(
    step: float, max_lr: float, min_lr: float, phases: Phases, begin: float, decay: Callable[[float], float]
) -> float:
    """As the top of this file says, with T_0 = `begin` and d = `decay`."""
    if step < phases.warmup:
        return step / phases.warmup * max_lr
    if step > phases.steps:
        return min_lr
    if step < begin or begin >= phases.steps:
        return max_lr
    return min_lr + decay((step - begin) / (phases.steps - begin)) * (max_lr - min_lr)


def _cosine_lr_float(step: float, max_lr: float, min_lr: float, warmup_steps: float, cosine_steps: float) -> float:
    phases = Phases(warmup_steps, 0, cosine_steps)
    return _lr(step, max_lr, min_lr, phases, warmup_steps, lambda p: 0.5 * (1 + math.cos(p * math.pi)))


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
