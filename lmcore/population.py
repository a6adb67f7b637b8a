"""Tensors of K slots and the one training step that advances them.

A population is a model, its two moments and the slots' places in memory. The same step serves a batched advance (one
population of K slots) and a looped one (K populations of one slot each, views of the same memory): the numbers are the
same, so which is used is a matter of speed alone.

Shapes: K slots, B batch, T time, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.clip import clip_scale, slot_grad_norms
from lmcore.loss import token_nll
from lmcore.model import TransformerLM
from lmcore.optim import Coefficients, adamw_update_

HEAD = "lm_head.weight"

IDLE = Coefficients(step_size=0, beta1=1, one_minus_beta1=0, beta2=1, one_minus_beta2=0, eps=1, decay=0)
"""Of a slot that rests: with a zero gradient the update changes nothing."""

Forward = Callable[[TransformerLM, Tensor, Tensor], Tensor]


def nll_per_token(model: TransformerLM, x: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood [K, B, T] of y given x, both [K, B, T], in nats."""
    return token_nll(model(x), y)


class StepResult(NamedTuple):
    """What an update tells of each slot; tensors stay on the device."""

    losses: Tensor
    """[K], mean training loss before the update."""
    grad_norms: Tensor
    """[K], l2 norm of the whole gradient before clipping."""


class Population:
    """Weights and moments of K slots; `exp_avg` and `exp_avg_sq` map parameter names to `[K, ...]` tensors."""

    def __init__(self, model: TransformerLM, exp_avg: dict[str, Tensor], exp_avg_sq: dict[str, Tensor]) -> None:
        self.model = model
        self.exp_avg = exp_avg
        self.exp_avg_sq = exp_avg_sq

    @classmethod
    def of(cls, model: TransformerLM) -> "Population":
        """A population of the model's slots with zero moments."""
        moments: list[dict[str, Tensor]] = [
            {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()} for _ in range(2)
        ]
        return cls(model, *moments)

    def view(self, slot: int) -> "Population":
        """Slot `slot` as a population of its own that shares this one's memory."""
        exp_avg, exp_avg_sq = (
            {name: moment[slot : slot + 1] for name, moment in moments.items()}
            for moments in (self.exp_avg, self.exp_avg_sq)
        )
        return Population(self.model.slot_view(slot), exp_avg, exp_avg_sq)

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
        losses = forward(self.model, x, y).flatten(1).mean(1)
        # One seed gradient per slot: nothing, not even the loss, is summed over slots.
        losses.backward(torch.ones_like(losses))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            grads = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
            # The idle head of slots that are all tied counts as the zero that it is elsewhere: the order in which a
            # norm is summed, and with it the last bit, depends on how many tensors there are.
            head = [] if HEAD in grads else [torch.zeros_like(losses)[:, None]]
            norms = slot_grad_norms([*grads.values(), *head])
            scale = clip_scale(norms, max_norms)
            # A tied slot's own head is idle: its gradient is zero, and it must not decay either.
            idle_head = c._replace(decay=torch.where(self.model.tied_mask, 0.0, c.decay))
            for name, p in self.model.named_parameters():
                if name not in grads:  # the idle head where every slot is tied
                    continue
                lead = (-1, *[1] * (p.ndim - 1))
                grad = grads[name].mul_(scale.view(lead))
                trains = None if active is None else active.view(lead)
                if trains is not None:
                    # Selected, as 0 * nan is nan; of this sign, because 0.0 added to a moment of -0.0 would change it.
                    grad = torch.where(trains, grad, -0.0)
                per_slot = Coefficients(*(torch.as_tensor(v).view(lead) for v in (idle_head if name == HEAD else c)))
                adamw_update_(p, grad, self.exp_avg[name], self.exp_avg_sq[name], per_slot, trains)
                p.grad = None
        return StepResult(losses.detach(), norms)
