"""A trained model is loaded from its trainer's checkpoint; other files are refused."""

import pytest
import torch

from lmcore.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.export.trained_model import read_trained_model
from lmcore.trainer import Trainer

SMALL = {"vocab_size": 97, "d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}


@pytest.mark.parametrize("tied", [False, True])
def test_a_loaded_model_predicts_like_its_slot(small_tokens, tmp_path, tied):
    run = RunSpec(model=ModelConfig(**SMALL, tie_embeddings=tied), train=TrainConfig(steps=3, batch_size=4))
    other = run.model_copy(update={"model": run.model.model_copy(update={"tie_embeddings": not tied})})
    trainer = Trainer([other, run], small_tokens)
    *_, row = trainer
    trainer.save_slot(1, tmp_path / "slot")
    trained = read_trained_model(tmp_path / "slot")
    assert (trained.run.model, trained.step, trained.last_row) == (run.model, 3, row)
    assert trained.data_fingerprint == small_tokens.fingerprint
    x = torch.arange(16)[None, None]
    assert torch.equal(trained.model(x)[0], trainer.model(x.expand(2, 1, 16))[1])


def test_a_file_that_is_not_a_slots_checkpoint_is_refused_in_one_line(small_tokens, tmp_path):
    trainer = Trainer([RunSpec(model=ModelConfig(**SMALL), train=TrainConfig(steps=1))], small_tokens)
    good = tmp_path / "good"
    trainer.save_slot(0, good)
    tensors, meta = read_checkpoint(good)
    write_checkpoint(tmp_path / "no run", tensors, {"step": 3})
    write_checkpoint(tmp_path / "another run", tensors, {**meta, "run": {"model": {"d_model": 64}}})
    lacking = {name: tensor for name, tensor in tensors.items() if name != "model.ln_final.weight"}
    write_checkpoint(tmp_path / "lacking", lacking, meta)
    content = good.read_bytes()
    (tmp_path / "cut").write_bytes(content[:-1])
    (tmp_path / "flipped").write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    for name in ("no run", "another run", "lacking", "cut", "flipped"):
        with pytest.raises(CheckpointError, match=name) as refusal:
            read_trained_model(tmp_path / name)
        assert "\n" not in str(refusal.value)
