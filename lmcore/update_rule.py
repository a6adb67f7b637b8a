"""What a population needs to know about an update of its parameters: `UpdateRule`. An optimizer has one or more.

A rule gets all its tensors at once, because some updates work on all matrices of one shape together. `one_by_one` and
`slots_one_by_one` make such functions of updates that know one tensor, as AdamW's do. `lmcore.optimizers` says which
parameters follow which rule.

Shapes: K slots, C coefficients of an update.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.config import OptimConfig

Tensors = Sequence[Sequence[Tensor]]
"""Lists of equal length: the parameters, their gradients, then each kind of state. They are updated in place."""
Update = Callable[[Tensors, Sequence[float], float], None]
"""Of one slot, whose tensors have no K: (tensors, coefficients, grad_scale). Gradients are multiplied by `grad_scale`
first, and may be changed."""
UpdateSlots = Callable[[Tensors, Tensor, Tensor, Sequence[Tensor | None], bool], None]
"""Of K slots at once: (tensors [K, ...], coefficients [C, K], grad_scale [K], active, compiled). `active` has for each
parameter the slots to update (bool, [K]) or None, which is all; the others keep every bit, whatever they and their
gradients are. `compiled` allows torch.compile."""


class UpdateRule(NamedTuple):
    """How parameters are updated: the numbers on the host, and the same arithmetic in two or three forms."""

    state_names: tuple[str, ...]
    """A parameter's state tensors, as checkpoints name them. Each has the parameter's shape and starts at zero."""
    coefficient_names: tuple[str, ...]
    """Names of the C numbers of an update. `step_size` multiplies the update, but not the decay of weights."""
    coefficients: Callable[[OptimConfig, float, int], Sequence[float]]
    """From the config, the scheduled learning rate, and the number of the update (from 1) to the numbers."""
    update_: Update
    """For CPUs, slot by slot."""
    update_slots_: UpdateSlots
    """For GPUs. The host does not wait for the device."""
    fused_: Update | None = None
    """`update_` to rounding, for large models, if there is a faster form."""
    width_power: float = 1.0
    """p, if a hidden matrix's outputs change by its learning rate times width^p, which is how the spectral norm of its
    update grows (Yang, Simon & Bernstein, 2023): 1 for updates like Adam's, whose entries are as large as the learning
    rate and aligned with the inputs. muP divides the learning rate by m^p."""


def one_by_one(update_: Callable[..., None]) -> Update:
    """The `Update` that calls `update_(param, grad, *state, coefficients)` for every tensor of a slot."""

    def update_all_(tensors: Tensors, coefficients: Sequence[float], grad_scale: float) -> None:
        for param, grad, *state in zip(*tensors, strict=True):
            if grad_scale != 1:
                grad.mul_(grad_scale)
            update_(param, grad, *state, coefficients)

    return update_all_


def slots_one_by_one(update_slots_: Callable[..., None]) -> UpdateSlots:
    """The `UpdateSlots` that calls `update_slots_(param, grad, *state, coefficients, active)` for every tensor.

    That gets rows [K, numbers of a slot], and coefficients and `active` of shape [K, 1].
    """

    def update_all_(
        tensors: Tensors,
        coefficients: Tensor,
        grad_scale: Tensor,
        active: Sequence[Tensor | None],
        compiled: bool,
    ) -> None:
        update = _compiled_update() if compiled else _update
        for several, who in zip(zip(*tensors, strict=True), active, strict=True):
            rows = [tensor.flatten(1) for tensor in several]  # of one form, to which one program fits
            update(update_slots_, rows, coefficients, grad_scale, who)

    return update_all_


def _update(
    update_slots_: Callable[..., None],
    tensors: Sequence[Tensor],
    coefficients: Tensor,
    grad_scale: Tensor,
    active: Tensor | None,
) -> None:
    """Update a parameter, whose gradient and state follow it in `tensors`: [K, numbers of a slot] each."""
    param, grad, *state = tensors
    c = [row[:, None] for row in coefficients.unbind()]
    update_slots_(param, grad * grad_scale[:, None], *state, c, None if active is None else active[:, None])


@cache
def _compiled_update() -> Callable[..., None]:
    """`_update` as one pass over its tensors. One program serves all sizes, as that of all tensors compiles slowly."""
    return torch.compile(_update, dynamic=True, fullgraph=True)
