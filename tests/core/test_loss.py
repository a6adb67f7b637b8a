"""Cross-entropy against torch's, its gradient against finite differences, and its promise about memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmcore.loss import cross_entropy, token_nll


def batch(*shape, dtype=torch.float32, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(shape[-1], shape[:-1], generator=generator)
    return logits.to(dtype).requires_grad_(), targets


def torchs(logits, targets):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long())


def value_and_gradient(function, logits, targets):
    value = function(logits, targets)
    return value.detach(), torch.autograd.grad(value, logits)[0]


TOLERANCES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 31), (2, 3, 4, 97), (1, 1, 1), (3, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_it_equals_torch_for_any_leading_dimensions(shape, dtype, tolerance):
    logits, targets = batch(*shape, dtype=dtype)
    value, gradient = value_and_gradient(cross_entropy, logits, targets)
    expected, expected_gradient = value_and_gradient(torchs, logits, targets)
    assert value.shape == ()
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_it_equals_torch_and_stays_finite_for_logits_a_thousand_times_as_large(dtype, tolerance):
    logits, targets = batch(64, 97, dtype=dtype, scale=3000.0)
    value, gradient = value_and_gradient(cross_entropy, logits, targets)
    expected, expected_gradient = value_and_gradient(torchs, logits, targets)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logits_of_ten_thousand_give_the_closed_form(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1, 0, 2])
    big = logits.detach()[0, 0].item()  # 1e4 as the type can hold it
    nll = token_nll(logits, targets)
    torch.testing.assert_close(nll, torch.tensor([2 * big, math.log(2), math.log(3)], dtype=nll.dtype))
    expected = torch.tensor([[1, -1, 0], [-1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, -2 / 3]], dtype=dtype)
    torch.testing.assert_close(torch.autograd.grad(nll.sum(), logits)[0], expected)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    assert cross_entropy(torch.zeros(4, 1000), torch.arange(4)).item() == pytest.approx(math.log(1000), rel=1e-6)


def test_token_nll_is_the_loss_of_each_position():
    logits, targets = batch(2, 3, 4, 31, dtype=torch.float64)
    expected = -torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_nll(logits, targets), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_passes_gradcheck():
    logits, targets = batch(3, 2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: token_nll(x, targets), logits)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, targets = batch(2, 32, 101, dtype=dtype)
    value, gradient = value_and_gradient(cross_entropy, logits, targets)
    wide = logits.detach().float().requires_grad_()
    expected, expected_gradient = value_and_gradient(torchs, wide, targets)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


def test_logits_of_any_stride_will_do():
    logits = batch(31, 4, 6)[0].detach().permute(2, 1, 0).requires_grad_()
    targets = batch(4, 31)[1].expand(6, 4)
    value, gradient = value_and_gradient(cross_entropy, logits, targets)
    expected, expected_gradient = value_and_gradient(torchs, logits, targets)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


def test_backward_twice_gives_the_same_gradient_and_leaves_the_logits_alone():
    logits, targets = batch(6, 31)
    before = logits.detach().clone()
    loss = cross_entropy(logits, targets)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)
    assert torch.equal(logits, before)


def test_there_is_no_second_derivative():
    logits, targets = batch(6, 31)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_stays_in_its_row(dtype):
    logits, targets = batch(5, 31, dtype=dtype)
    broken = logits.detach().clone()
    broken[2, 7] = float("nan")
    broken.requires_grad_()
    clean, clean_nll = token_nll(logits, targets), token_nll(broken, targets)
    gradient = torch.autograd.grad(clean_nll.sum(), broken)[0]
    expected = torch.autograd.grad(clean.sum(), logits)[0]
    others = [0, 1, 3, 4]
    assert clean_nll.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(clean_nll[others], clean[others])
    assert torch.equal(gradient[others], expected[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("V", [97, 256])
def test_a_slot_of_a_population_is_bitwise_the_slot_alone(dtype, V):
    logits, targets = batch(5, 64, V, dtype=dtype)
    nll = token_nll(logits, targets)
    (gradient,) = torch.autograd.grad(nll.mean(1).sum(), logits)
    for k in range(5):
        alone = logits.detach()[k : k + 1].clone().requires_grad_()
        nll_alone = token_nll(alone, targets[k : k + 1])
        assert torch.equal(nll[k : k + 1], nll_alone)
        assert torch.equal(gradient[k : k + 1], torch.autograd.grad(nll_alone.mean(1).sum(), alone)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_targets_of_any_integer_type_will_do(dtype):
    logits, targets = batch(4, 6, 31)
    assert torch.equal(cross_entropy(logits, targets.to(dtype)), cross_entropy(logits, targets))


def test_input_that_does_not_fit_is_refused():
    logits, targets = batch(4, 6, 31)
    for wrong in (targets[0], targets.T, targets[..., None], targets[:, :5]):
        with pytest.raises(ValueError, match=r"logits are \[4, 6, 31\]"):
            cross_entropy(logits, wrong)
    for wrong in (targets.float(), targets > 3):
        with pytest.raises(ValueError, match="integer"):
            cross_entropy(logits, wrong)
    for outside in (31, -1, -100):
        with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
            cross_entropy(logits, torch.full_like(targets, outside))


def test_it_compiles_as_one_graph_and_gives_the_same_numbers():
    torch._dynamo.reset()
    logits, targets = batch(8, 31)
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    value, gradient = value_and_gradient(compiled, logits, targets)
    expected, expected_gradient = value_and_gradient(cross_entropy, logits, targets)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


class LiveTensors(TorchDispatchMode):
    """Counts the storages of at least `numel` elements that are made while it is on: the most alive at any time."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.refs, self.peak = numel, {}, 0

    def watch(self, tensor):
        self.refs[tensor.untyped_storage()._cdata] = StorageWeakRef(tensor.untyped_storage())

    @property
    def live(self):
        self.refs = {key: ref for key, ref in self.refs.items() if not ref.expired()}
        return len(self.refs)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.numel() >= self.numel and x.untyped_storage()._cdata not in given:
                self.watch(x)
        self.peak = max(self.peak, self.live)
        return result


def live_tensors(function, dtype):
    """Logits-sized tensors besides the logits: (peak of forward, kept for backward, peak of backward)."""
    logits, targets = batch(16, 128, dtype=dtype)
    with LiveTensors(logits.numel()) as tensors:
        loss = function(logits, targets)
        forward, kept, tensors.peak = tensors.peak, tensors.live, 0
        torch.autograd.grad(loss, logits)
    return forward, kept, tensors.peak


def test_one_logits_sized_tensor_is_alive_besides_the_logits():
    assert live_tensors(cross_entropy, torch.float32) == (1, 0, 1)
    assert live_tensors(torchs, torch.float32) == (1, 1, 3)  # the count sees what torch's keeps


def test_half_precision_adds_nothing_but_the_gradient_in_its_own_type():
    assert live_tensors(cross_entropy, torch.bfloat16) == (1, 0, 2)
