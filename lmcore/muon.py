"""Muon (Jordan et al., 2024), for the hidden matrices of a model: its steps are orthogonalized momentum.

    b <- mu b + (1 - mu) g
    u <- mu b + (1 - mu) g                                                  (Nesterov)
    theta <- theta - alpha lambda theta
    theta <- theta - 0.2 alpha sqrt(max(out, in)) orthogonalize(u)          (theta is [out, in])

The factor 0.2 sqrt(max(out, in)) gives the step the root mean square of AdamW's steps, so both can have one learning
rate (Moonlight: Liu et al., 2025). It is what `torch.optim.Muon` does with `adjust_lr_fn="match_rms_adamw"`, except
that a CPU orthogonalizes in float32. Matrices of one shape are orthogonalized together: of all layers, and on a GPU of
all slots. On a CPU slots come one after the other, so that a slot's numbers do not depend on others.

Shapes: K slots, M matrices.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmcore.config import OptimConfig
from lmcore.update_rule import Tensors, UpdateRule

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # of Jordan et al.: small singular values grow fastest, and all end in about 0.7..1.2
EPS = 1e-7


class MuonCoefficients(NamedTuple):
    """The numbers of one update."""

    step_size: float  # alpha
    decay: float  # alpha lambda
    one_minus_momentum: float  # 1 - mu


def muon_coefficients(optim: OptimConfig, lr: float, step: int) -> MuonCoefficients:
    """The numbers of any update at the scheduled learning rate `lr`, which `optim.muon_lr` multiplies if it is given.

    >>> muon_coefficients(OptimConfig(lr=1e-3, muon_lr=4e-3, muon_momentum=0.75), lr=5e-4, step=1)
    MuonCoefficients(step_size=0.002, decay=0.0002, one_minus_momentum=0.25)
    """
    if optim.muon_lr is not None:
        lr *= optim.muon_lr / optim.lr  # both follow one schedule
    return MuonCoefficients(lr, lr * optim.weight_decay, 1 - optim.muon_momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """U S V^T, of U Sigma V^T = the matrix, with S near the identity: [M, out, in] -> [M, out, in], in the same dtype.

    Five Newton-Schulz iterations X <- A X + B (X X^T) X + C (X X^T)^2 X, which are matrix products only. The smaller of
    X X^T and X^T X is formed, so a tall matrix gives the transpose of what its transpose gives.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(STEPS):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        x = torch.baddbmm(x, x, polynomial, beta=A) if tall else torch.baddbmm(x, polynomial, x, beta=A)
    return x


def rms_factor(rows: int, columns: int) -> float:
    """0.2 sqrt(max(rows, columns)): an orthogonalized matrix times this has entries of about 0.2, as steps of AdamW."""
    return 0.2 * math.sqrt(max(rows, columns))


@torch.no_grad()
def muon_update_(tensors: Tensors, coefficients: Sequence[float], grad_scale: float) -> None:
    """Update the matrices [out, in] of one slot: parameters, gradients and momentum. An `lmcore.update_rule.Update`."""
    step_size, decay, one_minus_momentum = coefficients
    params, grads, momenta = tensors
    for members in _by_shape(params):
        directions = params[members[0]].new_empty(len(members), *params[members[0]].shape)
        for i, direction in zip(members, directions, strict=True):
            if grad_scale != 1:
                grads[i].mul_(grad_scale)
            momenta[i].lerp_(grads[i], one_minus_momentum)
            torch.lerp(momenta[i], grads[i], one_minus_momentum, out=direction)
        length = step_size * rms_factor(*directions.shape[1:])
        for i, direction in zip(members, orthogonalize(directions), strict=True):
            params[i].mul_(1 - decay).sub_(direction, alpha=length)


@torch.no_grad()
def muon_update_slots_(
    tensors: Tensors, coefficients: Tensor, grad_scale: Tensor, active: Sequence[Tensor | None], compiled: bool
) -> None:
    """`muon_update_` of K slots at once, [K, out, in], in bfloat16 on a GPU. An `lmcore.update_rule.UpdateSlots`."""
    step_size, decay, one_minus_momentum = coefficients  # [K] each
    params, grads, momenta = tensors
    accumulate, descend = _compiled() if compiled else (_accumulate, _descend)
    for members in _by_shape(params):
        shape = params[members[0]].shape
        directions = [
            accumulate(momenta[i].flatten(1), grads[i].flatten(1), one_minus_momentum, grad_scale, active[i])
            for i in members
        ]
        together = torch.stack(directions)  # [matrices of this shape, K, out * in]
        orthogonal = orthogonalize(together.view(-1, *shape[1:])).view(together.shape)
        length = step_size * rms_factor(*shape[1:])
        for i, direction in zip(members, orthogonal, strict=True):
            descend(params[i].flatten(1), direction, length, decay, active[i])


def _by_shape(params: Sequence[Tensor]) -> list[list[int]]:
    """Positions of tensors with one shape."""
    groups: dict[torch.Size, list[int]] = {}
    for i, param in enumerate(params):
        groups.setdefault(param.shape, []).append(i)
    return list(groups.values())


def _accumulate(
    momentum: Tensor, grad: Tensor, one_minus_momentum: Tensor, grad_scale: Tensor, active: Tensor | None
) -> Tensor:
    """Update the momentum, and return the direction before it is orthogonalized: [K, numbers of a slot] each."""
    grad = grad * grad_scale[:, None]
    new = momentum + one_minus_momentum[:, None] * (grad - momentum)
    direction = new + one_minus_momentum[:, None] * (grad - new)
    momentum.copy_(new if active is None else torch.where(active[:, None], new, momentum))
    return direction.bfloat16() if direction.is_cuda else direction


def _descend(param: Tensor, direction: Tensor, length: Tensor, decay: Tensor, active: Tensor | None) -> None:
    """Decay, then step: [K, numbers of a slot] each."""
    new = param - decay[:, None] * param - length[:, None] * direction
    param.copy_(new if active is None else torch.where(active[:, None], new, param))


@cache
def _compiled() -> tuple[Callable[..., Tensor], Callable[..., None]]:
    """Both passes over the tensors as programs, which fit all shapes."""
    compile_one = partial(torch.compile, dynamic=True, fullgraph=True)
    return compile_one(_accumulate), compile_one(_descend)


MUON = UpdateRule(
    state_names=("momentum_buffer",),
    coefficient_names=MuonCoefficients._fields,
    coefficients=muon_coefficients,
    update_=muon_update_,
    update_slots_=muon_update_slots_,
    width_power=0.5,  # a step whose entries have the root mean square r has the spectral norm r sqrt(width)
)
"""The rule of hidden matrices with `optim.name: muon`."""
