"""The update of all slots at once, which serves GPUs, is the one slot after slot, which serves CPUs."""

import pytest
import torch

from lmcore.config import ModelConfig
from lmcore.model import TransformerLM
from lmcore.optim import Coefficients, adamw_coefficients
from lmcore.population.population import IDLE, Population

MODEL = ModelConfig(vocab_size=97, d_model=32, num_layers=1, num_heads=2, d_ff=48, context_length=16)
LRS = [1e-2, 0.0, 1e-3]


def population() -> tuple[Population, dict[str, torch.Tensor]]:
    """Three slots, the second tied, and gradients."""
    model = TransformerLM(MODEL, 3, [False, True, False], seeds=[0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    grads = {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}
    grads["lm_head.weight"][1] = 0.0  # the idle head's
    return Population.of(model), grads


def coefficients(step: int) -> Coefficients:
    rows = [adamw_coefficients(lr, (0.9, 0.99), 1e-8, 0.1, step) for lr in LRS]
    return Coefficients(*torch.tensor(rows, dtype=torch.float64).T)


@pytest.mark.parametrize("resting", [None, 2])
def test_all_slots_at_once_and_slot_after_slot_make_the_same_update_to_rounding(resting):
    active = None if resting is None else torch.arange(3) != resting
    max_norms = torch.tensor([1.0, torch.inf, 1e9])
    results = []
    for update in ("_update_by_slot", "_update_together"):
        several, grads = population()
        for step in range(1, 4):
            rows = [list(row) for row in zip(*coefficients(step), strict=True)]
            if resting is not None:
                rows[resting] = list(IDLE)
            c = Coefficients(*torch.tensor(rows, dtype=torch.float64).T)
            scale = torch.where(max_norms == 1.0, 0.01, 1.0)
            getattr(several, update)({name: g.clone() for name, g in grads.items()}, c, scale, active)
        results.append(several)
    by_slot, together = results
    fresh, _ = population()
    for name, ours in by_slot.model.named_parameters():
        theirs = dict(together.model.named_parameters())[name]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(by_slot.exp_avg_sq[name], together.exp_avg_sq[name], rtol=1e-5, atol=1e-12)
        if resting is not None:
            assert torch.equal(ours[resting], dict(fresh.model.named_parameters())[name][resting])
    assert torch.equal(by_slot.model.lm_head.weight[1], fresh.model.lm_head.weight[1])


@pytest.mark.parametrize("resting", [None, 2])
def test_the_compiled_update_of_all_slots_is_the_plain_one_to_rounding(resting):
    active = None if resting is None else torch.arange(3) != resting
    c = Coefficients(*(torch.as_tensor(one).float() for one in coefficients(3)))
    scale = torch.tensor([0.01, 1.0, 1.0])
    results = []
    for compiled in (False, True):
        several, grads = population()
        several.compiled = compiled
        several._update_together(grads, c, scale, active)
        results.append(several)
    plain, fast = results
    fresh, _ = population()
    for name, theirs in plain.model.named_parameters():
        ours = dict(fast.model.named_parameters())[name]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fast.exp_avg[name], plain.exp_avg[name], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(fast.exp_avg_sq[name], plain.exp_avg_sq[name], rtol=1e-6, atol=1e-12)
        if resting is not None:
            assert torch.equal(ours[resting], dict(fresh.model.named_parameters())[name][resting])
    assert torch.equal(fast.model.lm_head.weight[1], fresh.model.lm_head.weight[1])
