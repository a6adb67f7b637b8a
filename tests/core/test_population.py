"""The update of all slots at once, which serves GPUs, is the update slot by slot, which serves CPUs."""

import math

import pytest
import torch

from lmcore.config import ModelConfig
from lmcore.model import HEAD, TransformerLM
from lmcore.optim import Coefficients, adamw_coefficients
from lmcore.population.population import Population

MODEL = ModelConfig(vocab_size=97, d_model=32, num_layers=1, num_heads=2, d_ff=48, context_length=16)
LRS = [1e-2, 0.0, 1e-3]


def population() -> tuple[Population, dict[str, torch.Tensor]]:
    """Three slots, the second tied, and gradients."""
    model = TransformerLM(MODEL, 3, [False, True, False], seeds=[0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    grads = {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}
    grads[HEAD][1] = 0.0  # the idle head's
    return Population(model), grads


def coefficients(step: int) -> list[Coefficients]:
    """Those of each slot, as floats."""
    return [adamw_coefficients(lr, (0.9, 0.99), 1e-8, 0.1, step) for lr in LRS]


def assert_untouched(updated: Population, inactive: int | None) -> None:
    """The idle head and, if there is one, the inactive slot are as they were."""
    fresh, _ = population()
    before, after = (dict(one.model.named_parameters()) for one in (fresh, updated))
    assert torch.equal(after[HEAD][1], before[HEAD][1])
    for name in before if inactive is not None else ():
        assert torch.equal(after[name][inactive], before[name][inactive])
        assert not any(named[name][inactive].any() for named in updated.state.values())


@pytest.mark.parametrize("inactive", [None, 2])
def test_all_slots_at_once_and_slot_by_slot_make_the_same_update_to_rounding(inactive: int | None) -> None:
    active = None if inactive is None else torch.arange(3) != inactive
    scale = torch.tensor([0.01, 1.0, 1.0])
    results = []
    for update, form in (("_update_slot_by_slot", list), ("_update_slots_at_once", lambda c: torch.tensor(c).T)):
        several, grads = population()
        with torch.no_grad():
            for step in range(1, 4):
                copies = {name: grad.clone() for name, grad in grads.items()}
                getattr(several, update)(copies, form(coefficients(step)), scale, active)
        assert_untouched(several, inactive)
        results.append(several)
    by_slot, at_once = results
    for name, ours in by_slot.model.named_parameters():
        theirs = dict(at_once.model.named_parameters())[name]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        for part, named in by_slot.state.items():
            torch.testing.assert_close(named[name], at_once.state[part][name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("inactive", [None, 2])
def test_the_update_of_large_models_is_that_of_small_ones_to_rounding(monkeypatch, inactive: int | None) -> None:
    active = None if inactive is None else torch.arange(3) != inactive
    results = []
    for fused_from in (2**40, 1):
        monkeypatch.setattr("lmcore.population.population.FUSED_FROM", fused_from)
        several, grads = population()
        for step in range(1, 4):
            copies = {name: grad.clone() for name, grad in grads.items()}
            several.update(copies, coefficients(step), torch.tensor([0.1, math.inf, 1e3]), active)
        assert_untouched(several, inactive)
        results.append(several)
    textbook, fused = results
    weights = dict(fused.model.named_parameters())
    for name, weight in textbook.model.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(weights[name], weight) for name, weight in textbook.model.named_parameters())


@pytest.mark.parametrize("inactive", [None, 2])
def test_the_compiled_update_of_all_slots_is_the_plain_one_to_rounding(inactive: int | None) -> None:
    active = None if inactive is None else torch.arange(3) != inactive
    scale = torch.tensor([0.01, 1.0, 1.0])
    results = []
    for compiled in (False, True):
        several, grads = population()
        several.compiled = compiled
        with torch.no_grad():
            several._update_slots_at_once(grads, torch.tensor(coefficients(3)).T, scale, active)
        results.append(several)
    plain, fast = results
    assert_untouched(fast, inactive)
    for name, weight in plain.model.named_parameters():
        torch.testing.assert_close(dict(fast.model.named_parameters())[name], weight, rtol=1e-6, atol=1e-8)
        for part, atol in (("exp_avg", 1e-9), ("exp_avg_sq", 1e-12)):
            torch.testing.assert_close(fast.state[part][name], plain.state[part][name], rtol=1e-6, atol=atol)
