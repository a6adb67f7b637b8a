"""Throughput is measured on the real device, up to the slot count that gains or memory allow."""

import itertools
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.measure import throughput
from lmcore.measure.slot_count import MIN_GAIN
from lmcore.measure.throughput import is_out_of_memory, measure_at, measure_doubling
from lmcore.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
TINY = RunSpec(
    model=ModelConfig(vocab_size=97, d_model=32, num_layers=1, num_heads=2, d_ff=64, context_length=16),
    train=TrainConfig(steps=5, batch_size=4, device="cpu"),
)


def test_doubling_ends_at_the_first_gain_below_ten_percent(small_tokens):
    before = torch.random.get_rng_state()
    measured = measure_doubling(TINY, small_tokens, memory_bytes=2**40, max_slots=16)
    assert [p.slots for p in measured] == [2**n for n in range(len(measured))]
    assert all(p.gain >= MIN_GAIN for p in measured[1:-1])
    assert measured[-1].gain < MIN_GAIN or measured[-1].slots == 16
    assert all(0 < p.tokens_per_s < 1e9 for p in measured)
    assert all(p.peak_bytes > 2**20 for p in measured)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_gain_is_the_median_ratio_of_alternating_updates_so_that_other_load_cancels(monkeypatch, small_tokens):
    busy = itertools.cycle([1.0, 1.0, 0.01, 1.0, 0.3])  # share of the machine that is left, pair by pair

    class Scripted:
        def __init__(self, run, tokens, slots):
            self.slots, self.bytes = slots, 1

        def tokens_per_s(self):
            Scripted.share = next(busy) if self.slots == 1 else Scripted.share
            return Scripted.share * {1: 100.0, 2: 150.0, 4: 152.0}[self.slots]

    monkeypatch.setattr(throughput, "_Probe", Scripted)
    monkeypatch.setattr(throughput, "MIN_SECONDS", 0.0)
    first, second = measure_at(TINY, small_tokens, 2)
    assert (first.slots, second.slots, second.gain) == (1, 2, 1.5)


def test_throughput_counts_the_tokens_of_all_slots(small_tokens):
    """Reference: the wall clock around updates of the same population, in turn with what is measured."""
    wide = TINY.model_copy(update={"train": TrainConfig(steps=50, batch_size=4, eval_every=50, eval_windows=1)})
    ratios = []
    for _ in range(5):  # the machine may be busy in some of them
        trainer = Trainer([wide] * 4, small_tokens)
        began = time.perf_counter()
        trainer.advance(batched=True)
        by_the_clock = 4 * 50 * wide.tokens_per_step / (time.perf_counter() - began)
        ratios.append(measure_at(wide, small_tokens, 4)[1].tokens_per_s / by_the_clock)
    assert 0.4 < statistics.median(ratios) < 2.5


def test_doubling_ends_before_memory_would_be_exceeded(small_tokens):
    """Two slot counts may be measured before the memory per slot is known, but no more."""
    assert [p.slots for p in measure_doubling(TINY, small_tokens, memory_bytes=1)] in ([1], [1, 2])


@contextmanager
def _capture():
    """As torch.cuda.graph ends when its body raises."""
    try:
        yield
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def test_out_of_memory_is_distinguished_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="capture") as error, _capture():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


OUT_OF_MEMORY = """
import resource
import numpy as np
import torch
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.measure.throughput import measure_doubling, measure_at
from lmcore.corpus.tokens import Tokens

torch.set_num_threads(1)
ids = np.arange(6000) % 61
tokens = Tokens.of(ids[:4000], ids[4000:], 61)
# Embedding and head are 4096 x 256 x 4 bytes = 4 MiB each, with gradients and moments 32 MiB a slot.
model = ModelConfig(vocab_size=4096, d_model=256, num_layers=1, num_heads=2, d_ff=16, context_length=64)
run = RunSpec(model=model, train=TrainConfig(steps=5, batch_size=1, device="cpu"))
measure_at(run, tokens, 1)  # loads and allocates everything that is needed once per process
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 225 * 2**20, resource.RLIM_INFINITY))
import lmcore.measure.throughput
lmcore.measure.throughput.MIN_GAIN = 0.0  # so that only memory ends the doubling
print([p.slots for p in measure_doubling(run, tokens, memory_bytes=2**50)])
torch.empty(64 * 2**20, dtype=torch.uint8)  # all memory was freed again
"""


def test_doubling_ends_when_memory_runs_out():
    """The address space is limited so that one slot fits, but not eight of 32 MiB and more."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY],
        cwd=ROOT,
        env={"MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"[1]", "[1, 2]", "[1, 2, 4]"}
