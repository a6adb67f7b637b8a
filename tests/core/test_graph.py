"""Training through CUDA graphs against the same training without them."""

import pytest

from lmcore import columns as col
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.trainer import Trainer

pytestmark = pytest.mark.gpu

MODEL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}


def runs(graphs, dropout=0.0, optimizer="adamw", **options):
    train = {"steps": 30, "batch_size": 4, "eval_every": 5, "eval_windows": 8, "compile": False, "dtype": "float32"}
    return [
        RunSpec(
            model=ModelConfig(**MODEL, tie_embeddings=tied, dropout=dropout and dropout + seed / 10),
            train=TrainConfig(**train | options, seed=seed, cuda_graphs=graphs),
            optim=OptimConfig(name=optimizer, lr=lr),
        )
        for seed, tied, lr in [(0, False, 1e-3), (1, True, 1e-2), (2, False, 3e-3)]
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.1},
        {"micro_batch_size": 2},
        {"dropout": 0.1, "micro_batch_size": 2, "compile": True},
        {"optimizer": "muon"},
        {"optimizer": "muon", "compile": True},
    ],
    ids=["plain", "dropout", "micro batches", "all compiled", "muon", "muon compiled"],
)
def test_replayed_steps_equal_launched_ones_while_slots_pause_and_are_refilled(small_tokens, options):
    curves = []
    for graphs in (False, True):
        first, second, third = runs(graphs, **options)
        trainer = Trainer([first, second, None], small_tokens)
        rows = []
        for _ in range(2):
            rows += trainer.advance([0, 1], batched=True)
        rows += trainer.advance([1], batched=True)  # slot 0 is inactive
        trainer.load_slot(2, third)  # slot 2 was empty
        trainer.load_slot(0, second)
        rows += [row for _ in range(3) for row in trainer.advance([0, 1, 2], batched=True)]
        curves.append([(row[col.SLOT], row[col.STEP], row[col.TRAIN_LOSS], row[col.VAL_LOSS]) for row in rows])
    plain, replayed = curves
    assert [row[:2] for row in plain] == [row[:2] for row in replayed]
    tolerance = 1e-2 if "optimizer" in options else 1e-4  # Muon's products are in bfloat16
    for mine, theirs in zip(replayed, plain, strict=True):
        assert mine[2:] == pytest.approx(theirs[2:], rel=tolerance)
