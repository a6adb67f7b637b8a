"""Designs that lmcore decided against, for `tests/bench/core.py` to race with the ones that it has."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value

from lmcore.clip import clip_scale
from lmcore.config import ModelConfig
from lmcore.dropout import Dropout
from lmcore.model import TransformerLM
from lmcore.optim import Coefficients, adamw_coefficients, adamw_update_
from lmcore.population.population import Population, mean_nll
from tests.bench.core_arms import BETAS, CLIP, DECAY, LR, windows
from tests.bench.race import Arm

EPS = 1e-8


def whole_step(model: ModelConfig, batch_size: int) -> Arm:
    """Forward, loss, backward, clipping and AdamW of K = 1 as one program of torch.compile, on a CPU."""
    lm = TransformerLM(model)
    params = {name: p.detach() for name, p in lm.named_parameters()}
    moments = [{name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2)]
    x, y = (one[None] for one in windows(model, batch_size, "cpu"))

    def loss_of(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(lm, params, (x,)).flatten(0, 2), y.flatten())

    def step(x: Tensor, y: Tensor, step_size: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        grads, loss = grad_and_value(loss_of)(params, x, y)
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
        scale = clip_scale(norm, CLIP)
        for name, p in params.items():
            grad, m, v = grads[name] * scale, moments[0][name], moments[1][name]
            m.mul_(BETAS[0]).add_((1 - BETAS[0]) * grad)
            v.mul_(BETAS[1]).add_((1 - BETAS[1]) * grad * grad)
            p.sub_(step_size * m / (v.sqrt() + EPS))
            p.sub_(decay * p)
        return loss, norm

    compiled = torch.compile(step, dynamic=False, fullgraph=True)
    step_size, decay = torch.tensor(LR), torch.tensor(LR * DECAY)
    return lambda: compiled(x, y, step_size, decay)


def layout_steps(model: ModelConfig, batch_size: int, slots: int) -> dict[str, Arm]:
    """A step of K slots on a CPU, uncompiled, with tensors [K, ...] of their own and with views into arenas [K, P]."""
    x, y = (one.expand(slots, *one.shape).contiguous() for one in windows(model, batch_size, "cpu"))
    row = adamw_coefficients(LR, BETAS, EPS, DECAY, 10)
    coefficients = [row] * slots
    max_norms = torch.full((slots,), CLIP)
    ours = Population(TransformerLM(model, slots))

    def forward(lm: TransformerLM, x: Tensor, y: Tensor, dropout: Dropout | None = None) -> Tensor:
        assert dropout is None
        return mean_nll(lm, lm.hidden(x), y)

    other = TransformerLM(model, slots)
    arena = torch.cat([p.detach().flatten(1) for p in other.parameters()], dim=1)
    exp_avg, exp_avg_sq = (torch.zeros_like(arena) for _ in range(2))
    begin = 0
    for p in other.parameters():
        size = p[0].numel()
        p.data = arena[:, begin : begin + size].view(p.shape)
        begin += size

    def gathered() -> None:
        losses = forward(other, x, y)
        grads = torch.autograd.grad(losses, list(other.parameters()), torch.ones_like(losses))
        _update_arenas_(arena, torch.cat([grad.flatten(1) for grad in grads], dim=1), exp_avg, exp_avg_sq, row)

    return {
        "tensors": lambda: ours.step(forward, x, y, coefficients, max_norms),
        "arenas": gathered,
    }


def layout_updates(model: ModelConfig, slots: int) -> dict[str, Arm]:
    """Clipping and AdamW alone, of tensors and of arenas that hold the gradients already."""
    row = adamw_coefficients(LR, BETAS, EPS, DECAY, 10)
    coefficients = [row] * slots
    max_norms = torch.full((slots,), CLIP)
    population = Population(TransformerLM(model, slots))
    grads = {name: torch.randn_like(p) for name, p in population.model.named_parameters()}
    grad_arena = torch.cat([grad.flatten(1) for grad in grads.values()], dim=1)
    arena, exp_avg, exp_avg_sq = (torch.randn_like(grad_arena) for _ in range(3))
    exp_avg_sq.abs_()

    def of_tensors() -> None:
        population.update(grads, coefficients, max_norms)

    return {"tensors": of_tensors, "arenas": lambda: _update_arenas_(arena, grad_arena, exp_avg, exp_avg_sq, row)}


def _update_arenas_(
    params: Tensor, grads: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, coefficients: Coefficients
) -> None:
    """Clipping and AdamW of arenas [K, P]."""
    scale = clip_scale(torch.linalg.vector_norm(grads, dim=1), CLIP)
    for p, grad, m, v, factor in zip(params, grads, exp_avg, exp_avg_sq, scale.tolist(), strict=True):
        if factor != 1:
            grad.mul_(factor)
        adamw_update_(p, grad, m, v, coefficients)
