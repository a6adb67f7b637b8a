"""Batches: uniform, shifted by one, and a pure function of (seed, step)."""

import numpy as np
import pytest
import torch

from lmcore.corpus.windows import final_window_count, window_starts
from lmcore.data import get_batch, validation_batches, validation_windows

TOKENS = np.arange(100, dtype=np.uint16)  # a window's first token is its start


def starts(tokens, batch_size, context_length, seed, step):
    x, _ = get_batch(tokens, batch_size, context_length, "cpu", seed, step)
    return x[:, 0].tolist()


def test_y_is_x_shifted_by_one_and_both_are_windows_of_the_tokens():
    x, y = get_batch(TOKENS, 32, 7, "cpu", seed=0, step=0)
    assert x.shape == y.shape == (32, 7)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert torch.equal(x, x[:, :1] + torch.arange(7))
    assert torch.equal(y, x + 1)


def test_every_start_is_equally_likely():
    num_starts, draws = 100 - 7, 1000 * 93
    found = np.bincount([s for step in range(93) for s in starts(TOKENS, 1000, 7, 3, step)], minlength=num_starts)
    assert len(found) == num_starts  # 0..len - T - 1, none beyond
    expected = draws / num_starts
    chi_square = ((found - expected) ** 2 / expected).sum()
    # 92 degrees of freedom: mean 92, standard deviation 13.6.
    assert 92 - 4 * 13.6 < chi_square < 92 + 4 * 13.6


def test_a_batch_depends_on_seed_and_step_only():
    batches = {key: starts(TOKENS, 16, 7, *key) for key in [(0, 0), (0, 1), (1, 0), (0, 2**40), (2**62, 0)]}
    assert len({tuple(batch) for batch in batches.values()}) == len(batches)
    np.random.seed(7)  # not on global state, nor on the order of calls
    torch.manual_seed(7)
    for key in reversed(batches):
        assert starts(TOKENS, 16, 7, *key) == batches[key]


def test_batches_never_change():
    # Golden: a change here makes every finished run incomparable with new ones.
    assert starts(TOKENS, 8, 7, seed=0, step=0) == [56, 10, 92, 5, 18, 91, 48, 16]
    assert starts(TOKENS, 8, 7, seed=1, step=200) == [5, 89, 78, 15, 54, 43, 57, 43]


def test_the_kind_of_array_does_not_matter(tmp_path):
    path = tmp_path / "tokens.bin"
    TOKENS.tofile(path)
    expected = get_batch(TOKENS, 16, 7, "cpu", 0, 5)
    frozen = TOKENS.copy()
    frozen.setflags(write=False)
    for tokens in (
        np.memmap(path, np.uint16, mode="r"),
        frozen,
        TOKENS.astype(np.int64),
        TOKENS.astype(">u4"),
        torch.from_numpy(TOKENS.astype(np.int64)),
        torch.from_numpy(TOKENS.copy()),
    ):
        x, y = get_batch(tokens, 16, 7, "cpu", 0, 5)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x, expected[0])
        assert torch.equal(y, expected[1])


def test_large_ids_survive():
    tokens = np.array([2**32 - 1, 2**31], dtype=np.uint32)
    x, y = get_batch(tokens, 1, 1, "cpu", 0, 0)
    assert (x.item(), y.item()) == (2**32 - 1, 2**31)


def test_one_window_is_enough_and_fewer_tokens_are_refused():
    x, y = get_batch(TOKENS[:8], 4, 7, "cpu", 0, 0)
    assert torch.equal(x, torch.arange(7).expand(4, 7))
    assert torch.equal(y, torch.arange(1, 8).expand(4, 7))
    for make in (lambda: get_batch(TOKENS[:7], 4, 7, "cpu", 0, 0), lambda: validation_windows(TOKENS[:7], 7, 4)):
        with pytest.raises(ValueError, match="context_length \\+ 1 = 8, but there are 7"):
            make()


def test_device_that_is_not_there_is_an_error():
    with pytest.raises((RuntimeError, AssertionError), match=r"CUDA|cuda"):
        get_batch(TOKENS, 4, 7, "cuda:99", 0, 0)


@pytest.mark.gpu
def test_batch_on_a_gpu_is_that_of_the_cpu():
    expected = get_batch(TOKENS, 16, 7, "cpu", 0, 5)
    for tokens in (TOKENS, torch.from_numpy(TOKENS.astype(np.int64)).cuda()):
        x, y = get_batch(tokens, 16, 7, "cuda", 0, 5)
        assert x.device.type == y.device.type == "cuda"
        assert torch.equal(x.cpu(), expected[0])
        assert torch.equal(y.cpu(), expected[1])


@pytest.mark.parametrize("count", [8, 9, 15, 50, 100])
@pytest.mark.parametrize("num_windows", [1, 2, 5, 64])
def test_validation_windows_are_even_and_do_not_overlap(count, num_windows):
    x, y = validation_windows(TOKENS[:count], 7, num_windows)
    num_windows = min(num_windows, (count - 1) // 7)
    assert x.shape == y.shape == (num_windows, 7)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert y.max() < count
    gaps = x[:, 0].diff()
    assert (gaps >= 7).all()
    assert len(gaps.unique()) <= 1
    again, _ = validation_windows(TOKENS[:count], 7, num_windows)
    assert torch.equal(x, again)


def test_validation_windows_of_a_tensor_are_those_of_the_array():
    for ours, theirs in zip(
        validation_windows(TOKENS, 7, 4),
        validation_windows(torch.from_numpy(TOKENS.astype(np.int64)), 7, 4),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batch_size", [1, 4, 13, 20])
def test_validation_batches_are_the_windows_in_equal_shapes_one_batch_at_a_time(batch_size):
    x, y = validation_windows(TOKENS, 7, 13)
    batches = list(validation_batches(TOKENS, 7, 13, batch_size, "cpu"))
    assert len(batches) == -(-13 // batch_size)
    assert {part.shape for batch in batches for part in batch} == {(batch_size, 7)}
    for parts, whole in zip(zip(*batches, strict=True), (x, y), strict=True):
        joined = torch.cat(parts)
        assert torch.equal(joined[:13], whole)
        assert torch.equal(joined[13:], whole[-1:].expand(len(joined) - 13, 7))
    with pytest.raises(ValueError, match="but there are 7"):
        next(validation_batches(TOKENS[:7], 7, 1, 1, "cpu"))


def test_validation_windows_begin_at_the_starts_that_the_documents_are_looked_up_for():
    for count in (8, 50, 100):
        x, _ = validation_windows(TOKENS[:count], 7, 5)
        assert x[:, 0].tolist() == window_starts(count, 7, 5).tolist()


@pytest.mark.parametrize(
    ("asked", "training_tokens", "val_tokens", "expected"),
    [
        ("auto", 100 * 8 * 10, 10**6, 120),  # 15 % of the 800 windows trained on
        ("auto", 100 * 8 * 10 + 66, 10**6, 120),  # 120.99: rounded down
        ("auto", 100 * 8 * 10 + 67, 10**6, 121),
        ("auto", 8 * 10, 10**6, 48),  # no fewer than eval_windows
        ("auto", 10**9, 1000, 99),  # no more than there are
        ("auto", 10, 101, 10),  # eval_windows' real number
        (5, 10**9, 10**6, 5),
        (500, 10, 1001, 100),
    ],
)
def test_the_final_windows_cost_at_most_a_twentieth_of_the_training(asked, training_tokens, val_tokens, expected):
    found = final_window_count(asked, 48, training_tokens, context_length=10, val_tokens=val_tokens)
    assert found == expected
    if asked == "auto" and found > 48:
        forward, both = 1, 3  # FLOPs of a token
        assert found * 10 * forward <= 0.05 * training_tokens * both
