"""Training in bfloat16: the error of the fast path is no larger than that of splitting the batch in two."""

import pytest
import torch

import lmcore.loss
from lmcore.config import ModelConfig, TrainConfig
from lmcore.loss import token_nll
from lmcore.model import TransformerLM
from lmcore.population.forward import forward_of, hidden_of
from lmcore.population.population import mean_nll

K, B, T, V = 2, 8, 32, 97


@pytest.fixture
def model():
    config = ModelConfig(vocab_size=V, d_model=32, num_layers=2, num_heads=4, d_ff=80, context_length=T)
    return TransformerLM(config, K, seeds=(1, 2))


@pytest.fixture
def windows():
    tokens = torch.randint(0, V, (K, B, T + 1), generator=torch.Generator().manual_seed(0))
    return tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous()


def gradient(model, losses):
    """The gradient of each slot's loss, all parameters as one [K, P]."""
    grads = torch.autograd.grad(losses, list(model.parameters()), torch.ones_like(losses))
    return torch.cat([grad.flatten(1) for grad in grads], dim=1)


def plain(model, x, y, dtype=torch.bfloat16):
    """Uncompiled, through the logits of all positions."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(x)
    return gradient(model, token_nll(logits, y).mean((1, 2)))


@pytest.mark.parametrize("compiled", [False, True], ids=["loss in chunks", "compiled"])
def test_gradients_lie_inside_the_gap_between_two_splits_of_the_batch(model, windows, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(lmcore.loss, "CPU_LOGITS", 1)  # two chunks, as of a large vocabulary
    x, y = windows
    whole = plain(model, x, y)
    halves = (plain(model, x[:, : B // 2], y[:, : B // 2]) + plain(model, x[:, B // 2 :], y[:, B // 2 :])) / 2
    gap = (whole - halves).norm(dim=1)
    train = TrainConfig(device="cpu", dtype="bfloat16", compile=compiled)
    ours = gradient(model, forward_of(mean_nll, hidden_of(train), train)(model, x, y))
    assert ((ours - whole).norm(dim=1) <= gap).all()
    exact = plain(model, x, y, torch.float32)
    assert ((ours - exact).norm(dim=1) <= 1.05 * (whole - exact).norm(dim=1)).all()
