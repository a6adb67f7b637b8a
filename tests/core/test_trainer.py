"""A population's slots against each run alone, and what can be done with slots between intervals."""

import math

import pytest
import torch

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from lmcore.clip import clip_grad_norm_
from lmcore.config import ModelConfig, OptimConfig, RunSpec, TrainConfig
from lmcore.data import get_batch
from lmcore.errors import InputError
from lmcore.loss import cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import AdamW
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer

MODEL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}
TIMES = (col.SLOT, col.TOKENS_PER_S, col.ELAPSED_S)


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
    run(lr=1e30, beta1=0.9, beta2=0.9, warmup_fraction=0.0, clip_norm=None, seed=2, min_lr_ratio=1.0),  # to NaN
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
def test_each_of_five_slots_equals_its_run_alone_bitwise_though_one_goes_to_nan(small_tokens, shape, dtype):
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


def test_one_slot_trains_like_a_plain_loop_over_the_public_pieces(small_tokens):
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


def test_compiled_training_gives_the_numbers_of_eager_training_to_rounding(small_tokens):
    small = MODEL | {"num_layers": 1}
    eager, compiled = (
        curves(Trainer([run(steps=10, lr=1e-2, model=small, train={"compile": c})], small_tokens))[0]
        for c in (False, True)
    )
    for name in (col.TRAIN_LOSS, col.VAL_LOSS, col.GRAD_NORM):
        assert [row[name] for row in compiled] == pytest.approx([row[name] for row in eager], rel=1e-4)
    assert compiled != eager  # it was compiled: the last bits differ


def test_training_learns_what_is_to_be_learned(small_tokens):
    rows = list(Trainer([run(steps=200, lr=1e-2, train={"eval_every": 100})], small_tokens))
    assert rows[-1][col.VAL_LOSS] < small_tokens.unigram_entropy - 1.5
    assert 0 < rows[-1][col.VAL_LOSS_SE] < 0.2


def test_validation_reports_the_mean_over_fixed_windows_and_its_standard_error(small_tokens):
    from lmcore.data import validation_windows

    trainer = Trainer([run(steps=5)], small_tokens)
    (row,) = list(trainer)
    x, y = validation_windows(small_tokens.val, 16, 8)
    with torch.no_grad():
        losses = torch.stack([cross_entropy(trainer.model(x[i][None, None])[0, 0], y[i]) for i in range(8)]).double()
    assert row[col.VAL_LOSS] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert row[col.VAL_LOSS_SE] == pytest.approx(losses.std().item() / math.sqrt(8), rel=1e-4)


def test_a_freed_slot_is_refilled_between_intervals_and_nobody_notices(small_tokens):
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


def test_a_finished_slot_is_not_touched_by_its_neighbours_even_where_its_gradient_is_not_finite(small_tokens):
    wild = run(steps=1, lr=1e15, clip_norm=None, warmup_fraction=0.0)
    trainer = Trainer([wild, run(steps=10)], small_tokens)
    trainer.advance()
    before = trainer.model.slot_state_dict(0)
    assert all(weight.isfinite().all() for weight in before.values())
    list(trainer)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.slot_state_dict(0).items())


def test_refilling_and_retying_slots_compiles_nothing_again(small_tokens):
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


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_slot_continues_elsewhere_bit_for_bit(small_tokens, tmp_path, tied):
    whole = Trainer([run(tied=tied, lr=1e-2, seed=4)], small_tokens)
    (curve,) = curves(whole)
    first = Trainer([FIVE[0], run(tied=tied, lr=1e-2, seed=4)], small_tokens)
    for _ in range(3):
        first.advance()
    first.save_slot(1, tmp_path / "slot.safetensors")
    second = Trainer([FIVE[1], None, None], small_tokens)
    second.restore_slot(2, tmp_path / "slot.safetensors")
    assert curves(second)[2] == curve[3:]
    assert_same_weights(second, 2, whole, 0)


def test_a_saved_trainer_continues_all_its_slots_even_in_the_middle_of_an_interval(small_tokens, tmp_path):
    runs = [run(steps=30, lr=1e-2), run(steps=7, seed=1), None]
    whole = curves(Trainer(runs, small_tokens))
    first = Trainer(runs, small_tokens)
    first.advance()
    assert [row[col.SLOT] for row in first.advance()] == [1]  # step 7: slot 0 is on its way from 5 to 10
    first.save(tmp_path)
    second = Trainer([FIVE[4]] * 3, small_tokens)
    second.restore(tmp_path)
    assert second.slots[2] is None
    rest = curves(second)
    assert rest[0] == whole[0][1:]
    assert rest[1] == []


def test_a_tied_slots_checkpoint_holds_no_idle_head(small_tokens, tmp_path):
    trainer = Trainer([run(tied=True), run()], small_tokens)
    trainer.save(tmp_path)
    tied, _ = read_checkpoint(tmp_path / "slot-0.safetensors")
    untied, _ = read_checkpoint(tmp_path / "slot-1.safetensors")
    heads = {f"{part}.lm_head.weight" for part in ("model", "exp_avg", "exp_avg_sq")}
    assert set(untied) - set(tied) == heads


def test_what_does_not_fit_is_refused(small_tokens, tmp_path):
    from lmcore.tokens import Tokens

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


def test_a_saved_slot_knows_its_last_report_and_continues_under_other_threads(small_tokens, tmp_path):
    trainer = Trainer([run()], small_tokens)
    (row,) = trainer.advance()
    trainer.save_slot(0, tmp_path / "slot.safetensors")
    other = Trainer([run(train={"threads": 2})], small_tokens)
    other.restore_slot(0, tmp_path / "slot.safetensors")
    assert other.slots[0].last_row == row
    assert other.slots[0].run.train.threads == 2


def test_training_leaves_the_number_of_threads_as_it_was(small_tokens):
    torch.set_num_threads(2)
    Trainer([run(steps=1)], small_tokens).advance()
    assert torch.get_num_threads() == 2
