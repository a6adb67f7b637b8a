"""Clipping against torch's, and the gradient norm of a slot against the same slot alone."""

import math

import pytest
import torch
from torch import nn

from lmcore.clip import clip_grad_norm_, clip_scale, slot_grad_norms


def parameters(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    result = []
    for shape in [(3, 5), (7,), (), (2, 3, 4)]:
        parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
        parameter.grad = scale * torch.randn(shape, generator=generator, dtype=dtype)
        result.append(parameter)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("max_norm", [0.5, 1.0, 3.0])
def test_it_equals_torch(dtype, scale, max_norm):
    ours, theirs = parameters(dtype, scale), parameters(dtype, scale)
    norm = clip_grad_norm_(ours, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm), rtol=1e-6, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_the_norm_is_that_of_all_gradients_as_one_vector_before_clipping():
    clipped = parameters(torch.float64)
    vector = torch.cat([p.grad.flatten() for p in clipped])
    torch.testing.assert_close(clip_grad_norm_(clipped, 1.0), vector.norm(), rtol=1e-12, atol=0)
    after = torch.cat([p.grad.flatten() for p in clipped]).norm().item()
    norm = vector.norm().item()
    assert after == pytest.approx(norm / (norm + 1e-6), rel=1e-12)


def test_a_gradient_within_the_limit_is_untouched_and_one_at_the_limit_too():
    parameter = nn.Parameter(torch.zeros(2))
    for grad in ([0.1, 0.2], [0.6, 0.8]):
        parameter.grad = torch.tensor(grad)
        assert clip_grad_norm_(parameter, torch.tensor(grad).norm()) > 0
        assert torch.equal(parameter.grad, torch.tensor(grad))


def test_parameters_without_a_gradient_are_skipped():
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    unused = nn.Parameter(torch.ones(4))
    used = nn.Parameter(torch.zeros(2))
    used.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm_([frozen, unused, used]) == 5
    assert frozen.grad is None
    assert unused.grad is None
    torch.testing.assert_close(used.grad, torch.tensor([0.6, 0.8]))


def test_without_any_gradient_the_norm_is_zero():
    assert clip_grad_norm_([nn.Parameter(torch.ones(3))]) == 0
    assert clip_grad_norm_([]) == 0


def test_parameters_may_be_a_generator():
    module = nn.Linear(4, 4)
    module(torch.ones(4)).sum().mul(100).backward()
    assert clip_grad_norm_(module.parameters(), max_norm=0.5) > 0.5
    assert nn.utils.get_total_norm([p.grad for p in module.parameters()]) == pytest.approx(0.5, rel=1e-5)


def test_half_precision_gradients_have_a_float32_norm():
    parameter = nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    norm = clip_grad_norm_(parameter)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(math.sqrt(1000))
    assert parameter.grad.dtype == torch.bfloat16


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    for bad in (float("nan"), float("inf")):
        broken = parameters()
        broken[1].grad[0] = bad
        assert not torch.isfinite(clip_grad_norm_(broken))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", range(1, 8))
def test_a_slots_norm_is_bitwise_that_of_the_slot_alone(K, dtype):
    generator = torch.Generator().manual_seed(K)
    shapes = [(1,), (3,), (37,), (5, 7), (63,), (64,), (65,), (129, 31), (10_007,)]
    grads = [torch.randn(K, *shape, generator=generator, dtype=dtype) for shape in shapes]
    grads.append(torch.randn(K, 11, 13, generator=generator, dtype=dtype).transpose(1, 2))
    grads.append(torch.randn(9, 17, K, generator=generator, dtype=dtype).movedim(2, 0))
    norms = slot_grad_norms(grads)
    assert norms.shape == (K,)
    for k in range(K):
        assert torch.equal(norms[k : k + 1], slot_grad_norms([grad[k : k + 1].clone() for grad in grads]))
        assert torch.equal(norms[k : k + 1], slot_grad_norms([grad[k : k + 1] for grad in grads]))
    expected = torch.cat([grad.flatten(1) for grad in grads], dim=1).norm(dim=1)
    torch.testing.assert_close(norms, expected)


def test_a_nan_stays_in_its_slot():
    grads = [torch.ones(3, 4), torch.ones(3, 2, 2)]
    grads[1][1, 0, 0] = float("nan")
    norms = slot_grad_norms(grads)
    assert norms.isnan().tolist() == [False, True, False]
    assert clip_scale(norms, 1.0).isnan().tolist() == [False, True, False]


def test_the_scale_is_one_up_to_the_limit_and_the_quotient_above():
    norm = torch.tensor([0.0, 0.5, 1.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    limit = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, float("inf")], dtype=torch.float64)
    expected = torch.tensor([1, 1, 1, 1 / (2 + 1e-6), 0.5 / (2 + 1e-6), 1], dtype=torch.float64)
    assert torch.equal(clip_scale(norm, limit), expected)
