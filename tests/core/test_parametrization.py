"""muP against table 8 of Tensor Programs V, transcribed here in float64, and against the standard parametrization."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from lmcore import columns as col
from lmcore.clip import clip_grad_norm_
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.data import get_batch
from lmcore.init import RESIDUAL_OUTPUTS, STD
from lmcore.loss import cross_entropy
from lmcore.model import EMBEDDING, HEAD, TransformerLM
from lmcore.optim import AdamW
from lmcore.optimizers import OPTIMIZERS, parameter_groups
from lmcore.parametrization import PARAMETRIZATIONS
from lmcore.params import count_parameters
from lmcore.population.population import Population
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer

SMALL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}
MUP = {"parametrization": "mup", "base_width": 16, "base_head_dim": 4}  # m = 4, and heads four times as wide
TIMES = (col.SLOT, col.TOKENS_PER_S, col.ELAPSED_S)


def run(seed=0, tied=False, model=None, steps=10, lr=1e-2, **optim):
    return RunSpec(
        model=ModelConfig(**SMALL | (MUP if model is None else model), tie_embeddings=tied),
        train=TrainConfig(steps=steps, batch_size=4, eval_every=5, eval_windows=8, seed=seed),
        optim=OptimConfig(lr=lr, **optim),
    )


def table_8(name, m):
    """Factors of the initial standard deviation and of Adam's learning rate, by the kind of weight."""
    if name in (EMBEDDING, HEAD) or "ln" in name or "norm" in name:
        return 1.0, 1.0
    return 1 / math.sqrt(m), 1 / m


def numbers(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def curve(runs, tokens):
    trainer = Trainer(runs, tokens)
    rows = list(trainer)
    return trainer, [numbers(row for row in rows if row[col.SLOT] == k) for k in range(len(runs))]


def same_weights(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# The table


def test_initial_values_have_the_spread_of_the_table():
    model = TransformerLM(ModelConfig(**SMALL | MUP | {"d_model": 256, "qk_norm": True}))
    standard = TransformerLM(ModelConfig(**SMALL | {"d_model": 256, "qk_norm": True}))
    for (name, weight), own in zip(model.named_parameters(), standard.parameters(), strict=True):
        factor, _ = table_8(name, m=16)
        assert torch.equal(weight, own * factor), name  # the same draw, scaled by a power of two
        if weight.ndim == 3:
            std = STD * factor / (math.sqrt(2 * 2) if name.endswith(RESIDUAL_OUTPUTS) else 1)
            assert weight.std().item() == pytest.approx(0.9866 * std, rel=0.03), name


def reference_logits(config, weights, tokens):
    """Logits [B, T, V] of a pre-norm or norm-free SwiGLU model without positions, as the table has them, in float64."""
    m, head_dim = config.d_model / config.base_width, config.d_model // config.num_heads
    w = {name: weight.double() for name, weight in weights.items()}

    def norm(x, name):
        if name not in w:
            return x
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * w[name]

    x = w[EMBEDDING][tokens]  # [B, T, D]
    future = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    for n in range(config.num_layers):
        own = f"layers.{n}"
        h = norm(x, f"{own}.ln1.weight")
        q, k, v = (
            (h @ w[f"{own}.attn.{part}_proj.weight"].T).unflatten(-1, (config.num_heads, head_dim)).transpose(1, 2)
            for part in "qkv"
        )
        scale = 1 / math.sqrt(head_dim) if config.base_head_dim is None else math.sqrt(config.base_head_dim) / head_dim
        scores = (q @ k.transpose(2, 3) * scale).masked_fill(future, -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + attended @ w[f"{own}.attn.output_proj.weight"].T
        h = norm(x, f"{own}.ln2.weight")
        gated = F.silu(h @ w[f"{own}.ffn.w1.weight"].T) * (h @ w[f"{own}.ffn.w3.weight"].T)
        x = x + gated @ w[f"{own}.ffn.w2.weight"].T
    return norm(x, "ln_final.weight") @ w.get(HEAD, w[EMBEDDING]).T / m


@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("base_head_dim", [None, 4, 9])
def test_logits_are_those_of_the_table(norm, tied, base_head_dim):
    changes = {"norm": norm, "tie_embeddings": tied, "base_head_dim": base_head_dim, "positions": "none"}
    config = ModelConfig(**SMALL | MUP | changes)
    model = TransformerLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 3 else 1.5)  # so that differences show
    tokens = torch.randint(0, 97, (3, 16), generator=torch.Generator().manual_seed(0))
    expected = reference_logits(config, model.slot_state_dict(0), tokens)
    torch.testing.assert_close(model(tokens[None])[0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_updates_are_those_of_adamw_with_the_learning_rates_of_the_table(small_tokens, tied):
    """Reference: an ordinary loop over our AdamW, whose groups divide lr by m and multiply weight_decay by it."""
    one = run(tied=tied, weight_decay=0.5, warmup_fraction=0.3, clip_norm=0.5)
    trainer = Trainer([one], small_tokens)
    model = TransformerLM(one.model)
    groups = []
    for name, parameter in model.named_parameters():
        if not (tied and name == HEAD):
            _, factor = table_8(name, m=4)
            groups.append({"params": [parameter], "factor": factor, "weight_decay": 0.5 / factor})
    optimizer = AdamW(groups, betas=(0.9, 0.95))
    for update in range(1, 11):
        x, y = get_batch(small_tokens.train, 4, 16, torch.device("cpu"), 0, update - 1)
        model.zero_grad()
        cross_entropy(model(x[None]), y[None]).backward()
        clip_grad_norm_([parameter for group in groups for parameter in group["params"]], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(update, 1e-2, 1e-3, 3, 10) * group["factor"]
        optimizer.step()
    list(trainer)
    for name, ours in trainer.model.slot_state_dict(0).items():
        theirs = model.slot_state_dict(0)[name]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_every_form_of_the_update_has_the_learning_rates_of_the_table(monkeypatch):
    """The first update of Adam moves every entry by its learning rate, whatever the gradient."""
    before = TransformerLM(ModelConfig(**SMALL | MUP), 2, tied=[False, False])
    for form in ("slot by slot", "fused", "at once"):
        model = TransformerLM(before.config, 2)
        monkeypatch.setattr("lmcore.population.population.FUSED_FROM", 0 if form == "fused" else 10**9)
        population = Population(model)
        grads = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
        optim = OptimConfig(beta2=0.9, weight_decay=0.0)
        numbers = [
            [number for group in population.groups for number in group.coefficients(optim, lr, 1)] for lr in (0.1, 0.2)
        ]
        coefficients = torch.tensor(numbers).T if form == "at once" else numbers
        population.update(grads, coefficients, torch.full((2,), math.inf))
        for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
            for slot, lr in enumerate((0.1, 0.2)):
                step = (old - new)[slot]
                torch.testing.assert_close(step, torch.full_like(step, lr * table_8(name, m=4)[1]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_a_hidden_matrix_have_one_spectral_norm_at_every_width(name):
    """For a gradient of low rank, as one of few tokens is in a wide model: the condition of Yang et al. (2023)."""
    norms = []
    for m in (1, 4, 16):
        width, generator = 32 * m, torch.Generator().manual_seed(0)
        [group] = parameter_groups(name, ["layers.0.attn.q_proj.weight"], lambda _, m=m: 1 / m)
        left, right = (torch.randn(width, 1, generator=generator) for _ in range(2))
        weight, grad = torch.zeros(width, width), left @ right.T
        state = [[torch.zeros_like(weight)] for _ in group.rule.state_names]
        group.rule.update_([[weight], [grad], *state], group.coefficients(OptimConfig(), 1e-2, 1), 1.0)
        norms.append(torch.linalg.matrix_norm(weight, 2).item())
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=0.1)


# At its base, and beside others


@pytest.mark.parametrize("base", [{"base_width": 64}, {"base_width": 64, "base_head_dim": 16}, {}])
def test_at_its_base_it_is_the_standard_parametrization_bitwise(small_tokens, base):
    standard, mup = run(model={}), run(model={"parametrization": "mup", **base})
    (ours, rows), (theirs, expected) = curve([mup], small_tokens), curve([standard], small_tokens)
    assert rows == expected
    assert same_weights(ours.model.slot_state_dict(0), theirs.model.slot_state_dict(0))


def test_slots_are_bitwise_the_runs_alone(small_tokens):
    runs = [run(seed=1, lr=1e-3), run(seed=2, tied=True, lr=3e-2, beta2=0.99), run(seed=1, tied=True, weight_decay=1.0)]
    together, rows = curve(runs, small_tokens)
    for k, one in enumerate(runs):
        alone, own = curve([one], small_tokens)
        assert rows[k] == own[0]
        assert same_weights(together.model.slot_state_dict(k), alone.model.slot_state_dict(0))


def test_a_resumed_run_goes_on_bitwise(small_tokens, tmp_path):
    through, rows = curve([run(seed=3)], small_tokens)
    stopped = Trainer([run(seed=3)], small_tokens)
    stopped.advance()
    stopped.save_slot(0, tmp_path / "slot.safetensors")
    resumed = Trainer([run(seed=9)], small_tokens)
    resumed.restore_slot(0, tmp_path / "slot.safetensors")
    assert numbers(resumed) == rows[0][1:]
    assert same_weights(resumed.model.slot_state_dict(0), through.model.slot_state_dict(0))


def test_runs_of_two_parametrizations_do_not_share_a_trainer(small_tokens):
    with pytest.raises(ValueError, match="share their shape"):
        Trainer([run(), run(model={})], small_tokens)


def test_it_has_as_many_parameters_as_the_standard_one():
    assert count_parameters(ModelConfig(**SMALL | MUP)) == count_parameters(ModelConfig(**SMALL))


# The config


def test_a_model_may_name_exactly_the_parametrizations_that_there_are():
    assert get_args(ModelConfig.model_fields["parametrization"].annotation) == tuple(PARAMETRIZATIONS)


@pytest.mark.parametrize("field", ["base_width", "base_head_dim"])
def test_a_base_without_mup_is_refused(field):
    with pytest.raises(ValidationError, match=rf"{field} must not be given .*\(got 32\); .*parametrization: mup"):
        ModelConfig(**{field: 32})
