"""Muon against its formula in float64, against torch's, and in its place in training: slots, checkpoints, schedules."""

import math

import pytest
import torch
from test_trainer import MODEL, assert_same_bits, assert_same_weights, bits, curves, numbers, run
from torch import nn
from torch.optim._muon import _zeropower_via_newtonschulz

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint, write_checkpoint
from lmcore.clip import clip_grad_norm_
from lmcore.config import ModelConfig, OptimConfig
from lmcore.data import get_batch
from lmcore.loss import cross_entropy
from lmcore.model import EMBEDDING, HEAD, TransformerLM
from lmcore.muon import muon_coefficients, muon_update_, orthogonalize
from lmcore.optim import AdamW
from lmcore.optimizers import is_hidden_matrix
from lmcore.population.population import Population
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer

SHAPES = [(6, 4), (4, 6), (6, 4), (5, 5), (1, 7)]


def muon_run(*args, **fields):
    return run(*args, **{"name": "muon"} | fields)


FOUR = [
    muon_run(lr=1e-3, seed=0, muon_momentum=0.9),
    muon_run(lr=3e-3, seed=1, tied=True, muon_lr=2e-2, weight_decay=0.0),
    muon_run(lr=1e30, seed=2, clip_norm=None, warmup_fraction=0.0),  # becomes NaN
    muon_run(lr=1e-2, seed=3, muon_lr=1e-3, muon_momentum=0.0, warmup_fraction=0.5),
]


def random_tensors(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def transcription(theta, grads, lr, momentum, weight_decay):
    b = torch.zeros_like(theta)
    for g in grads:
        b = momentum * b + (1 - momentum) * g
        x = momentum * b + (1 - momentum) * g
        transposed = x.shape[0] > x.shape[1]
        x = x.T if transposed else x
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if transposed else x
        theta = theta - lr * weight_decay * theta
        theta = theta - 0.2 * lr * math.sqrt(max(theta.shape)) * x
    return theta


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.95, 0.1), (0.0, 0.0)])
def test_thirty_steps_equal_the_formula(momentum, weight_decay):
    params, momenta = random_tensors(), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    history = [random_tensors(seed=step) for step in range(1, 31)]
    of_each = zip(params, zip(*history, strict=True), strict=True)
    expected = [transcription(theta, grads, 3e-2, momentum, weight_decay) for theta, grads in of_each]
    c = muon_coefficients(OptimConfig(muon_momentum=momentum, weight_decay=weight_decay), 3e-2, 1)
    for grads in history:
        muon_update_([params, [2 * grad for grad in grads], momenta], c, 0.5)
    for ours, theirs in zip(params, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_singular_values_become_nearly_one_and_singular_vectors_stay():
    (matrix,) = random_tensors([(24, 40)])
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalize(matrix[None])[0] @ v.T
    assert 0.6 < inner.diag().min() < inner.diag().max() < 1.3
    assert (inner - inner.diag().diag()).abs().max() < 1e-10
    torch.testing.assert_close(orthogonalize(matrix.T[None])[0].T, orthogonalize(matrix[None])[0])


def test_a_matrix_without_gradient_gives_no_step():
    assert not orthogonalize(torch.zeros(2, 3, 5)).any()


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (32, 32)])
def test_in_bfloat16_it_orthogonalizes_as_torch_does(shape):
    matrices = torch.stack(random_tensors([shape] * 3, torch.float32))
    for ours, matrix in zip(orthogonalize(matrices.bfloat16()), matrices, strict=True):
        theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        exact = orthogonalize(matrix[None].double())[0]
        error, torchs_error = ((one.double() - exact).norm() / exact.norm() for one in (ours, theirs))
        assert error < 1.2 * torchs_error < 0.03


@pytest.fixture
def exact_torch_muon(monkeypatch):
    """torch.optim.Muon as it is, but in the dtype of its parameters in place of bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


@pytest.mark.usefixtures("exact_torch_muon")
def test_it_equals_torch():
    ours, theirs = random_tensors(), [nn.Parameter(tensor) for tensor in random_tensors()]
    optimizer = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    c = muon_coefficients(OptimConfig(muon_momentum=0.9, weight_decay=0.1), 1e-2, 1)
    momenta = [torch.zeros_like(tensor) for tensor in ours]
    for step in range(1, 11):
        grads = random_tensors(seed=step)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()
        muon_update_([ours, grads, momenta], c, 1.0)
    for mine, parameter in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, parameter.data, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("exact_torch_muon")
@pytest.mark.parametrize("tied", [False, True])
def test_a_slot_trains_like_a_plain_loop_with_torchs_muon_and_our_adamw(small_tokens, tied):
    """Hidden matrices follow muon_lr, all else lr, on one schedule."""
    trainer = Trainer([muon_run(steps=12, lr=1e-3, muon_lr=1e-2, warmup_fraction=0.25, tied=tied)], small_tokens)
    rows = list(trainer)
    model = TransformerLM(ModelConfig(**MODEL, tie_embeddings=tied))
    named = dict(model.named_parameters())
    plain = {name: nn.Parameter(named[name][0].detach().clone()) for name in named if is_hidden_matrix(name)}
    muon = torch.optim.Muon(plain.values(), weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW([p for name, p in named.items() if name not in plain], betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for update in range(1, 13):
        x, y = get_batch(small_tokens.train, 4, 16, "cpu", 0, update - 1)
        muon.param_groups[0]["lr"] = cosine_lr(update, 1e-2, 1e-3, 3, 12)
        adamw.param_groups[0]["lr"] = cosine_lr(update, 1e-3, 1e-4, 3, 12)
        model.zero_grad()
        loss = cross_entropy(model(x[None])[0], y)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        for name, parameter in plain.items():
            parameter.grad = named[name].grad[0].clone()
        muon.step()
        adamw.step()
        for name, parameter in plain.items():
            named[name].data[0] = parameter.data
        losses.append(loss.item())
    assert rows[0][col.TRAIN_LOSS] == pytest.approx(sum(losses[:5]) / 5, rel=1e-5)
    assert rows[2][col.TRAIN_LOSS] == pytest.approx(sum(losses[10:]) / 2, rel=1e-5)
    assert rows[2][col.LR] == pytest.approx(1e-4)  # that of the schedule of lr
    for name, weight in trainer.model.slot_state_dict(0).items():
        torch.testing.assert_close(weight, model.slot_state_dict(0)[name], rtol=1e-3, atol=1e-5)


# 4 x 16 windows fill the vectors and run batched; 3 x 10 do not, and run one slot after the other.
@pytest.mark.parametrize(
    ("model", "batch_size", "dtype"),
    [
        (MODEL, 4, "float32"),
        (MODEL, 4, "bfloat16"),
        (MODEL | {"context_length": 10, "d_model": 40, "d_ff": 52}, 3, "float32"),
        (MODEL | {"num_kv_heads": 2, "qk_norm": True, "ffn": "gelu"}, 4, "float32"),
    ],
    ids=["batched", "batched-bf16", "looped", "shared keys"],
)
def test_each_slot_is_bitwise_its_run_alone_in_any_place(small_tokens, model, batch_size, dtype):
    def shaped(one):
        config = ModelConfig(**model, tie_embeddings=one.model.tie_embeddings)
        train = one.train.model_copy(update={"steps": 10, "batch_size": batch_size, "dtype": dtype})
        return one.model_copy(update={"model": config, "train": train})

    runs = [shaped(one) for one in FOUR]
    alone = [Trainer([one], small_tokens) for one in runs]
    expected = [curves(trainer)[0] for trainer in alone]
    for places in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0], [3, 1]):
        together = Trainer([runs[k] for k in places], small_tokens)
        for place, (k, curve) in enumerate(zip(places, curves(together), strict=True)):
            if k == 2:
                assert not math.isfinite(curve[-1][col.TRAIN_LOSS])
                continue
            assert curve == expected[k]
            assert all(math.isfinite(row[col.VAL_LOSS]) for row in curve)
            assert_same_weights(together, place, alone[k], 0)
            assert_same_bits(bits(together, place), bits(alone[k], 0))


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_slot_continues_elsewhere_bit_for_bit(small_tokens, tmp_path, tied):
    one = muon_run(tied=tied, lr=1e-2, seed=4)
    whole = Trainer([one], small_tokens)
    (curve,) = curves(whole)
    first = Trainer([FOUR[0], one], small_tokens)
    for _ in range(3):
        first.advance()
    first.save_slot(1, tmp_path / "slot.safetensors")
    second = Trainer([FOUR[1], None, None], small_tokens)
    second.restore_slot(2, tmp_path / "slot.safetensors")
    assert curves(second)[2] == curve[3:]
    assert_same_weights(second, 2, whole, 0)


def test_a_checkpoint_has_the_state_of_each_tensors_own_rule(small_tokens, tmp_path):
    trainer = Trainer([muon_run()], small_tokens)
    trainer.save_slot(0, tmp_path / "slot.safetensors")
    tensors, _ = read_checkpoint(tmp_path / "slot.safetensors")
    for name in trainer.model.slot_names(0):
        parts = {part for part in ("exp_avg", "exp_avg_sq", "momentum_buffer") if f"{part}.{name}" in tensors}
        assert parts == ({"momentum_buffer"} if is_hidden_matrix(name) else {"exp_avg", "exp_avg_sq"})
    hidden = [name for name in trainer.model.slot_names(0) if is_hidden_matrix(name)]
    assert len(hidden) == 2 * 7
    assert not {EMBEDDING, HEAD, "ln_final.weight", "layers.0.ln1.weight"} & set(hidden)


def test_a_slot_does_not_continue_with_another_optimizer(small_tokens, tmp_path):
    Trainer([run()], small_tokens).save_slot(0, tmp_path / "adamw.safetensors")
    with pytest.raises(ValueError, match=r"optim\.name = 'adamw' for 'muon'"):
        Trainer([muon_run()], small_tokens).restore_slot(0, tmp_path / "adamw.safetensors")


def test_a_checkpoint_from_before_muon_is_restored(small_tokens, tmp_path):
    trainer = Trainer([run()], small_tokens)
    trainer.advance()
    tensors, meta = trainer.snapshot_slot(0)
    assert meta["run"]["optim"].pop("muon_lr") is None
    assert meta["run"]["optim"].pop("muon_momentum") == 0.95
    write_checkpoint(tmp_path / "old.safetensors", tensors, meta)
    other = Trainer([run()], small_tokens)
    other.restore_slot(0, tmp_path / "old.safetensors")
    assert curves(other) == curves(trainer)


def test_training_learns_the_markov_chain(small_tokens):
    rows = list(Trainer([muon_run(steps=200, lr=1e-2, train={"eval_every": 100})], small_tokens))
    assert rows[-1][col.VAL_LOSS] < small_tokens.unigram_entropy - 1.5


def test_without_a_rate_of_its_own_muon_has_that_of_adamw(small_tokens):
    default, same, other = (
        numbers(Trainer([muon_run(steps=5, lr=1e-3, **muon)], small_tokens))
        for muon in ({}, {"muon_lr": 1e-3}, {"muon_lr": 3e-3})
    )
    assert default == same != other


def test_muons_fields_change_nothing_without_muon(small_tokens):
    plain, unused = (
        numbers(Trainer([run(steps=5, **muon)], small_tokens)) for muon in ({}, {"muon_lr": 1.0, "muon_momentum": 0.5})
    )
    assert plain == unused


LRS = [1e-2, 0.0, 1e-3]


def population(compiled=False, device="cpu"):
    """Three slots, the second tied, and gradients."""
    config = ModelConfig(vocab_size=97, d_model=32, num_layers=2, num_heads=2, d_ff=48, context_length=16)
    model = TransformerLM(config, 3, [False, True, False], seeds=[0, 1, 2]).to(device)
    generator = torch.Generator().manual_seed(0)
    grads = {name: torch.randn(p.shape, generator=generator).to(device) for name, p in model.named_parameters()}
    grads[HEAD][1] = 0.0  # the idle head's
    return Population(model, "muon", compiled), grads


@pytest.mark.parametrize("inactive", [None, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_all_slots_at_once_and_slot_by_slot_make_the_same_update_to_rounding(inactive, compiled):
    active = None if inactive is None else torch.arange(3) != inactive
    scale = torch.tensor([0.01, 1.0, 1.0])
    optims = [OptimConfig(muon_momentum=0.9), OptimConfig(), OptimConfig(weight_decay=0.3, muon_lr=1e-2)]
    results = []
    for update, form in (("_update_slot_by_slot", list), ("_update_slots_at_once", lambda c: torch.tensor(c).T)):
        several, grads = population(compiled)
        before = {name: p.detach().clone() for name, p in several.model.named_parameters()}
        with torch.no_grad():
            for step in range(1, 4):
                c = [
                    [number for group in several.groups for number in group.coefficients(optim, lr, step)]
                    for optim, lr in zip(optims, LRS, strict=True)
                ]
                copies = {name: grad.clone() for name, grad in grads.items()}
                getattr(several, update)(copies, form(c), scale, active)
        for name, p in several.model.named_parameters():
            moved = [not torch.equal(now, then) for now, then in zip(p, before[name], strict=True)]
            assert moved == [True, False, inactive is None]  # the second has learning rate 0
        results.append(several)
    by_slot, at_once = results
    weights = dict(at_once.model.named_parameters())
    for name, ours in by_slot.model.named_parameters():
        torch.testing.assert_close(ours, weights[name], rtol=1e-4, atol=1e-6)
    for part, named in by_slot.state.items():
        for name, ours in named.items():
            torch.testing.assert_close(ours, at_once.state[part][name], rtol=1e-5, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_makes_the_update_of_a_cpu_but_for_the_rounding_of_bfloat16(compiled):
    steps = []
    for device in ("cpu", "cuda"):
        several, grads = population(compiled and device == "cuda", device)
        weights = dict(several.model.named_parameters())
        before = {name: p.detach().clone() for name, p in weights.items()}
        numbers = [number for group in several.groups for number in group.coefficients(OptimConfig(), 1e-2, 1)]
        with torch.no_grad():
            for _ in range(3):
                c = torch.tensor([numbers] * 3, device=device).T
                several._update_slots_at_once(grads, c, torch.ones(3, device=device), None)
        steps.append({name: (p.detach() - before[name]).cpu() for name, p in weights.items()})
    exact, rounded = steps
    for name, step in exact.items():
        error = (rounded[name] - step).norm() / step.norm()
        assert error < (0.03 if is_hidden_matrix(name) else 1e-4)


def test_it_keeps_one_tensor_a_matrix():
    several, _ = population()
    assert list(several.state) == ["exp_avg", "exp_avg_sq", "momentum_buffer"]
    hidden = {name for name, _ in several.model.named_parameters() if is_hidden_matrix(name)}
    assert set(several.state["momentum_buffer"]) == hidden
    assert not set(several.state["exp_avg"]) & hidden
