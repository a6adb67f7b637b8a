"""The estimate of a trial's memory against the peak of a real run, and the difference that seeds can detect."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.measure.detectable import detectable_difference
from lmcore.memory import FACTOR, estimate_memory
from lmcore.model import TransformerLM
from lmcore.population.population import Population

ROOT = Path(__file__).parents[2]
# In a process of its own, because memory that an earlier test has freed would not be measured.
PEAK = """
import numpy as np
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.measure.throughput import _MemoryMeter, _Probe
def peak(run):
    ids = np.random.default_rng(0).integers(0, run.model.vocab_size, 9000)
    memory = _MemoryMeter(run)
    probe = _Probe(run, Tokens.of(ids, ids, run.model.vocab_size), 1)
    for _ in range(3):  # the heap gets gaps with every update at first
        probe.tokens_per_s()
    return memory.peak_bytes() - memory.start_bytes
train = TrainConfig(device="cpu", dtype={dtype!r}, threads=1, **{train!r})
small = dict(vocab_size=16, d_model=16, num_heads=1, d_ff=16)
peak(RunSpec(model=ModelConfig(**small), train=train))  # loads the libraries
print(peak(RunSpec(model=ModelConfig(**{model!r}), train=train)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a process's peak memory")
@pytest.mark.parametrize(
    ("dtype", "model", "train"),
    [
        ("float32", {"d_model": 256, "d_ff": 704, "num_layers": 3}, {}),
        ("bfloat16", {"d_model": 256, "d_ff": 1024, "num_layers": 3, "ffn": "gelu", "vocab_size": 8192}, {}),
        ("float32", {"d_model": 256, "num_layers": 3, "num_kv_heads": 1, "qk_norm": True, "dropout": 0.1}, {}),
        ("float32", {"d_model": 256, "d_ff": 704, "num_layers": 4}, {"batch_size": 32, "micro_batch_size": 8}),
    ],
    ids=["float32", "bfloat16", "shared keys, norms of heads, dropout", "micro batches"],
)
def test_the_estimate_is_within_its_factor_of_the_peak_of_a_real_run(dtype, model, train):
    command = [sys.executable, "-c", PEAK.format(dtype=dtype, model=model, train=train)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    estimate = estimate_memory(RunSpec(model=ModelConfig(**model), train=TrainConfig(dtype=dtype, **train))).total
    assert estimate > 1e8
    assert 1 / FACTOR < int(done.stdout) / estimate < FACTOR


def test_weights_gradients_and_moments_take_sixteen_bytes_a_parameter_an_idle_head_included():
    model = ModelConfig(vocab_size=512, d_model=64, num_layers=2, d_ff=176)
    untied = RunSpec(model=model)
    tied = RunSpec(model=model.model_copy(update={"tie_embeddings": True}))
    assert estimate_memory(untied).state == estimate_memory(tied).state == 16 * (2 * 512 * 64 + 100_672)


def test_muon_keeps_one_moment_of_the_matrices_of_attention_and_feed_forward_networks():
    model = ModelConfig(vocab_size=512, d_model=64, num_layers=2, d_ff=176)
    run = RunSpec(model=model, optim=OptimConfig(name="muon"))
    population = Population(TransformerLM(model), "muon")
    moments = sum(tensor.numel() for named in population.state.values() for tensor in named.values())
    weights = sum(parameter.numel() for parameter in population.model.parameters())
    assert estimate_memory(run).state == 4 * (2 * weights + moments) < 16 * weights


def test_a_larger_batch_of_equal_micro_batches_costs_nothing():
    small, large = (estimate_memory(RunSpec(train=TrainConfig(batch_size=B, micro_batch_size=8))) for B in (16, 64))
    assert small == large


def test_a_larger_batch_costs_activations_only():
    small, large = (estimate_memory(RunSpec(train=TrainConfig(batch_size=B))) for B in (16, 32))
    assert small.state == large.state
    assert 1.5 < large.activations / small.activations < 2


@pytest.mark.parametrize(("seeds", "expected"), [(2, 14.08), (3, 4.38), (5, 2.35), (10, 1.41)])
def test_the_detectable_difference_is_that_of_a_paired_t_test_with_eighty_percent_power(seeds, expected):
    assert detectable_difference(seeds) == pytest.approx(expected, abs=0.01)


def test_a_difference_of_the_detectable_size_is_detected_four_times_out_of_five():
    seeds, rng = 10, np.random.default_rng(0)
    gaps = detectable_difference(seeds) + rng.normal(size=(20_000, seeds, 2)) @ [1, -1]
    t = gaps.mean(1) / gaps.std(1, ddof=1) * math.sqrt(seeds)
    assert (t > 2.262).mean() == pytest.approx(0.8, abs=0.02)  # t_{0.975, 9}


def test_one_seed_detects_nothing():
    assert math.isinf(detectable_difference(1))
