"""Head and loss in chunks against `cross_entropy` of the logits in float64, their memory, and independent slots."""

import pytest
import torch

import lmcore.loss
from lmcore.loss import CPU_CHUNK, cross_entropy, linear_cross_entropy, linear_token_nll, token_nll

K, N, D, V = 3, 300, 16, 50
WHOLE, PART = 2, 44  # chunks of CPU_CHUNK that N is


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Two whole chunks and a part of one, as with a large vocabulary."""
    monkeypatch.setattr(lmcore.loss, "CPU_LOGITS", 1)


def inputs(dtype=torch.float64, seed=0, scale=1.0):
    """hidden, weight, targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(K, N, D, generator=generator, dtype=torch.float64).mul_(scale).to(dtype)
    weight = torch.randn(K, V, D, generator=generator, dtype=torch.float64).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, V, (K, N), generator=generator)


def plain(hidden, weight, targets):
    return token_nll(hidden @ weight.transpose(1, 2), targets).mean(1)


def grads(loss, hidden, weight, targets):
    """The loss of each slot, and gradients of a weighted sum of them."""
    losses = loss(hidden, weight, targets)
    return losses, *torch.autograd.grad((losses * torch.arange(1, K + 1)).sum(), (hidden, weight))


def test_losses_and_gradients_equal_the_reference():
    hidden, weight, targets = inputs()
    assert WHOLE * CPU_CHUNK + PART == N
    for ours, theirs in zip(
        grads(linear_cross_entropy, hidden, weight, targets), grads(plain, hidden, weight, targets), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_fused_form_equals_the_unfused_one_to_rounding(dtype):
    hidden, weight, targets = inputs(dtype)

    def fused(hidden, weight, targets):
        return linear_cross_entropy(hidden, weight, targets, fused=True)

    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    for ours, theirs in zip(
        grads(fused, hidden, weight, targets), grads(linear_cross_entropy, hidden, weight, targets), strict=True
    ):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_the_fused_form_equals_the_unfused_one_under_autocast():
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = grads(lambda *given: linear_cross_entropy(*given, fused=True), hidden, weight, targets)
        theirs = grads(linear_cross_entropy, hidden, weight, targets)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 4e-3 * other.norm()


def test_a_second_backward_adds_the_same_gradient_again():
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, targets).sum()
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * once)


def test_gradcheck_passes():
    hidden, weight, targets = inputs()
    few = hidden[:, :5].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets[:, :5]), (few, weight))


def test_float32_is_accurate_to_rounding():
    hidden, weight, targets = inputs()
    truth = grads(plain, hidden, weight, targets)
    single = [one.detach().float().requires_grad_() for one in (hidden, weight)]
    for ours, exact in zip(grads(linear_cross_entropy, *single, targets), truth, strict=True):
        assert (ours.double() - exact).norm() <= 1e-6 * exact.norm()


def test_a_single_model_needs_no_slots_and_any_shape_of_positions():
    hidden, weight, targets = (one[0] for one in inputs())
    shaped = linear_cross_entropy(hidden.view(20, 15, D), weight, targets.view(20, 15))
    assert shaped.shape == ()
    torch.testing.assert_close(shaped, cross_entropy(hidden @ weight.T, targets))


def test_huge_logits_stay_finite():
    hidden, weight, targets = inputs(torch.float32, scale=1e4)
    for one in grads(linear_cross_entropy, hidden, weight, targets):
        assert one.isfinite().all()


def test_evaluation_gives_the_loss_of_each_token_and_no_gradient():
    hidden, weight, targets = inputs()
    nll = linear_token_nll(hidden, weight, targets)
    assert not nll.requires_grad
    torch.testing.assert_close(nll, token_nll(hidden @ weight.transpose(1, 2), targets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_is_bitwise_what_it_is_alone(dtype):
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses, grad_hidden, grad_weight = grads(linear_cross_entropy, hidden, weight, targets)
        for k in range(K):
            slot = hidden[k : k + 1], weight[k : k + 1], targets[k : k + 1]
            alone = linear_cross_entropy(*slot)
            found = torch.autograd.grad(alone * (k + 1), (hidden, weight))
            assert torch.equal(alone, losses[k : k + 1])
            assert torch.equal(found[0][k], grad_hidden[k])
            assert torch.equal(found[1][k], grad_weight[k])


def test_a_nan_stays_in_its_slot():
    hidden, weight, targets = inputs(torch.float32)
    clean = grads(linear_cross_entropy, hidden, weight, targets)
    broken = hidden.detach().clone()
    broken[1, 7] = torch.nan
    found = grads(linear_cross_entropy, broken.requires_grad_(), weight, targets)
    for ours, before in zip(found, clean, strict=True):
        assert torch.equal(ours[[0, 2]], before[[0, 2]])
        assert ours[1].isnan().any()


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32():
    hidden, weight, targets = inputs(torch.float32)
    exact = grads(linear_cross_entropy, hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = grads(linear_cross_entropy, hidden, weight, targets)
        plain_half = grads(plain, hidden, weight, targets)
    assert half[0].dtype == torch.float32
    for ours, theirs, truth in zip(half, plain_half, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - truth).norm() <= 1.2 * (theirs - truth).norm() + 1e-6 * truth.norm()


def test_the_logits_of_all_positions_are_never_held():
    positions, vocabulary = 2048, 8192
    hidden = torch.randn(1, positions, 32, requires_grad=True)
    weight = torch.randn(1, vocabulary, 32, requires_grad=True)
    targets = torch.zeros(1, positions, dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(hidden, weight, targets).backward()
    held = highest = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    assert 0 < highest <= positions * vocabulary * 4 / 5


@pytest.mark.parametrize(
    ("shapes", "integer"),
    [
        (((2, 5, 4), (3, 7, 4), (2, 5)), True),
        (((2, 5, 4), (2, 7, 3), (2, 5)), True),
        (((2, 5, 4), (2, 7, 4), (2, 6)), True),
        (((2, 5, 4), (4,), (2, 5)), True),
        (((2, 5, 4), (2, 7, 4), (2, 5)), False),
    ],
)
def test_what_does_not_fit_is_refused(shapes, integer):
    hidden, weight, targets = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="reshape them" if integer else "must be integer"):
        linear_cross_entropy(hidden, weight, targets.long() if integer else targets)
