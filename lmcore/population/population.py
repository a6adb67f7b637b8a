"""Tensors of K slots and the one training step that advances them.

A population is a model, its two moments and the slots' places in memory. The same step serves a batched advance (one
population of K slots) and a looped one (K populations of one slot each, views of the same memory): the numbers are the
same, so which is used is a matter of speed alone.

Shapes: K slots, B batch, T time, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmcore.clip import clip_scale, slot_grad_norms
from lmcore.loss import linear_cross_entropy, linear_token_nll
from lmcore.model import TransformerLM
from lmcore.optim import Coefficients, adamw_update_, fused_adamw_

HEAD = "lm_head.weight"

IDLE = Coefficients(step_size=0, beta1=1, one_minus_beta1=0, beta2=1, one_minus_beta2=0, eps=1, decay=0)
"""Of a slot that rests: with a zero gradient the update changes nothing."""

Forward = Callable[[TransformerLM, Tensor, Tensor], Tensor]


def mean_nll(model: TransformerLM, hidden: Tensor, y: Tensor) -> Tensor:
    """What is trained on: each slot's mean negative log-likelihood [K] of y [K, B, T], in nats."""
    return linear_cross_entropy(hidden, model.head(), y.flatten(1))


def mean_nll_fused(model: TransformerLM, hidden: Tensor, y: Tensor) -> Tensor:
    """`mean_nll` with the fused loss of GPUs."""
    return linear_cross_entropy(hidden, model.head(), y.flatten(1), fused=True)


def nll_per_token(model: TransformerLM, hidden: Tensor, y: Tensor) -> Tensor:
    """What is validated on: negative log-likelihood of y [K, B, T], in nats -> the same shape."""
    return linear_token_nll(hidden, model.head(), y.flatten(1)).view(y.shape)


class StepResult(NamedTuple):
    """What an update tells of each slot; tensors stay on the device."""

    losses: Tensor
    """[K], mean training loss before the update."""
    grad_norms: Tensor
    """[K], l2 norm of the whole gradient before clipping."""


class Population:
    """Weights and moments of K slots; `exp_avg` and `exp_avg_sq` map parameter names to `[K, ...]` tensors.

    `compiled` is for GPUs, and says whether their update is; a CPU's is a kernel of torch.
    """

    def __init__(
        self, model: TransformerLM, exp_avg: dict[str, Tensor], exp_avg_sq: dict[str, Tensor], compiled: bool = False
    ) -> None:
        self.model = model
        self.compiled = compiled
        self.exp_avg = exp_avg
        self.exp_avg_sq = exp_avg_sq
        self._parameters = dict(model.named_parameters())  # looked up in every step

    @classmethod
    def of(cls, model: TransformerLM, compiled: bool = False) -> "Population":
        """A population of the model's slots with zero moments."""
        exp_avg, exp_avg_sq = (
            {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()} for _ in range(2)
        )
        return cls(model, exp_avg, exp_avg_sq, compiled)

    def view(self, slot: int) -> "Population":
        """Slot `slot` as a population of its own that shares this one's memory."""
        exp_avg, exp_avg_sq = (
            {name: moment[slot : slot + 1] for name, moment in moments.items()}
            for moments in (self.exp_avg, self.exp_avg_sq)
        )
        return Population(self.model.slot_view(slot), exp_avg, exp_avg_sq, self.compiled)

    def reset(self, slot: int, seed: int, tied: bool) -> None:
        """Give `slot` fresh weights and zero moments."""
        self.model.reset_slot(slot, seed, tied)
        for moments in (self.exp_avg, self.exp_avg_sq):
            for moment in moments.values():
                moment[slot].zero_()

    def step(
        self, forward: Forward, x: Tensor, y: Tensor, c: Coefficients, max_norms: Tensor, active: Tensor | None = None
    ) -> StepResult:
        """One update of every slot on windows x, y [K, B, T], or of those that `active` [K] (bool) names.

        Each coefficient is a tensor [K] (`IDLE` for slots that rest), and so are the norms to clip at, infinite where
        nothing is clipped. A resting slot is computed and its result dropped: its weights and moments keep their bits
        whatever they and its gradient are. Nothing here waits for the device.
        """
        losses = forward(self.model, x, y)
        # One seed gradient per slot: nothing, not even the loss, is summed over slots.
        losses.backward(torch.ones_like(losses))  # type: ignore[no-untyped-call]
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norms = self.update(grads, c, max_norms, active)
        for p in self._parameters.values():
            p.grad = None
        return StepResult(losses.detach(), norms)

    @torch.no_grad()
    def update(
        self, grads: dict[str, Tensor], c: Coefficients, max_norms: Tensor, active: Tensor | None = None
    ) -> Tensor:
        """Clip the gradients and make one AdamW update with them, as `step` says; the norms [K] before clipping.

        `grads` by parameter name, which may be changed in place; without the head's where all slots are tied.
        """
        # The idle head of slots that are all tied counts as the zero that it is elsewhere: the order in which a
        # norm is summed, and with it the last bit, depends on how many tensors there are.
        head = [] if HEAD in grads else [torch.zeros_like(max_norms)[:, None]]
        norms = slot_grad_norms([*grads.values(), *head])
        scale = clip_scale(norms, max_norms)
        if norms.device.type == "cpu":
            self._update_by_slot(grads, c, scale, active)
        else:
            self._update_together(grads, c, scale, active)
        return norms

    def _update_together(self, grads: dict[str, Tensor], c: Coefficients, scale: Tensor, active: Tensor | None) -> None:
        """All slots at once, with coefficients that stay on the device."""
        # A tied slot's own head is idle: its gradient is zero, and it must not decay either.
        idle_head = c._replace(decay=torch.where(self.model.tied_mask, 0.0, c.decay))
        update = _compiled_update() if self.compiled else _update_slots_
        update(
            [self._parameters[name] for name in grads],
            list(grads.values()),
            [self.exp_avg[name] for name in grads],
            [self.exp_avg_sq[name] for name in grads],
            [idle_head if name == HEAD else c for name in grads],
            scale,
            active,
        )

    def _update_by_slot(self, grads: dict[str, Tensor], c: Coefficients, scale: Tensor, active: Tensor | None) -> None:
        """One active slot after the other, by torch's fused kernel, which takes numbers; others are not touched."""
        rows = [Coefficients(*row) for row in torch.stack([torch.as_tensor(one) for one in c], dim=1).tolist()]
        for k, row in enumerate(rows):
            if active is not None and not active[k]:
                continue
            names = [name for name in grads if not (name == HEAD and self.model.tied[k])]
            all_tensors: tuple[dict[str, Any], ...] = (self._parameters, grads, self.exp_avg, self.exp_avg_sq)
            p, grad, m, v = ([named[name][k] for name in names] for named in all_tensors)
            fused_adamw_(p, grad, m, v, row, scale[k])


def _update_slots_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    coefficients: list[Coefficients],
    scale: Tensor,
    active: Tensor | None,
) -> None:
    """Scale by `scale` [K] and `adamw_update_` tensor after tensor, each with its coefficients, tensors [K]."""
    for p, grad, exp_avg, exp_avg_sq, c in zip(params, grads, exp_avgs, exp_avg_sqs, coefficients, strict=True):
        lead = (-1, *[1] * (p.ndim - 1))
        grad = grad * scale.view(lead)
        trains = None if active is None else active.view(lead)
        if trains is not None:
            # Selected, as 0 * nan is nan; of this sign, because 0.0 added to a moment of -0.0 would change it.
            grad = torch.where(trains, grad, -0.0)
        per_slot = Coefficients(*(torch.as_tensor(v).view(lead) for v in c))
        adamw_update_(p, grad, exp_avg, exp_avg_sq, per_slot, trains)


@cache
def _compiled_update() -> Callable[..., None]:
    """`_update_slots_` as one pass over each parameter, its gradient and moments."""
    return torch.compile(_update_slots_, dynamic=False, fullgraph=True)
