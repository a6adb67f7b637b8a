"""Parts of the model by hand: equal to their plain forms in float64, and bitwise the same in any company of slots."""

import pytest
import torch

from lmcore.kernels.rms_norm import plain_rms_norm, rms_norm
from lmcore.kernels.swiglu import CHUNK, WHOLE, plain_swiglu, swiglu
from lmcore.rotary import in_pairs, interleaved_to_half, rope_tables, rotary_of, rotate, turn

SLOTS, POSITIONS, WIDTH, HIDDEN = 3, 384, 64, 800  # several chunks, the last of which is shorter
KERNELS = {
    "norm": (lambda *t: rms_norm(*t, 1e-5), lambda *t: plain_rms_norm(*t, 1e-5), [(WIDTH,)]),
    "swiglu": (swiglu, plain_swiglu, [(HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN)]),
}


def inputs(name, dtype, slots=SLOTS):
    generator = torch.Generator().manual_seed(0)
    shapes = [(POSITIONS, WIDTH), *KERNELS[name][2], (POSITIONS, WIDTH)]
    return [torch.randn(slots, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def both_ways(function, tensors):
    """The result for all tensors but the last, and their gradients for that upstream gradient."""
    *tensors, upstream = (tensor.clone() for tensor in tensors)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    result = function(*tensors)
    result.backward(upstream)
    return [result.detach(), *(tensor.grad for tensor in tensors)]


def test_the_feed_forward_network_of_these_tests_has_several_chunks():
    assert POSITIONS * HIDDEN > WHOLE
    assert POSITIONS * HIDDEN % CHUNK


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_equals_its_plain_form_in_float64(name):
    by_hand, plain, _ = KERNELS[name]
    tensors = inputs(name, torch.float64)
    for mine, reference in zip(both_ways(by_hand, tensors), both_ways(plain, tensors), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12 * float(reference.abs().max()))


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_in_float32_is_as_close_to_float64_as_its_plain_form(name):
    by_hand, plain, _ = KERNELS[name]
    exact = both_ways(plain, inputs(name, torch.float64))
    tensors = inputs(name, torch.float32)
    for mine, theirs, truth in zip(both_ways(by_hand, tensors), both_ways(plain, tensors), exact, strict=True):
        scale = float(truth.abs().max())
        assert float((mine - truth).abs().max()) / scale < 1e-6
        assert float((mine - truth).abs().max()) < 2 * float((theirs - truth).abs().max()) + 1e-7 * scale


@pytest.mark.parametrize("name", KERNELS)
def test_a_slot_is_bitwise_the_same_alone_and_in_company(name):
    tensors = inputs(name, torch.float32)
    together = both_ways(KERNELS[name][0], tensors)
    for slot in range(SLOTS):
        alone = both_ways(KERNELS[name][0], [tensor[slot : slot + 1] for tensor in tensors])
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[slot])


@pytest.mark.parametrize("name", KERNELS)
def test_a_slot_of_nan_spoils_no_other(name):
    tensors = inputs(name, torch.float32)
    clean = both_ways(KERNELS[name][0], tensors)
    tensors[0][1] = torch.nan
    for before, after in zip(clean, both_ways(KERNELS[name][0], tensors), strict=True):
        assert after[1].isnan().any()
        assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_turns_of_neighbours_are_rotations_of_pairs_that_lie_half_a_head_apart():
    windows, time, heads, dim = 2, 10, 3, 8
    generator = torch.Generator().manual_seed(0)
    tables = rope_tables(time, dim, 10_000.0)
    weight = torch.randn(1, heads * dim, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(windows * time, 5, generator=generator, dtype=torch.float64)
    half = (x @ weight[0].T).view(windows, time, heads, dim).transpose(1, 2)
    pairs = (x @ in_pairs(weight, dim)[0].T).view(windows, time, heads * dim)
    turned = turn(pairs, rotary_of(*tables, heads + 2).turns)  # tables of more heads than there are
    expected = in_pairs(rotate(half, *tables).transpose(1, 2).flatten(2).flatten(0, 1).T[None], dim)[0].T
    torch.testing.assert_close(turned, expected.view(windows, time, heads * dim))


def test_ordering_in_pairs_is_undone_by_the_order_of_checkpoints():
    weight = torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(0))
    for slot, ordered in zip(weight, in_pairs(weight, 8), strict=True):
        assert torch.equal(interleaved_to_half(ordered, 3), slot)
