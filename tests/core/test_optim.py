"""AdamW against its five lines written out, against torch's, and both forms of every optimizer against each other."""

import math
from itertools import chain
from typing import get_args

import pytest
import torch
from torch import nn

from lmcore.config import OptimConfig
from lmcore.optim import AdamW, adamw_coefficients, adamw_fused_, adamw_update_, adamw_update_slots_
from lmcore.optimizers import OPTIMIZERS

STEPS = 1000
RULES = {f"{name}, {part}": rule for name, rules in OPTIMIZERS.items() for part, rule in rules._asdict().items()}


def gradients(shape=(6, 4), dtype=torch.float64, seed=0):
    """Endless gradients of unit scale, the same for every caller."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator, dtype=dtype)


def train(optimizer, parameter, steps=STEPS, seed=0):
    for _, grad in zip(range(steps), gradients(parameter.shape, parameter.dtype, seed), strict=False):
        parameter.grad = grad
        optimizer.step()
    return parameter.detach()


def start(shape=(6, 4), dtype=torch.float64):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype))


def transcription(theta, lr, betas, eps, weight_decay):
    theta = theta.detach().clone()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t, g in zip(range(1, STEPS + 1), gradients(theta.shape), strict=False):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        alpha_t = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        theta = theta - alpha_t * m / (torch.sqrt(v) + eps)
        theta = theta - lr * weight_decay * theta
    return theta


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.5)])
@pytest.mark.parametrize(("lr", "weight_decay"), [(1e-3, 0.01), (3e-2, 0.1), (1e-3, 0.0)])
def test_a_thousand_steps_equal_the_five_lines(betas, lr, weight_decay):
    parameter = start()
    expected = transcription(parameter, lr, betas, 1e-8, weight_decay)
    result = train(AdamW([parameter], lr, betas, 1e-8, weight_decay), parameter)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95)])
def test_without_decay_it_equals_torch(betas):
    ours, theirs = start(), start()
    train(AdamW([ours], 1e-3, betas, weight_decay=0.0), ours)
    train(torch.optim.AdamW([theirs], 1e-3, betas, weight_decay=0.0), theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_with_decay_it_is_torchs_in_scaled_weights():
    lr, weight_decay = 3e-2, 0.1
    c = 1 - lr * weight_decay
    ours, theirs, same_start = start(), start(), start()
    with torch.no_grad():
        theirs.div_(c)
    result = train(AdamW([ours], lr, weight_decay=weight_decay), ours)
    scaled = c * train(torch.optim.AdamW([theirs], lr, weight_decay=weight_decay), theirs)
    torch.testing.assert_close(result, scaled, rtol=0, atol=2e-8)
    unscaled = train(torch.optim.AdamW([same_start], lr, weight_decay=weight_decay), same_start)
    assert 1e-3 < (result - unscaled).abs().max() < 1e-2  # as the docstring says


def test_coefficients_are_made_in_float64():
    c = adamw_coefficients(3e-3, (0.9, 0.999), 1e-8, 0.1, 3)
    step_size = 3e-3 * math.sqrt(1 - 0.999**3) / (1 - 0.9**3)
    assert c == pytest.approx((step_size, 0.9, 0.1, 0.999, 0.001, 1e-8, 3e-4), rel=1e-13)
    assert all(type(x) is float for x in c)


SHAPES = pytest.mark.parametrize("shape", [(1,), (37,), (64,), (5, 7), (33, 65)])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rows(K, step):
    """Different coefficients for each of K slots."""
    return [adamw_coefficients(1e-3 * (k + 1), (0.8 + k / 30, 0.99), 1e-8, k / 10, step + k) for k in range(K)]


def columns(rows, dtype, ndim):
    """The coefficients of K slots as tensors [K, 1, ...]."""
    return torch.tensor(rows, dtype=torch.float64).to(dtype).view(len(rows), -1, *[1] * ndim).unbind(1)


@SHAPES
@DTYPES
@pytest.mark.parametrize("K", [1, 2, 5])
def test_a_slot_updated_in_the_memory_of_a_population_is_bitwise_the_slot_alone(shape, K, dtype):
    generator = torch.Generator().manual_seed(0)
    population = [torch.randn(K, *shape, generator=generator, dtype=dtype), *torch.zeros(2, K, *shape, dtype=dtype)]
    alone = [[tensor[k].clone() for tensor in population] for k in range(K)]
    for step in range(1, 6):
        grad = torch.randn(K, *shape, generator=generator, dtype=dtype)
        for k, c in enumerate(rows(K, step)):
            param, m, v = (tensor[k] for tensor in population)
            adamw_update_(param, grad[k], m, v, c)
            adamw_update_(alone[k][0], grad[k].clone(), *alone[k][1:], c)
    for k in range(K):
        assert all(torch.equal(tensor[k], own) for tensor, own in zip(population, alone[k], strict=True))


@SHAPES
@DTYPES
@pytest.mark.parametrize("K", [1, 2, 5])
def test_a_slot_updated_at_once_with_others_is_bitwise_the_slot_alone(shape, K, dtype):
    generator = torch.Generator().manual_seed(0)
    population = [torch.randn(K, *shape, generator=generator, dtype=dtype), *torch.zeros(2, K, *shape, dtype=dtype)]
    alone = [[tensor[k : k + 1].clone() for tensor in population] for k in range(K)]
    for step in range(1, 6):
        grad = torch.randn(K, *shape, generator=generator, dtype=dtype)
        param, m, v = population
        adamw_update_slots_(param, grad, m, v, columns(rows(K, step), dtype, len(shape)))
        for k, (own_param, *own_state) in enumerate(alone):
            c = columns(rows(K, step)[k : k + 1], dtype, len(shape))
            adamw_update_slots_(own_param, grad[k : k + 1], *own_state, c)
    for k in range(K):
        assert all(torch.equal(tensor[k], own[0]) for tensor, own in zip(population, alone[k], strict=True))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_update_of_all_slots_at_once_is_the_textbook_update_to_rounding(rule):
    configs = [OptimConfig(weight_decay=0.1), OptimConfig(weight_decay=0.0, beta1=0.0), OptimConfig(beta2=0.999)]
    lrs = [3e-2, 0.0, 10.0]
    scale = torch.tensor([1.0, 0.5, 1.0])
    shapes = [(3, 6, 4), (3, 4, 6), (3, 6, 4)]
    generator = torch.Generator().manual_seed(0)
    at_once = [[torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]]
    at_once += [[torch.zeros_like(param) for param in at_once[0]] for _ in rule.state_names]
    by_slot = [[tensor.clone() for tensor in tensors] for tensors in at_once]
    for step in range(1, 31):
        grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        before = [grad.clone() for grad in grads]
        numbers = [rule.coefficients(optim, lr, step) for optim, lr in zip(configs, lrs, strict=True)]
        assert {len(row) for row in numbers} == {len(rule.coefficient_names)}
        params, *states = at_once
        c = torch.tensor(numbers, dtype=torch.float64).T
        rule.update_slots_([params, grads, *states], c, scale, [None] * 3, False)
        assert all(torch.equal(grad, old) for grad, old in zip(grads, before, strict=True))
        for k, (c, factor) in enumerate(zip(numbers, scale.tolist(), strict=True)):
            params, own, *states = ([tensor[k] for tensor in tensors] for tensors in (by_slot[0], grads, *by_slot[1:]))
            rule.update_([params, own, *states], c, factor)
    for ours, theirs in zip(chain(*at_once), chain(*by_slot), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_an_inactive_slot_keeps_every_bit(rule, value):
    params, *states = tensors = [[torch.full((2, 5, 3), value)] for _ in range(1 + len(rule.state_names))]
    c = torch.tensor([rule.coefficients(OptimConfig(), 1e-3, 1)] * 2).T
    grads = [torch.full((2, 5, 3), math.nan)]
    rule.update_slots_([params, grads, *states], c, torch.ones(2), [torch.tensor([True, False])], False)
    expected = torch.full((5, 3), value).view(torch.int32)
    assert all(torch.equal(tensor[1].view(torch.int32), expected) for (tensor,) in tensors)
    assert params[0][0].isnan().all()


def test_a_run_may_name_exactly_the_optimizers_that_there_are():
    assert get_args(OptimConfig.model_fields["name"].annotation) == tuple(OPTIMIZERS)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize(("lr", "weight_decay"), [(3e-2, 0.1), (1e-3, 0.0), (0.0, 0.1), (10.0, 0.1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_fused_update_is_the_textbook_update_to_rounding(dtype, tolerance, lr, weight_decay, scale):
    exact = [start().detach(), *torch.zeros(2, 6, 4, dtype=torch.float64)]
    fused = [tensor.to(dtype).clone() for tensor in exact]
    for t, grad in zip(range(1, 31), gradients(), strict=False):
        c = adamw_coefficients(lr, (0.9, 0.999), 1e-8, weight_decay, t)
        param, m, v = exact
        adamw_update_(param, grad * scale, m, v, c)
        param, m, v = fused
        adamw_fused_([param], [grad.to(dtype)], [m], [v], c, scale)
    for ours, truth in zip(fused, exact, strict=True):
        assert (ours.double() - truth).norm() <= tolerance * truth.norm()


def test_a_nan_stays_in_its_slot_and_the_gradient_is_left_alone():
    param, m, v = torch.ones(3, 4), torch.zeros(3, 4), torch.zeros(3, 4)
    grad = torch.ones(3, 4)
    grad[1] = float("nan")
    before = grad.clone()
    adamw_update_(param, grad, m, v, adamw_coefficients(1e-3, (0.9, 0.999), 1e-8, 0.1, 1))
    assert param.isnan().any(dim=1).tolist() == [False, True, False]
    torch.testing.assert_close(grad, before, rtol=0, atol=0, equal_nan=True)


def test_zero_gradient_and_zero_decay_leave_a_fresh_parameter_as_it_is():
    param = torch.randn(8, generator=torch.Generator().manual_seed(0))
    before = param.clone()
    adamw_update_(
        param, torch.zeros(8), torch.zeros(8), torch.zeros(8), adamw_coefficients(1.0, (0.9, 0.99), 1e-8, 0.0, 1)
    )
    assert torch.equal(param, before)


def test_state_survives_a_file_and_goes_on_bitwise(tmp_path):
    through, interrupted = start(), start()
    train(AdamW([through], 1e-2), through, steps=10)
    first = AdamW([interrupted], 1e-2)
    grads = gradients()
    for _ in range(4):
        interrupted.grad = next(grads)
        first.step()
    torch.save({"model": interrupted.data, "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = nn.Parameter(saved["model"])
    second = AdamW([resumed], 0.5)
    second.load_state_dict(saved["optimizer"])
    assert second.param_groups[0]["lr"] == 1e-2
    assert second.state[resumed]["step"] == 4
    for _ in range(6):
        resumed.grad = next(grads)
        second.step()
    assert torch.equal(resumed, through)


def test_groups_have_hyperparameters_of_their_own():
    decayed, plain = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = AdamW([{"params": [decayed], "weight_decay": 0.5}, {"params": [plain]}], lr=0.1, weight_decay=0.0)
    for parameter in (decayed, plain):
        parameter.grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(decayed.data, torch.full((3,), 0.95))
    assert torch.equal(plain, torch.ones(3))


def test_parameters_without_a_gradient_are_skipped():
    frozen = nn.Parameter(torch.ones(3))
    optimizer = AdamW([frozen], weight_decay=0.5)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3))
    assert not optimizer.state


def test_torchs_schedulers_drive_it():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = AdamW([parameter], lr=1.0, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    moved = []
    for _ in range(3):
        before = parameter.item()
        parameter.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        moved.append(before - parameter.item())
    assert moved == pytest.approx([1.0, 0.5, 0.25], rel=1e-5)  # a constant gradient moves by the learning rate


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = AdamW([parameter], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert parameter.item() < 2
    assert optimizer.step() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1e-3},
        {"lr": float("nan")},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
    ],
)
def test_hyperparameters_out_of_range_are_refused_as_torch_does(wrong):
    with pytest.raises(ValueError, match="Invalid"):
        AdamW([nn.Parameter(torch.zeros(1))], **wrong)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        AdamW(embedding.parameters()).step()


def test_an_ordinary_module_learns():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
