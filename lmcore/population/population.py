"""Tensors of K slots and the one training step that advances them.

The same step serves a batched advance (one population of K slots) and a looped one (K populations of one slot each,
views of the same memory). Both give the same numbers, so the choice is a matter of speed only.

Shapes: K slots, B batch, T time, D width, C coefficients of an update.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmcore.clip import clip_scale, slot_grad_norms
from lmcore.dropout import Dropout
from lmcore.loss import linear_cross_entropy, linear_token_nll
from lmcore.model import HEAD, TransformerLM
from lmcore.optim import FUSED_FROM, OPTIMIZERS

Coefficients = Tensor | Sequence[Sequence[float]]
"""The optimizer's numbers for one update: a tensor [C, K] on a GPU; on a CPU, C Python floats for each of K slots."""
State = dict[str, dict[str, Tensor]]  # by state name, then parameter name


class Forward(Protocol):
    """From a model and windows x, y [K, B, T] to losses; training gives dropout's masks, evaluation none."""

    def __call__(self, model: TransformerLM, x: Tensor, y: Tensor, dropout: Dropout | None = None, /) -> Tensor: ...


def mean_nll(model: TransformerLM, hidden: Tensor, y: Tensor, fused: bool = False) -> Tensor:
    """The training loss: mean negative log-likelihood [K] of y [K, B, T] by slot, in nats, from hidden [K, B*T, D]."""
    return linear_cross_entropy(hidden, model.head(), y.flatten(1), fused)


def nll_per_token(model: TransformerLM, hidden: Tensor, y: Tensor) -> Tensor:
    """The validation loss: negative log-likelihood of each token of y [K, B, T], in nats -> [K, B, T]."""
    return linear_token_nll(hidden, model.head(), y.flatten(1)).view(y.shape)


class StepResult(NamedTuple):
    """Each slot's mean training loss before an update, and l2 norm of the whole gradient before clipping: [K] each."""

    losses: Tensor
    grad_norms: Tensor


class Population:
    """A model's weights and optimizer state, `[K, ...]` each.

    >>> from lmcore.config import ModelConfig
    >>> population = Population(TransformerLM(ModelConfig(), num_slots=2))
    >>> list(population.state)
    ['exp_avg', 'exp_avg_sq']

    `optimizer` is a name in `lmcore.optim.OPTIMIZERS`. `compiled` compiles the update of all slots at once, which GPUs
    use. `micro_batch_size` windows are trained on at a time, by default all. `state` is that of the optimizer; zeros by
    default.
    """

    def __init__(
        self,
        model: TransformerLM,
        optimizer: str = "adamw",
        compiled: bool = False,
        micro_batch_size: int | None = None,
        state: State | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.compiled = compiled
        self.micro_batch_size = micro_batch_size
        self._rule = OPTIMIZERS[optimizer]
        self._parameters = dict(model.named_parameters())
        size = sum(p[0].numel() for p in self._parameters.values())
        self._fused = self._rule.fused_ if size >= FUSED_FROM else None
        self.state = state or {
            part: {name: torch.zeros_like(p, requires_grad=False) for name, p in self._parameters.items()}
            for part in self._rule.state_names
        }

    def view(self, slot: int) -> "Population":
        """Slot `slot` as a population of its own that shares this one's memory."""
        row = slice(slot, slot + 1)
        state = {part: {name: tensor[row] for name, tensor in named.items()} for part, named in self.state.items()}
        return Population(self.model.slot_view(slot), self.optimizer, self.compiled, self.micro_batch_size, state)

    def reset(self, slot: int, seed: int, tied: bool) -> None:
        """Give `slot` initial weights and zero optimizer state."""
        self.model.reset_slot(slot, seed, tied)
        for named in self.state.values():
            for tensor in named.values():
                tensor[slot].zero_()

    def step(
        self,
        forward: Forward,
        x: Tensor,
        y: Tensor,
        c: Coefficients,
        max_norms: Tensor,
        active: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> StepResult:
        """One update of every slot on windows x, y [K, B, T], or of those where `active` [K] (bool) is true.

        An inactive slot is computed and its result dropped: its weights and state keep their bits, whatever they and
        its gradient are. `max_norms` [K] are gradient norms to clip at, or inf. `dropout` has the masks of the B
        windows. The host does not wait for a GPU here.
        """
        losses = self._backward(forward, x, y, dropout)
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norms = self.update(grads, c, max_norms, active)
        for p in self._parameters.values():
            p.grad = None
        return StepResult(losses, norms)

    def _backward(self, forward: Forward, x: Tensor, y: Tensor, dropout: Dropout | None) -> Tensor:
        """Leave the gradients of the mean loss in the parameters -> losses [K]. Micro batches are passed one by one.

        All have equally many windows, so the mean over the batch is the mean over micro batches of their means.
        """
        batch_size = x.shape[1]
        size = self.micro_batch_size or batch_size
        share = size / batch_size
        total: Tensor | None = None
        for start in range(0, batch_size, size):
            part = slice(start, start + size)
            own = None if dropout is None else dropout._replace(windows=dropout.windows[part])
            losses = forward(self.model, x[:, part].contiguous(), y[:, part].contiguous(), own)
            # One seed gradient per slot, rather than the gradient of a sum: nothing is ever summed over slots.
            losses.backward(torch.full_like(losses, share))  # type: ignore[no-untyped-call]
            losses = losses.detach()
            total = losses if total is None else total + losses  # in this order for any K
        assert total is not None
        return total if size == batch_size else total * share

    @torch.no_grad()
    def update(
        self, grads: dict[str, Tensor], coefficients: Coefficients, max_norms: Tensor, active: Tensor | None = None
    ) -> Tensor:
        """Clip the gradients and apply the optimizer's update, as `step` says -> norms [K] before clipping.

        `grads` by parameter name, without the head's if all slots are tied. They may be changed in place.
        """
        # A norm's last bit depends on how many tensors it sums. If all slots are tied the head has no gradient, and is
        # counted as the zero that it is for a tied slot beside untied ones.
        idle_head = [] if HEAD in grads else [torch.zeros_like(max_norms)[:, None]]
        norms = slot_grad_norms([*grads.values(), *idle_head])
        scale = clip_scale(norms, max_norms)
        if isinstance(coefficients, Tensor):
            self._update_slots_at_once(grads, coefficients, scale, active)
        else:
            self._update_slot_by_slot(grads, coefficients, scale, active)
        return norms

    def _update_slot_by_slot(
        self, grads: dict[str, Tensor], coefficients: Sequence[Sequence[float]], scale: Tensor, active: Tensor | None
    ) -> None:
        """For CPUs: the textbook update with numbers, or its fused form; inactive slots and idle heads are skipped."""
        for k, (numbers, factor) in enumerate(zip(coefficients, scale.tolist(), strict=True)):
            if active is not None and not active[k]:
                continue
            names = [name for name in grads if not (name == HEAD and self.model.tied[k])]
            by_name: tuple[Mapping[str, Tensor], ...] = (self._parameters, grads, *self.state.values())
            tensors = [[named[name][k] for name in names] for named in by_name]
            if self._fused is not None:
                self._fused(*tensors, numbers, factor)
                continue
            for param, grad, *state in zip(*tensors, strict=True):
                if factor != 1:
                    grad.mul_(factor)
                self._rule.update_(param, grad, *state, numbers)

    def _update_slots_at_once(
        self, grads: dict[str, Tensor], coefficients: Tensor, scale: Tensor, active: Tensor | None
    ) -> None:
        """For GPUs: coefficients stay on the device."""
        head_active = active
        if self.model.tying != "none":  # a tied slot's own head is idle, and must not decay either
            head_active = ~self.model.tied_mask if active is None else active & ~self.model.tied_mask
        update = _compiled_update() if self.compiled else _update
        for name, grad in grads.items():
            tensors = [self._parameters[name], grad, *(named[name] for named in self.state.values())]
            rows = [tensor.flatten(1) for tensor in tensors]  # of one form, to which one program fits
            update(self._rule.update_slots_, rows, coefficients, scale, head_active if name == HEAD else active)


def _update(
    update_slots_: Callable[..., None],
    tensors: Sequence[Tensor],
    coefficients: Tensor,
    scale: Tensor,
    active: Tensor | None,
) -> None:
    """Update a parameter, whose gradient and state follow it in `tensors`: [K, numbers of a slot] each."""
    param, grad, *state = tensors
    c = [row[:, None] for row in coefficients.unbind()]
    update_slots_(param, grad * scale[:, None], *state, c, None if active is None else active[:, None])


@cache
def _compiled_update() -> Callable[..., None]:
    """`_update` as one pass over its tensors. One program serves all sizes, as that of all tensors compiles slowly."""
    return torch.compile(_update, dynamic=True, fullgraph=True)
