"""Losses of two short runs on fixed tokens are those that were committed, to 1e-3: on any machine, with any kernels.

`python tests/core/test_golden.py` writes golden.json anew; a change of it has to be explained where it is made.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from lmcore import columns as col
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.trainer import Trainer

FILE = Path(__file__).with_name("golden.json")
VOCABULARY = 61


def fixed_tokens():
    """30,000 tokens, of which two in three follow from the one before: the same on every machine."""
    bits = np.random.PCG64(20260101).random_raw(30_000)
    ids = np.zeros(len(bits), dtype=np.uint16)
    for n in range(1, len(ids)):
        rule = (7 * int(ids[n - 1]) + 3) % VOCABULARY
        ids[n] = rule if bits[n] % 3 else (int(bits[n]) >> 8) % VOCABULARY
    return Tokens.of(ids[:28_000], ids[28_000:], VOCABULARY)


def curves(compile=False):
    """Losses of a tied and an untied run that train as one population."""
    model = {"vocab_size": VOCABULARY, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128}
    train = TrainConfig(steps=60, batch_size=8, eval_every=20, eval_windows=16, device="cpu", compile=compile)
    runs = [
        RunSpec(
            model=ModelConfig(**model, context_length=32, tie_embeddings=tied), train=train, optim=OptimConfig(lr=1e-2)
        )
        for tied in (False, True)
    ]
    rows = list(Trainer(runs, fixed_tokens()))
    names = (col.TRAIN_LOSS, col.VAL_LOSS, col.GRAD_NORM)
    return {
        label: [{"step": row[col.STEP]} | {name: row[name] for name in names} for row in rows if row[col.SLOT] == k]
        for k, label in enumerate(("untied", "tied"))
    }


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_losses_are_the_committed_ones_to_a_thousandth(compile):
    golden = json.loads(FILE.read_text())
    found = curves(compile)
    for label, rows in golden.items():
        assert len(found[label]) == len(rows) == 3
        for ours, theirs in zip(found[label], rows, strict=True):
            assert ours["step"] == theirs["step"]
            for name in (col.TRAIN_LOSS, col.VAL_LOSS):
                assert ours[name] == pytest.approx(theirs[name], abs=1e-3)
            assert ours[col.GRAD_NORM] == pytest.approx(theirs[col.GRAD_NORM], rel=1e-2)


def test_they_were_learned():
    rows = json.loads(FILE.read_text())["untied"]
    assert rows[-1][col.VAL_LOSS] < 0.8 * np.log(VOCABULARY)


if __name__ == "__main__":
    FILE.write_text(json.dumps(curves(), indent=2) + "\n")
