"""Updates whose gradients are added up over micro batches, against updates on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmcore import columns as col
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.trainer import Trainer

ROOT = Path(__file__).parents[2]
MODEL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}
LOSSES = (col.TRAIN_LOSS, col.VAL_LOSS, col.GRAD_NORM)
# In a process of its own, because memory that an earlier test has freed would not be measured.
PEAK = """
import numpy as np
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.measure.throughput import _Probe
def peak(model, **train):
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 9000)
    run = RunSpec(model=model, train=TrainConfig(device="cpu", dtype="float32", threads=1, **train))
    return _Probe(run, Tokens.of(ids, ids, model.vocab_size), 1).bytes
peak(ModelConfig(vocab_size=16, d_model=16, num_heads=1, d_ff=16))  # loads the libraries
print(peak(ModelConfig(vocab_size=256, d_model=256, d_ff=704, num_layers=3), {train}))
"""


def run(micro_batch_size, seed=0, tied=False, dropout=0.0, train=None, **optim):
    """A run on batches of eight windows."""
    whole = {"steps": 12, "batch_size": 8, "eval_every": 4, "eval_windows": 16, "seed": seed}
    return RunSpec(
        model=ModelConfig(**MODEL, tie_embeddings=tied, dropout=dropout),
        train=TrainConfig(**whole | (train or {}), micro_batch_size=micro_batch_size),
        optim=OptimConfig(**optim),
    )


def numbers(rows):
    """Rows without what differs from run to run: place and times."""
    return [
        {name: value for name, value in row.items() if name not in (col.SLOT, col.TOKENS_PER_S, col.ELAPSED_S)}
        for row in rows
    ]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"tied": True, "clip_norm": 0.1}, {"dropout": 0.2}])
def test_micro_batches_make_the_updates_of_the_whole_batch_to_rounding(small_tokens, micro_batch_size, options):
    whole, parts = (list(Trainer([run(size, **options)], small_tokens)) for size in (None, micro_batch_size))
    assert [row[col.STEP] for row in parts] == [4, 8, 12]  # a step is still one update
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours[col.TOKENS] == theirs[col.TOKENS]
        for name in LOSSES:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_a_micro_batch_of_the_whole_batch_changes_no_bit(small_tokens):
    whole, part = (numbers(Trainer([run(size)], small_tokens)) for size in (None, 8))
    assert whole == part


def test_gradients_of_micro_batches_are_those_of_the_whole_batch(small_tokens):
    """Reference: autograd on the whole batch, and the losses of the micro batches alone."""
    trainers = [Trainer([run(size, tied=True)], small_tokens) for size in (None, 2)]
    gradients = []
    for trainer in trainers:
        population = trainer._all
        x, y = trainer._batches([(0, 0)])
        losses = population._backward(trainer._mean_nll, x, y, None)
        gradients.append({name: p.grad for name, p in population.model.named_parameters() if p.grad is not None})
        parts = [trainer._mean_nll(population.model, x[:, n : n + 2], y[:, n : n + 2]) for n in (0, 2, 4, 6)]
        torch.testing.assert_close(losses, torch.stack(parts).mean(0).detach())
    assert gradients[0].keys() == gradients[1].keys()
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-7)


# 4 x 16 windows fill the vectors and run batched; 1 x 16 do not, and run one slot after the other.
@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_slots_on_micro_batches_are_bitwise_their_runs_alone(small_tokens, micro_batch_size):
    runs = [
        run(micro_batch_size, seed=0, lr=1e-3, clip_norm=0.1),
        run(micro_batch_size, seed=1, lr=1e-2, tied=True),
        run(micro_batch_size, seed=2, lr=1e30, clip_norm=None, warmup_fraction=0.0),  # becomes NaN
        run(micro_batch_size, seed=3, lr=3e-3),
    ]
    together = list(Trainer(runs, small_tokens))
    for k in (0, 1, 3):
        assert numbers(row for row in together if row[col.SLOT] == k) == numbers(Trainer([runs[k]], small_tokens))


def test_compiled_slots_on_micro_batches_are_bitwise_their_compiled_runs_alone(small_tokens):
    runs = [run(4, seed=seed, train={"compile": True, "steps": 4, "eval_windows": 4}) for seed in range(2)]
    together = list(Trainer(runs, small_tokens))
    for k in range(2):
        assert numbers(row for row in together if row[col.SLOT] == k) == numbers(Trainer([runs[k]], small_tokens))


def test_a_micro_batch_must_divide_the_batch():
    with pytest.raises(ValueError, match="3 does not divide 8; choose 2"):
        run(3)
    assert run(None).static_signature != run(4).static_signature


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a process's peak memory")
def test_an_update_on_micro_batches_takes_the_memory_of_a_micro_batch():
    def peak(train):
        command = [sys.executable, "-c", PEAK.format(train=train)]
        # Each tensor in pages of its own: gaps between them, which depend on the order of sizes, would count as well.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    # Large enough that activations take most of it: sums of gradients, which a single pass does not need, are 10 MB.
    whole, parts, small = map(peak, ("batch_size=96", "batch_size=96, micro_batch_size=24", "batch_size=24"))
    assert parts < 0.5 * whole
    assert parts < 1.3 * small
