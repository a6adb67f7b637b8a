"""The schedule against a transcription of its definition, at every branch and both joints."""

import math
from typing import get_args

import pytest
import torch

from lmcore.config import OptimConfig, RunSpec, TrainConfig
from lmcore.population.slot import Slot
from lmcore.schedule import SCHEDULES, Phases, cosine_lr


def definition(t, max_lr, min_lr, t_w, t_c):
    if t < t_w:
        return t / t_w * max_lr
    if t <= t_c and t_c > t_w:
        return min_lr + 1 / 2 * (1 + math.cos((t - t_w) / (t_c - t_w) * math.pi)) * (max_lr - min_lr)
    return max_lr if t == t_c else min_lr


SHAPES = [(7, 21), (0, 10), (5, 5), (0, 0), (1, 2), (3, 100)]


@pytest.mark.parametrize(("t_w", "t_c"), SHAPES)
def test_numbers_follow_the_definition_at_every_step(t_w, t_c):
    for t in range(t_c + 5):
        lr = cosine_lr(t, 3e-3, 3e-4, t_w, t_c)
        assert isinstance(lr, float)
        assert lr == pytest.approx(definition(t, 3e-3, 3e-4, t_w, t_c), rel=1e-15)


@pytest.mark.parametrize(("t_w", "t_c"), SHAPES)
def test_a_tensor_of_steps_follows_the_definition(t_w, t_c):
    steps = torch.arange(t_c + 5, dtype=torch.float64)
    expected = [definition(t, 3e-3, 3e-4, t_w, t_c) for t in range(t_c + 5)]
    torch.testing.assert_close(
        cosine_lr(steps, 3e-3, 3e-4, t_w, t_c), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_the_joints_and_the_ends():
    assert cosine_lr(0, 1.0, 0.1, 7, 21) == 0
    assert cosine_lr(7, 1.0, 0.1, 7, 21) == pytest.approx(1.0)  # warm-up meets cosine at the maximum
    assert cosine_lr(14, 1.0, 0.1, 7, 21) == pytest.approx(0.55)  # half way down
    assert cosine_lr(21, 1.0, 0.1, 7, 21) == pytest.approx(0.1)  # cosine meets the constant
    assert cosine_lr(22, 1.0, 0.1, 7, 21) == 0.1
    assert cosine_lr(10**9, 1.0, 0.1, 7, 21) == 0.1


def test_without_warmup_the_first_step_has_the_maximum():
    assert cosine_lr(0, 1.0, 0.1, 0, 10) == pytest.approx(1.0)


def test_a_cosine_of_no_length_is_a_step_down_after_the_maximum():
    assert [cosine_lr(t, 1e-2, 1e-3, 5, 5) for t in (4, 5, 6)] == [pytest.approx(0.8e-2), 1e-2, 1e-3]


def test_one_learning_rate_per_slot_from_tensors_of_every_argument():
    arguments = [
        (3.0, 1.0, 0.1, 7.0, 21.0),
        (9.0, 2.0, 0.0, 0.0, 30.0),
        (5.0, 3.0, 0.3, 5.0, 5.0),
        (8.0, 4.0, 0.4, 2.0, 6.0),
    ]
    columns = torch.tensor(arguments, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(
        cosine_lr(*columns), torch.tensor([definition(*row) for row in arguments], dtype=torch.float64)
    )


@pytest.mark.parametrize("position", range(5))
def test_one_tensor_among_numbers_gives_a_tensor(position):
    arguments = [9, 1.0, 0.1, 4, 20]
    expected = cosine_lr(*arguments)
    arguments[position] = torch.tensor([arguments[position]], dtype=torch.float64)
    result = cosine_lr(*arguments)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, torch.tensor([expected], dtype=torch.float64))


def test_arguments_broadcast():
    steps, maxima = torch.arange(6.0).view(6, 1), torch.tensor([1.0, 2.0, 3.0])
    result = cosine_lr(steps, maxima, 0.0, 2, 5)
    assert result.shape == (6, 3)
    torch.testing.assert_close(result[:, 1], 2 * result[:, 0])


def test_integer_tensors_give_the_default_floating_type():
    result = cosine_lr(torch.arange(4), 1e-3, 1e-4, 2, 4)
    assert result.dtype == torch.get_default_dtype()
    torch.testing.assert_close(result, torch.tensor([definition(t, 1e-3, 1e-4, 2, 4) for t in range(4)]))


@pytest.mark.parametrize(("t_w", "t_c"), SHAPES)
def test_gradients_are_finite_everywhere(t_w, t_c):
    for t in range(t_c + 3):
        arguments = [torch.tensor(float(x), requires_grad=True) for x in (t, 1.0, 0.1, t_w, t_c)]
        lr = cosine_lr(*arguments)
        gradients = torch.autograd.grad(lr, arguments)
        assert all(torch.isfinite(gradient) for gradient in (lr, *gradients))


def test_no_value_is_read_back_from_the_device():
    meta = torch.empty(3, device="meta")  # it holds no values: reading one raises
    assert cosine_lr(meta, 1.0, meta, 2, meta).shape == (3,)


def hugging_face(name, phases, min_lr_ratio):
    """Its function from the update to a factor of the maximum."""
    import transformers.optimization as hf

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if name == "constant":
        return hf.get_constant_schedule_with_warmup(optimizer, phases.warmup).lr_lambdas[0]
    if name == "linear":
        return hf.get_linear_schedule_with_warmup(optimizer, phases.warmup, phases.steps).lr_lambdas[0]
    if name == "cosine":
        return hf.get_cosine_schedule_with_warmup(optimizer, phases.warmup, phases.steps).lr_lambdas[0]
    return hf.get_wsd_schedule(
        optimizer,
        num_warmup_steps=phases.warmup,
        num_decay_steps=phases.decay,
        num_training_steps=phases.steps,
        min_lr_ratio=min_lr_ratio,
        decay_type="1-sqrt",
    ).lr_lambdas[0]


@pytest.mark.parametrize("phases", [Phases(5, 8, 40), Phases(0, 40, 40), Phases(10, 30, 40), Phases(3, 1, 40)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_that_of_hugging_face(name, phases):
    min_lr_ratio = 0.1 if name == "wsd" else 0.0  # the only one of theirs that does not end at 0
    theirs = hugging_face(name, phases, min_lr_ratio)
    first = phases.warmup if name == "wsd" else 1  # theirs warms up from the minimum
    for step in range(max(first, 1), phases.steps + 1):
        lr = SCHEDULES[name](step, 3e-3, 3e-3 * min_lr_ratio, phases)
        assert lr == pytest.approx(3e-3 * theirs(step), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_ends_at_its_minimum_but_the_constant_one(name):
    phases = Phases(2, 3, 10)
    assert SCHEDULES[name](10, 1.0, 0.25, phases) == (1.0 if name == "constant" else 0.25)
    assert SCHEDULES[name](11, 1.0, 0.25, phases) == 0.25


def test_wsd_decays_after_warm_up_if_both_do_not_fit():
    lrs = [SCHEDULES["wsd"](step, 1.0, 0.0, Phases(6, 8, 10)) for step in range(1, 11)]
    assert lrs[5] == max(lrs) == 1.0
    assert lrs[6:] == [pytest.approx(1 - math.sqrt(n / 4)) for n in (1, 2, 3, 4)]


def test_a_run_has_the_schedule_that_it_names():
    optim = OptimConfig(schedule="wsd", lr=1.0, min_lr_ratio=0.0, warmup_fraction=0.1, decay_fraction=0.4)
    slot = Slot(RunSpec(optim=optim, train=TrainConfig(steps=10)))
    assert [slot.lr(step) for step in (1, 6, 7, 10)] == [1.0, 1.0, 0.5, 0.0]


def test_a_run_may_name_exactly_the_schedules_that_there_are():
    assert get_args(OptimConfig.model_fields["schedule"].annotation) == tuple(SCHEDULES)
