"""Tensors of K slots and the one training step that advances them.

The same step serves a batched advance (one population of K slots) and a looped one (K populations of one slot each,
views of the same memory). Both give the same numbers, so the choice is a matter of speed only.

Shapes: K slots, B batch, T time, D width, C coefficients of an update.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmcore.clip import clip_scale, slot_grad_norms
from lmcore.dropout import Dropout
from lmcore.loss import linear_cross_entropy, linear_token_nll
from lmcore.model import HEAD, TransformerLM
from lmcore.optim import FUSED_FROM
from lmcore.optimizers import ParameterGroup, parameter_groups
from lmcore.parametrization import parametrization_of

Coefficients = Tensor | Sequence[Sequence[float]]
"""The optimizer's numbers for one update: a tensor [C, K] on a GPU; on a CPU, C Python floats for each of K slots.
They are the numbers of the population's groups, one group after the other."""
State = dict[str, dict[str, Tensor]]  # by state name, then name of each parameter that has such a state


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

    `optimizer` is a name in `lmcore.optimizers.OPTIMIZERS`, which divides the parameters into `groups`. `compiled`
    compiles the update of all slots at once, which GPUs use. `micro_batch_size` windows are trained on at a time, by
    default all. `state` is that of the optimizer; zeros by default.
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
        self._parameters = dict(model.named_parameters())
        lr_factor = parametrization_of(model.config).lr_factor
        self.groups = parameter_groups(optimizer, self._parameters, partial(lr_factor, model.config))
        sizes = [len(group.rule.coefficient_names) for group in self.groups]
        self._numbers = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        self.fused = sum(p[0].numel() for p in self._parameters.values()) >= FUSED_FROM
        self.state = state or self._zero_state()

    def _zero_state(self) -> State:
        state: State = {}
        for name, parameter in self._parameters.items():
            (group,) = (group for group in self.groups if name in group.names)
            for part in group.rule.state_names:
                state.setdefault(part, {})[name] = torch.zeros_like(parameter, requires_grad=False)
        return state

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
        """For CPUs: with numbers; inactive slots and idle heads are skipped. Large models use a rule's fused form."""
        for k, (numbers, factor) in enumerate(zip(coefficients, scale.tolist(), strict=True)):
            if active is not None and not active[k]:
                continue
            for group, own in zip(self.groups, self._numbers, strict=True):
                names = [name for name in grads if name in group.names and not (name == HEAD and self.model.tied[k])]
                tensors = [[named[name][k] for name in names] for named in self._named_tensors(group, grads)]
                if names:
                    update = (self.fused and group.rule.fused_) or group.rule.update_
                    update(tensors, numbers[own], factor)

    def _update_slots_at_once(
        self, grads: dict[str, Tensor], coefficients: Tensor, scale: Tensor, active: Tensor | None
    ) -> None:
        """For GPUs: coefficients stay on the device."""
        head_active = active
        if self.model.tying != "none":  # a tied slot's own head is idle, and must not decay either
            head_active = ~self.model.tied_mask if active is None else active & ~self.model.tied_mask
        for group, own in zip(self.groups, self._numbers, strict=True):
            names = [name for name in grads if name in group.names]
            tensors = [[named[name] for name in names] for named in self._named_tensors(group, grads)]
            who = [head_active if name == HEAD else active for name in names]
            group.rule.update_slots_(tensors, coefficients[own], scale, who, self.compiled)

    def _named_tensors(self, group: ParameterGroup, grads: dict[str, Tensor]) -> tuple[Mapping[str, Tensor], ...]:
        """Parameters, gradients and each kind of state of a group, by parameter name."""
        return self._parameters, grads, *(self.state[part] for part in group.rule.state_names)
