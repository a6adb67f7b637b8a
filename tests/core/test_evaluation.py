"""Validation: the small set of windows at every report, the large one at the end, and the losses of single windows."""

import math

import pytest
import torch
from test_trainer import FINAL, FIVE, MODEL, curves, numbers, run

from lmcore import columns as col
from lmcore.data import validation_windows
from lmcore.loss import cross_entropy
from lmcore.trainer import Trainer


def test_validation_reports_the_mean_over_fixed_windows_and_its_standard_error(small_tokens):
    trainer = Trainer([run(steps=10)], small_tokens)
    row = trainer.advance()[0]
    losses = plain_window_losses(trainer, 0, small_tokens, 8)
    assert row[col.VAL_LOSS] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert row[col.VAL_LOSS_SE] == pytest.approx(losses.std().item() / math.sqrt(8), rel=1e-4)
    assert row[col.WINDOW_LOSSES] == pytest.approx(losses.tolist(), rel=1e-5)
    assert row[col.VAL_LOSS] == math.fsum(row[col.WINDOW_LOSSES]) / 8
    assert [row[name] for name in FINAL] == [None] * 3  # updates are left


def plain_window_losses(trainer, k, tokens, windows, context_length=16):
    """Reference: one window after the other through slot k's model and cross_entropy."""
    x, y = validation_windows(tokens.val, context_length, windows)
    model = trainer.model.slot_view(k)
    with torch.no_grad():
        losses = [cross_entropy(model(x[i][None, None])[0, 0], y[i]) for i in range(len(x))]
    return torch.stack(losses).double()


# In batches of 4, so some last batches are not full. auto: 6 for the 10 x 4 windows trained on, but no fewer than 7.
@pytest.mark.parametrize(
    ("train", "count"),
    [
        ({"final_eval_windows": 37}, 37),
        ({"final_eval_windows": 3}, 3),
        ({"final_eval_windows": 10**9}, 249),  # all that 4000 tokens hold
        ({"eval_windows": 2}, 6),
        ({"eval_windows": 7}, 7),
    ],
)
def test_after_the_last_update_the_loss_is_measured_on_more_windows(small_tokens, train, count):
    trainer = Trainer([run(steps=10, train=train)], small_tokens)
    first, last = list(trainer)
    losses = plain_window_losses(trainer, 0, small_tokens, count)
    assert last[col.FINAL_WINDOWS] == len(losses) == len(last[col.WINDOW_LOSSES]) == count
    assert last[col.WINDOW_LOSSES] == pytest.approx(losses.tolist(), rel=1e-5)
    assert last[col.FINAL_VAL_LOSS] == math.fsum(last[col.WINDOW_LOSSES]) / count
    assert last[col.FINAL_VAL_LOSS] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert last[col.FINAL_VAL_LOSS_SE] == pytest.approx(losses.std().item() / math.sqrt(count), rel=1e-4)
    small = plain_window_losses(trainer, 0, small_tokens, trainer.slots[0].run.train.eval_windows)
    assert last[col.VAL_LOSS] == pytest.approx(small.mean().item(), rel=1e-6)
    assert [first[name] for name in FINAL] == [None] * 3
    assert len(first[col.WINDOW_LOSSES]) == trainer.slots[0].run.train.eval_windows


@pytest.mark.parametrize("context_length", [16, 10], ids=["batched", "looped"])
def test_final_losses_are_bitwise_those_of_the_run_alone_in_any_company(small_tokens, context_length):
    """Runs of several lengths want different numbers of windows, and end together with some and after others."""
    model = MODEL | {"context_length": context_length}
    train = {"eval_windows": 5, "eval_every": 20}
    runs = [run(steps=n, seed=k, lr=1e-2, model=model, train=train) for k, n in enumerate((40, 60, 60, 67))]
    together = curves(Trainer(runs, small_tokens))
    for curve, alone in zip(together, runs, strict=True):
        assert curve == curves(Trainer([alone], small_tokens))[0]
        assert curve[-1][col.FINAL_WINDOWS] == 3 * 4 * alone.train.steps // 20
    same = [run(steps=40, seed=k, lr=1e-2, tied=k == 1, model=model, train=train) for k in range(3)]
    batched, looped = (
        [row for _ in range(2) for row in Trainer(same, small_tokens).advance(batched=way)] for way in (True, False)
    )
    assert numbers(batched) == numbers(looped)


def test_compiled_final_losses_are_bitwise_those_of_the_compiled_run_alone(small_tokens):
    train = {"compile": True, "eval_windows": 4, "final_eval_windows": 13}
    runs = [run(steps=5, seed=k, lr=1e-2, train=train, model=MODEL | {"num_layers": 1}) for k in range(2)]
    together = curves(Trainer(runs, small_tokens))
    assert together == [curves(Trainer([alone], small_tokens))[0] for alone in runs]


def test_rows_carry_the_window_losses_of_the_evaluation_with_the_lowest_loss(small_tokens, tmp_path):
    wild = run(steps=60, lr=3.0, warmup_fraction=0.0, min_lr_ratio=1.0)  # its losses go up and down
    rows = list(Trainer([wild], small_tokens))
    losses = [row[col.VAL_LOSS] for row in rows]
    assert losses != sorted(losses)
    assert losses != sorted(losses, reverse=True)
    for n, row in enumerate(rows):
        best = min(rows[: n + 1], key=lambda row: row[col.VAL_LOSS])
        assert row[col.BEST_STEP] == best[col.STEP]
        assert math.fsum(row[col.BEST_WINDOW_LOSSES]) / 8 == best[col.VAL_LOSS]
    # A run that was resumed in the middle has the same, whatever it met before.
    for cut in range(1, len(rows)):
        trainer = Trainer([wild], small_tokens)
        for _ in range(cut):
            trainer.advance()
        trainer.save_slot(0, tmp_path / "slot.safetensors")
        other = Trainer([FIVE[0]], small_tokens)
        other.restore_slot(0, tmp_path / "slot.safetensors")
        assert numbers(other) == numbers(rows[cut:])


def test_a_loss_that_is_not_finite_is_never_the_best(small_tokens):
    nan = FIVE[2]
    rows = list(Trainer([nan], small_tokens))
    assert not math.isfinite(rows[-1][col.VAL_LOSS])
    assert not math.isfinite(rows[-1][col.FINAL_VAL_LOSS])
    finite = [row for row in rows if math.isfinite(row[col.VAL_LOSS])]
    best = min(finite, key=lambda row: row[col.VAL_LOSS]) if finite else {col.STEP: None, col.WINDOW_LOSSES: None}
    assert (rows[-1][col.BEST_STEP], rows[-1][col.BEST_WINDOW_LOSSES]) == (best[col.STEP], best[col.WINDOW_LOSSES])
