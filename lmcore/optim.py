"""AdamW (Loshchilov & Hutter, 2019) as Stanford CS336 writes it.

    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    alpha_t <- alpha sqrt(1 - beta2^t) / (1 - beta1^t)
    theta <- theta - alpha_t m / (sqrt(v) + eps)
    theta <- theta - alpha lambda theta

`adamw_coefficients` is the scalar part, in float64 on the host. `adamw_update_` is the tensor part: the class `AdamW`
calls it for every parameter of an ordinary `nn.Module`, and a population on a CPU for every parameter of every slot.
Two faster forms stand beside it, and test_optim.py holds both equal to it, to rounding: `adamw_fused_` for models of
`FUSED_FROM` parameters and more on a CPU, and `adamw_update_slots_` for K slots at once on a GPU. Whoever changes the
update changes all three. Learning rates come from outside: this file knows no schedule and no clipping. `ADAMW` at the
end is what `lmcore.optimizers` lists.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from lmcore.config import OptimConfig
from lmcore.update_rule import Tensors, UpdateRule, one_by_one, slots_one_by_one


class Coefficients(NamedTuple):
    """The numbers of one AdamW update."""

    step_size: float  # alpha_t, the learning rate with both bias corrections
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    eps: float
    decay: float  # alpha lambda


def adamw_coefficients(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, step: int
) -> Coefficients:
    """The numbers of update `step` >= 1, cast only when they multiply a tensor: 1 - 0.999 in float32 is off by 1e-5.

    >>> adamw_coefficients(lr=1e-3, betas=(0.5, 0.75), eps=1e-8, weight_decay=0.0, step=1).step_size
    0.001
    """
    beta1, beta2 = betas
    return Coefficients(
        step_size=lr * math.sqrt(1 - beta2**step) / (1 - beta1**step),
        beta1=beta1,
        one_minus_beta1=1 - beta1,
        beta2=beta2,
        one_minus_beta2=1 - beta2,
        eps=eps,
        decay=lr * weight_decay,
    )


@torch.no_grad()
def adamw_update_(param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Sequence[float]) -> None:
    """Update `param` and both moments in place, with the `Coefficients` c. All four tensors have one shape."""
    step_size, _, one_minus_beta1, beta2, one_minus_beta2, eps, decay = c
    exp_avg.lerp_(grad, one_minus_beta1)  # m + (1 - beta1)(g - m) in one pass
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=one_minus_beta2)
    param.addcdiv_(exp_avg, exp_avg_sq.sqrt().add_(eps), value=-step_size)
    param.mul_(1 - decay)


FUSED_FROM = 4_000_000
"""Parameters of a model from which a CPU uses `adamw_fused_`. Training steps with it take 0.93 to 0.97 of the time at
10M parameters, and 0.97 to 1.01 from 0.4M to 1.3M (row `optimizer` of tests/bench/results/core-cpu.json)."""
_MANY_STEPS = torch.tensor(1e9)  # torch's bias corrections are exactly 1 then: ours are in `Coefficients.step_size`


@torch.no_grad()
def adamw_fused_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    c: Coefficients,
    grad_scale: float = 1.0,
) -> None:
    """`adamw_update_` of all tensors of a model with gradients times `grad_scale`, by torch's fused kernel for CPUs.

    The kernel reads and writes every tensor once. It decays before the update: with a = `c.decay`,
    (1 - a)(theta - u) = (1 - a) theta - (1 - a) u, so ours is torch's with the step size (1 - a) alpha_t. Gradients may
    be changed.
    """
    step_size = c.step_size * (1 - c.decay)
    adamw(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        max_exp_avg_sqs=[],
        state_steps=[_MANY_STEPS.clone() for _ in params],
        fused=True,
        grad_scale=None if grad_scale == 1 else torch.tensor(1 / grad_scale if grad_scale else math.inf),  # a divisor
        amsgrad=False,
        maximize=False,
        lr=step_size,
        beta1=c.beta1,
        beta2=c.beta2,
        eps=c.eps,
        weight_decay=c.decay / step_size if step_size else 0.0,
    )
    if c.decay == 1:  # (1 - a) alpha_t = 0, from which torch cannot compute a
        for param in params:
            param.mul_(0)


@torch.no_grad()
def adamw_update_slots_(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Sequence[Tensor], active: Tensor | None = None
) -> None:
    """`adamw_update_` for K slots at once: tensors `[K, ...]`, coefficients `[K, 1, ...]`.

    Coefficients that are tensors let the host run ahead of a GPU, and a CUDA graph replay the update with new ones.
    Slots for which `active` (bool, `[K, 1, ...]`) is false keep every bit of their tensors, even beside infinities and
    NaN.
    """
    step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay = c
    m = beta1 * exp_avg + one_minus_beta1 * grad
    v = beta2 * exp_avg_sq + one_minus_beta2 * (grad * grad)
    theta = param - step_size * (m / (v.sqrt() + eps))
    theta = theta - decay * theta
    for old, new in ((exp_avg, m), (exp_avg_sq, v), (param, theta)):
        old.copy_(new if active is None else torch.where(active, new, old))


def _adamw_run_coefficients(optim: OptimConfig, lr: float, step: int) -> Coefficients:
    return adamw_coefficients(lr, (optim.beta1, optim.beta2), optim.eps, optim.weight_decay, step)


def _adamw_fused_tensors_(tensors: Tensors, coefficients: Sequence[float], grad_scale: float) -> None:
    params, grads, exp_avgs, exp_avg_sqs = tensors
    adamw_fused_(params, grads, exp_avgs, exp_avg_sqs, Coefficients(*coefficients), grad_scale)


ADAMW = UpdateRule(
    state_names=("exp_avg", "exp_avg_sq"),
    coefficient_names=Coefficients._fields,
    coefficients=_adamw_run_coefficients,
    update_=one_by_one(adamw_update_),
    update_slots_=slots_one_by_one(adamw_update_slots_),
    fused_=_adamw_fused_tensors_,
)
"""The rule of every parameter with `optim.name: adamw`."""


class AdamW(torch.optim.Optimizer):
    """AdamW as written at the top of this file, for any `nn.Module`.

    It differs from `torch.optim.AdamW` in two places: weights decay after the update, on the updated value, and eps is
    added to sqrt(v) before the bias correction of v, so in torch's terms it is divided by sqrt(1 - beta2^t). Without
    decay, and with gradients far above eps, the two agree to rounding.

    State per parameter: `step` (int, updates made), `exp_avg` (m), `exp_avg_sq` (v).

    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    >>> model(torch.ones(2, 4)).sum().backward()
    >>> optimizer.step()

    Raises ValueError if a hyperparameter is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        for name, value in (("learning rate", lr), ("epsilon value", eps), ("weight_decay value", weight_decay)):
            if not value >= 0:
                raise ValueError(f"Invalid {name}: {value}")
        for i, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, once; `closure` re-evaluates the model and returns the loss.

        Raises RuntimeError for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError(
                        "AdamW does not support sparse gradients; use dense ones, or torch.optim.SparseAdam"
                    )
                state = self.state[param]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
                state["step"] += 1
                c = adamw_coefficients(group["lr"], group["betas"], group["eps"], group["weight_decay"], state["step"])
                adamw_update_(param, param.grad, state["exp_avg"], state["exp_avg_sq"], c)
        return loss
