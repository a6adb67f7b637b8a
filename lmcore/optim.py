"""AdamW (Loshchilov & Hutter, 2019) as Stanford CS336 writes it: pure arithmetic, and an optimizer that holds state.

    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    alpha_t <- alpha sqrt(1 - beta2^t) / (1 - beta1^t)
    theta <- theta - alpha_t m / (sqrt(v) + eps)
    theta <- theta - alpha lambda theta

`adamw_coefficients` does the scalar part on the host in float64, `adamw_update_` the tensor part in place. The same
update serves an ordinary parameter, with numbers, and a population `[K, ...]`, with one coefficient per slot
`[K, 1, ...]`. Learning rates come from outside: this file knows no schedule and no clipping.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Coefficients(NamedTuple):
    """What one update needs: numbers, or tensors that broadcast against the parameter (`[K, 1, ...]`)."""

    step_size: float | Tensor
    """alpha_t, the learning rate with both bias corrections."""
    beta1: float | Tensor
    one_minus_beta1: float | Tensor
    beta2: float | Tensor
    one_minus_beta2: float | Tensor
    eps: float | Tensor
    decay: float | Tensor
    """alpha lambda; 0 leaves weights alone."""


def adamw_coefficients(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, step: int
) -> Coefficients:
    """Coefficients of update number `step` >= 1, as floats.

    On the host in float64 because in float32 1 - 0.999 is off by 1e-5, and cast by their last use alone.
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
def adamw_update_(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, c: Coefficients, active: Tensor | None = None
) -> None:
    """Update `param` and both moments in place; all four have one shape, `grad` is left as it was.

    Where `active` (bool, broadcasts like a coefficient) is false, `param` keeps its bits, infinite ones included; the
    moments do with the coefficients `IDLE` of `lmcore.population.population` and a gradient of -0.0.

    One temporary of the parameter's size. Every operation is elementwise and rounds once, so a slot's result is bitwise
    the same alone and in any population, and (float32, float64) for a number as for a tensor of it. The fused addcmul,
    addcdiv and add(alpha=) take numbers only, and may round once where two operations round twice.
    """
    buffer = grad * c.one_minus_beta1
    exp_avg.mul_(c.beta1).add_(buffer)
    torch.mul(grad, grad, out=buffer).mul_(c.one_minus_beta2)
    exp_avg_sq.mul_(c.beta2).add_(buffer)
    torch.sqrt(exp_avg_sq, out=buffer).add_(c.eps)
    torch.div(exp_avg, buffer, out=buffer).mul_(c.step_size)
    param.sub_(buffer if active is None else torch.where(active, buffer, 0.0))
    torch.mul(param, c.decay, out=buffer)
    param.sub_(buffer if active is None else torch.where(active, buffer, 0.0))


AFTER_CORRECTION = torch.tensor(1e9)
"""Of this many updates: torch's bias corrections are exactly 1 then. Ours are in `Coefficients.step_size`."""


@torch.no_grad()
def fused_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    c: Coefficients,
    grad_scale: Tensor,
) -> None:
    """`adamw_update_` of many tensors on a CPU with numbers for coefficients and scaled gradients, in one pass.

    torch's kernel decays before the update: (1 - a)(theta - u) = (1 - a) theta - (1 - a) u, so ours is torch's with the
    step size (1 - a) alpha_t, where a is `c.decay`. It equals the plain form to rounding, and not to the bit.
    """
    step_size = float(c.step_size) * (1 - float(c.decay))
    torch._fused_adamw_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [AFTER_CORRECTION] * len(params),
        lr=step_size,
        beta1=float(c.beta1),
        beta2=float(c.beta2),
        weight_decay=float(c.decay) / step_size if step_size else 0.0,
        eps=float(c.eps),
        amsgrad=False,
        maximize=False,
        grad_scale=None if grad_scale == 1 else grad_scale.float().reciprocal(),  # by which it divides
    )
    if not step_size and c.decay:  # a = 1, which a product with the step size cannot say
        torch._foreach_mul_(params, 1 - float(c.decay))


class AdamW(torch.optim.Optimizer):
    """AdamW as written at the top of this file, for any `nn.Module`.

    It differs from `torch.optim.AdamW` in two places. Weights decay after the update, on the updated value, not before
    it. And eps is added to sqrt(v) before the bias correction of v: in torch's terms, eps is divided by
    sqrt(1 - beta2^t), which matters in the first steps and for tiny gradients. With weight_decay 0 and gradients far
    above eps the two agree to rounding; with decay they do not (3e-3 after 1000 steps at lr 3e-2, weight_decay 0.1).

    State per parameter: `step` (int, updates made), `exp_avg` (m), `exp_avg_sq` (v). Raises ValueError for
    hyperparameters out of range and RuntimeError for sparse gradients.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for i, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if not eps >= 0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        if not weight_decay >= 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient, once; `closure` re-evaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def _update(self, param: Tensor, group: dict[str, Any]) -> None:
        assert param.grad is not None
        if param.grad.is_sparse:
            raise RuntimeError("AdamW does not support sparse gradients; use dense ones, or torch.optim.SparseAdam")
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        c = adamw_coefficients(group["lr"], group["betas"], group["eps"], group["weight_decay"], state["step"])
        adamw_update_(param, param.grad, state["exp_avg"], state["exp_avg_sq"], c)
