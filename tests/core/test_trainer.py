"""A population's slots against each run alone, and what can be done with slots between intervals."""

import math

import pytest
import torch

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from lmcore.clip import clip_grad_norm_
from lmcore.config import DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.data import get_batch
from lmcore.errors import InputError
from lmcore.loss import cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import ADAMW, AdamW
from lmcore.optimizers import OPTIMIZERS, Optimizer
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer

MODEL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}
TIMES = (col.SLOT, col.TOKENS_PER_S, col.ELAPSED_S)
FINAL = (col.FINAL_VAL_LOSS, col.FINAL_VAL_LOSS_SE, col.FINAL_WINDOWS)


def run(steps=30, seed=0, tied=False, model=MODEL, train=None, **optim):
    return RunSpec(
        model=ModelConfig(**model, tie_embeddings=tied),
        train=TrainConfig(
            **{"steps": steps, "batch_size": 4, "eval_every": 5, "eval_windows": 8, "seed": seed} | (train or {})
        ),
        optim=OptimConfig(**optim),
    )


FIVE = [
    run(lr=1e-3, beta1=0.9, beta2=0.95, warmup_fraction=0.1, seed=0),
    run(lr=3e-2, beta1=0.8, beta2=0.999, warmup_fraction=0.0, seed=1, tied=True),
    run(lr=1e30, beta1=0.9, beta2=0.9, warmup_fraction=0.0, clip_norm=None, seed=2, min_lr_ratio=1.0),  # becomes NaN
    run(lr=3e-3, beta1=0.95, beta2=0.99, warmup_fraction=0.5, seed=0, tied=True, weight_decay=0.0),
    run(lr=1e-2, beta1=0.0, beta2=0.0, warmup_fraction=1.0, seed=3, clip_norm=0.1, eps=1e-6),
]


def numbers(rows):
    """Rows without what differs from run to run: place and times."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def curves(trainer):
    rows = list(trainer)
    return [numbers(r for r in rows if r[col.SLOT] == k) for k in range(len(trainer.slots))]


def assert_same_weights(trainer, k, other, j):
    ours, theirs = trainer.model.slot_state_dict(k), other.model.slot_state_dict(j)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# 4 x 16 windows fill the vectors and run batched; 3 x 10 do not, and run one slot after the other.
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 16, 64, 128), "float32"), ((4, 16, 64, 128), "bfloat16"), ((3, 10, 40, 52), "float32")],
    ids=["batched", "batched-bf16", "looped"],
)
def test_each_of_five_slots_is_bitwise_its_run_alone_even_if_one_becomes_nan(small_tokens, shape, dtype):
    batch_size, context_length, d_model, d_ff = shape
    sizes = {"model": {"context_length": context_length, "d_model": d_model, "d_ff": d_ff}}
    runs = [
        r.model_copy(
            update={
                "model": r.model.model_copy(update=sizes["model"]),
                "train": r.train.model_copy(update={"batch_size": batch_size, "dtype": dtype}),
            }
        )
        for r in FIVE
    ]
    together = Trainer(runs, small_tokens)
    curves_together = curves(together)
    for k, alone_run in enumerate(runs):
        alone = Trainer([alone_run], small_tokens)
        (curve,) = curves(alone)
        assert len(curve) == 6
        if k == 2:
            assert not math.isfinite(curves_together[k][-1][col.TRAIN_LOSS])
        else:
            assert curves_together[k] == curve
            assert all(math.isfinite(row[col.VAL_LOSS]) for row in curve)
            assert_same_weights(together, k, alone, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slots_whose_query_heads_share_normalized_keys_are_bitwise_their_runs_alone(small_tokens, dtype):
    model = MODEL | {"num_kv_heads": 2, "qk_norm": True}
    runs = [run(steps=10, seed=k, lr=10.0**-k, tied=k == 1, model=model, train={"dtype": dtype}) for k in (1, 2, 3)]
    together = curves(Trainer(runs, small_tokens))
    for k, alone in enumerate(runs):
        assert together[k] == curves(Trainer([alone], small_tokens))[0]


def test_one_slot_trains_like_a_plain_loop_over_the_public_functions(small_tokens):
    """Reference: get_batch, cross_entropy, clip_grad_norm_, cosine_lr and AdamW as in the formulas' training run."""
    spec = run(steps=12, lr=1e-2, warmup_fraction=0.25)
    trainer = Trainer([spec], small_tokens)
    rows = list(trainer)
    model = TransformerLM(spec.model)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses, norms = [], []
    for update in range(1, 13):
        x, y = get_batch(small_tokens.train, 4, 16, "cpu", 0, update - 1)
        optimizer.param_groups[0]["lr"] = cosine_lr(update, 1e-2, 1e-3, 3, 12)
        loss = cross_entropy(model(x[None])[0], y)
        optimizer.zero_grad()
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    assert [row[col.STEP] for row in rows] == [5, 10, 12]
    assert rows[0][col.TRAIN_LOSS] == pytest.approx(sum(losses[:5]) / 5, rel=1e-5)
    assert rows[2][col.TRAIN_LOSS] == pytest.approx(sum(losses[10:]) / 2, rel=1e-5)
    assert rows[1][col.GRAD_NORM] == pytest.approx(norms[9], rel=1e-4)
    assert rows[2][col.LR] == pytest.approx(1e-3)
    assert rows[2][col.TOKENS] == 12 * 4 * 16
    for name, weight in trainer.model.slot_state_dict(0).items():
        torch.testing.assert_close(weight, model.slot_state_dict(0)[name], rtol=1e-3, atol=1e-5)


def test_the_update_that_is_listed_is_the_one_that_trains_on_a_cpu(small_tokens, monkeypatch):
    def sign_descent(tensors, coefficients, grad_scale):
        for param, grad, *_ in zip(*tensors, strict=True):
            param.sub_(grad.sign(), alpha=1e-3)

    rule = ADAMW._replace(update_=sign_descent)
    monkeypatch.setitem(OPTIMIZERS, "adamw", Optimizer(rule, rule))
    trainer = Trainer([run()], small_tokens)
    before = trainer.model.slot_state_dict(0)
    trainer.advance()
    steps = [(trainer.model.slot_state_dict(0)[name] - before[name]) / 1e-3 for name in before]
    assert all(torch.allclose(step, step.round(), atol=1e-3) for step in steps)  # whole steps, as no AdamW makes
    assert any(step.any() for step in steps)


def test_compiled_training_gives_the_numbers_of_eager_training_to_rounding(small_tokens):
    small = MODEL | {"num_layers": 1}
    eager, compiled = (
        curves(Trainer([run(steps=10, lr=1e-2, model=small, train={"compile": c})], small_tokens))[0]
        for c in (False, True)
    )
    for name in (col.TRAIN_LOSS, col.VAL_LOSS, col.GRAD_NORM):
        assert [row[name] for row in compiled] == pytest.approx([row[name] for row in eager], rel=1e-4)
    assert compiled != eager  # it was compiled: the last bits differ


def test_training_learns_the_markov_chain(small_tokens):
    rows = list(Trainer([run(steps=200, lr=1e-2, train={"eval_every": 100})], small_tokens))
    assert rows[-1][col.VAL_LOSS] < small_tokens.unigram_entropy - 1.5
    assert 0 < rows[-1][col.VAL_LOSS_SE] < 0.2


def test_slots_of_one_trainer_may_have_data_seeds_of_their_own(small_tokens):
    runs = [run(lr=1e-2).model_copy(update={"data": DataConfig(seed=seed)}) for seed in (0, 1, 0, 7)]
    together = curves(Trainer(runs, small_tokens))
    for curve, alone in zip(together, runs, strict=True):
        assert curve == curves(Trainer([alone], small_tokens))[0]
    assert together[0] == together[2]
    assert len({curve[0][col.TRAIN_LOSS] for curve in together}) == 3
    model = TransformerLM(runs[3].model)
    x, y = get_batch(small_tokens.train, 4, 16, "cpu", 7, 0)
    assert Trainer(runs, small_tokens)._batches([(0, 0), (7, 0)])[0][1].equal(x)
    single = runs[3].model_copy(update={"train": runs[3].train.model_copy(update={"steps": 1})})
    (row,) = Trainer([single], small_tokens)
    assert row[col.TRAIN_LOSS] == pytest.approx(cross_entropy(model(x[None])[0], y).item(), rel=1e-5)


def test_refilling_a_freed_slot_between_reports_does_not_affect_the_others(small_tokens):
    trainer = Trainer([FIVE[0], FIVE[1], None], small_tokens)
    rows = {0: [], 1: [], "refill": []}
    for row in trainer:
        rows["refill" if row[col.SLOT] == 2 else row[col.SLOT]].append(row)
        if row[col.SLOT] == 0 and row[col.STEP] == 10:
            trainer.load_slot(2, FIVE[3])
        if row[col.SLOT] == 1 and row[col.STEP] == 15:
            trainer.free_slot(1)
    assert numbers(rows[0]) == curves(Trainer([FIVE[0]], small_tokens))[0]
    assert numbers(rows["refill"]) == curves(Trainer([FIVE[3]], small_tokens))[0]
    assert numbers(rows[1]) == curves(Trainer([FIVE[1]], small_tokens))[0][:3]


def test_runs_of_different_lengths_each_report_at_their_own_interval_and_end(small_tokens):
    lengths = [7, 30, 12]
    trainer = Trainer([run(steps=n) for n in lengths], small_tokens)
    together = curves(trainer)
    assert [row[col.STEP] for row in together[0]] == [5, 7]
    assert [row[col.STEP] for row in together[2]] == [5, 10, 12]
    for k, n in enumerate(lengths):
        alone = Trainer([run(steps=n)], small_tokens)
        assert together[k] == curves(alone)[0]
        assert_same_weights(trainer, k, alone, 0)  # a finished slot stays as it was while others train on


def test_a_finished_slot_does_not_change_even_if_its_gradient_is_not_finite(small_tokens):
    wild = run(steps=1, lr=1e15, clip_norm=None, warmup_fraction=0.0)
    trainer = Trainer([wild, run(steps=10)], small_tokens)
    trainer.advance()
    before = trainer.model.slot_state_dict(0)
    assert all(weight.isfinite().all() for weight in before.values())
    list(trainer)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.slot_state_dict(0).items())


def test_refilling_and_retying_slots_does_not_recompile(small_tokens):
    import torch._dynamo.utils as dynamo

    def runs(*ties):
        small = {"model": MODEL | {"num_layers": 1}, "train": {"compile": True, "eval_windows": 4}}
        return [run(steps=5, lr=1e-3 * (i + 1), seed=i, tied=tied, **small) for i, tied in enumerate(ties)]

    trainer = Trainer(runs(False, True, True), small_tokens)
    list(trainer)
    programs = dynamo.counters["stats"]["unique_graphs"]
    assert programs > 0
    for ties in [(True, False, True), (False, False, True), (True, True, False)]:
        for k, refill in enumerate(runs(*ties)):
            trainer.load_slot(k, refill)
        list(trainer)
    assert dynamo.counters["stats"]["unique_graphs"] == programs


def test_a_program_beyond_the_limit_is_an_error_and_never_runs_uncompiled(small_tokens, monkeypatch):
    """Pins what `lmcore.population.forward.hidden_of` relies on in torch's private `_dynamo.config`."""
    import torch._dynamo.config as dynamo

    compiled = run(train={"compile": True, "eval_windows": 4}, model=MODEL | {"num_layers": 1})
    torch._dynamo.reset()
    with monkeypatch.context() as patch, dynamo.patch(recompile_limit=2):
        patch.setattr("lmcore.population.forward.MAX_PROGRAMS", 2)  # training and evaluation
        Trainer([compiled], small_tokens).advance()
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            Trainer([compiled] * 3, small_tokens).advance(batched=True)
    torch._dynamo.reset()
    Trainer([compiled] * 3, small_tokens).advance(batched=True)
    assert dynamo.recompile_limit >= 200


def test_what_does_not_fit_is_refused(small_tokens, tmp_path):
    from lmcore.corpus.tokens import Tokens

    with pytest.raises(ValueError, match="at least one run"):
        Trainer([None, None], small_tokens)
    with pytest.raises(ValueError, match=r"model\.d_ff = 192 for 128"):
        Trainer([run(), run(model=MODEL | {"d_ff": 192})], small_tokens)
    with pytest.raises(InputError, match="97"):
        Trainer([run(model=MODEL | {"vocab_size": 96})], small_tokens)
    with pytest.raises(InputError, match="fewer tokens than one window"):
        Trainer([run(model=MODEL | {"context_length": 5000})], small_tokens)
    trainer = Trainer([run(), None], small_tokens)
    with pytest.raises(ValueError, match="slot 1 is empty"):
        trainer.save_slot(1, tmp_path / "empty.safetensors")
    trainer.save_slot(0, tmp_path / "slot.safetensors")
    other = Trainer([run()], Tokens.of(small_tokens.train[1:], small_tokens.val, 97))
    with pytest.raises(ValueError, match="other data"):
        other.restore_slot(0, tmp_path / "slot.safetensors")
    write_checkpoint(tmp_path / "foreign.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="not a slot's"):
        trainer.restore_slot(0, tmp_path / "foreign.safetensors")
    tensors, meta = read_checkpoint(tmp_path / "slot.safetensors")
    del tensors["exp_avg.ln_final.weight"]
    write_checkpoint(tmp_path / "lacking.safetensors", tensors, meta)
    before = trainer.model.slot_state_dict(0)
    with pytest.raises(CheckpointError, match="lacks tensors"):
        trainer.restore_slot(0, tmp_path / "lacking.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.slot_state_dict(0).items())


def test_training_restores_the_number_of_threads(small_tokens):
    torch.set_num_threads(2)
    Trainer([run(steps=1)], small_tokens).advance()
    assert torch.get_num_threads() == 2


def test_a_tied_slots_gradient_norm_does_not_depend_on_whether_its_neighbours_are_tied(small_tokens):
    """Its idle head is a zero in the norm beside untied slots, and no tensor at all where every slot is tied."""
    small = MODEL | {"num_layers": 5, "d_model": 32, "d_ff": 64}  # 47 tensors: most sensitive to one more
    every_step = {"eval_every": 1, "eval_windows": 1}
    tied = [run(seed=seed, tied=True, lr=1e-2, model=small, train=every_step) for seed in range(2)]
    mixed = Trainer([*tied, run(model=small, train=every_step)], small_tokens)
    alike = Trainer(tied, small_tokens)
    assert curves(mixed)[:2] == curves(alike)


def bits(trainer, k):
    """Slot k's weights and moments as integers: NaN equals itself, and -0.0 is not 0.0."""
    tensors, _ = trainer.snapshot_slot(k)
    return {name: tensor.view(torch.int32) for name, tensor in tensors.items()}


def assert_same_bits(before, after):
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def advance_some(trainer, slots):
    """Rows of three batched advances of `slots`; asserts that the inactive slots keep every bit."""
    inactive = [k for k in range(len(trainer.slots)) if k not in slots and trainer.slots[k] is not None]
    before = [bits(trainer, k) for k in inactive]
    rows = [row for _ in range(3) for row in trainer.advance(slots, batched=True)]
    for k, there in zip(inactive, before, strict=True):
        assert_same_bits(there, bits(trainer, k))
    return rows


def test_a_batched_advance_of_some_slots_does_not_change_the_others(small_tokens):
    """The inactive slots include a finished one, an empty one, one that reported earlier, and one that became NaN."""
    short = run(steps=5, seed=5, lr=1e-2)
    runs = [*FIVE, short, None]
    trainer = Trainer(runs, small_tokens)
    rows = trainer.advance([0, 1, 2, 3, 4, 5], batched=True)
    rows += advance_some(trainer, [0, 3])
    rows += advance_some(trainer, [1, 4])
    rows += trainer.advance([0, 2], batched=True)
    for k in (0, 1, 3, 4, 5):
        curve = curves(Trainer([runs[k]], small_tokens))[0]
        together = numbers(row for row in rows if row[col.SLOT] == k)
        assert together == curve[: len(together)]
        assert len(together) >= 1 + 3 * (k in (0, 1, 3, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_an_inactive_slot_keeps_values_that_are_not_finite_and_does_not_spread_them(small_tokens, value):
    trainer = Trainer([FIVE[0], FIVE[1], FIVE[3]], small_tokens)
    trainer.advance(batched=True)
    for part, named in trainer._slot_tensors().items():
        for tensor in named.values():
            tensor.detach()[1].view(-1)[::3] = abs(value) if part == "exp_avg_sq" else value  # of squares
    rows = advance_some(trainer, [0, 2])
    for k, alone in ((0, FIVE[0]), (2, FIVE[3])):
        assert numbers(row for row in rows if row[col.SLOT] == k) == curves(Trainer([alone], small_tokens))[0][1:4]


def test_an_inactive_slot_whose_gradient_is_not_finite_keeps_its_weights(small_tokens):
    wild = run(lr=1e18, clip_norm=None, warmup_fraction=0.0, train={"eval_every": 1, "eval_windows": 1})
    calm = run(lr=1e-2, train={"eval_every": 1, "eval_windows": 1})
    trainer = Trainer([wild, calm], small_tokens)
    trainer.advance([0], batched=True)
    assert all(weight.isfinite().all() for weight in trainer.model.slot_state_dict(0).values())
    rows = advance_some(trainer, [1])
    assert numbers(rows) == curves(Trainer([calm], small_tokens))[0][:3]
    (row,) = trainer.advance([0], batched=True)
    assert not math.isfinite(row[col.GRAD_NORM])  # it was so all the while


@pytest.mark.parametrize("tied", [False, True])
def test_batched_and_looped_advances_of_the_same_slots_give_the_same_rows(small_tokens, tied):
    runs = [run(seed=k, lr=10.0 ** -(k + 1), tied=tied or k == 1) for k in range(4)]
    steps = [[0, 1, 2, 3], [1, 3], [0], [0, 1, 2], [2]]
    batched, looped = (
        (trainer, [row for some in steps for row in trainer.advance(some, batched=way)])
        for way, trainer in ((True, Trainer(runs, small_tokens)), (False, Trainer(runs, small_tokens)))
    )
    assert numbers(batched[1]) == numbers(looped[1])
    for k in range(4):
        assert_same_bits(bits(batched[0], k), bits(looped[0], k))


def test_only_active_slots_advance_and_a_refusal_changes_nothing(small_tokens):
    trainer = Trainer([run(steps=5), run(seed=1), None], small_tokens)
    trainer.advance()
    before = bits(trainer, 1)
    for wrong in ([0], [2], [1, 0], [3], [-1]):
        with pytest.raises(ValueError, match="only active slots can advance"):
            trainer.advance(wrong, batched=True)
    assert_same_bits(before, bits(trainer, 1))
    assert trainer.slots[1].step == 5
    assert trainer.advance([]) == []


def test_compiled_slots_beside_an_inactive_one_are_bitwise_their_compiled_runs_alone(small_tokens):
    small = {
        "model": MODEL | {"num_layers": 1},
        "train": {"compile": True, "eval_every": 2, "eval_windows": 4},
        "steps": 8,
    }
    runs = [run(seed=k, lr=10.0 ** -(k + 1), **small) for k in range(3)]
    trainer = Trainer(runs, small_tokens)
    together = trainer.advance([0, 1, 2], batched=True) + advance_some(trainer, [0, 2])
    alone = Trainer([runs[0]], small_tokens)
    for k in (0, 2):
        alone.load_slot(0, runs[k])
        assert numbers(row for row in together if row[col.SLOT] == k) == curves(alone)[0]
        assert_same_bits(bits(trainer, k), bits(alone, 0))


def test_runs_with_different_batches_report_at_equal_tokens(small_tokens):
    rows = []
    for batch_size in (4, 6, 16):
        train = {"steps": None, "tokens": 40 * 64, "batch_size": batch_size, "eval_every": 10, "eval_tokens": 10 * 64}
        rows.append([row[col.STEP] for row in Trainer([run(train=train)], small_tokens)])
    assert rows == [[10, 20, 30, 40], [7, 13, 20, 27], [3, 5, 8, 10]]  # 6.7, 13.3, ...; 2.5, 5, 7.5, 10, halves up
