"""Points of the training curve: loss and gradient norm of single updates, whatever company a slot is in."""

import math

import pytest
import torch
from pydantic import ValidationError
from test_trainer import FIVE, curves, numbers, run

from lmcore import columns as col
from lmcore.checkpoint import write_checkpoint
from lmcore.clip import clip_grad_norm_
from lmcore.config import RunSpec, TrainConfig
from lmcore.data import get_batch
from lmcore.loss import cross_entropy
from lmcore.model import TransformerLM
from lmcore.optim import AdamW
from lmcore.population.interval_log import IntervalLog
from lmcore.population.population import StepResult
from lmcore.population.slot import Slot
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer


def every(log_every, spec):
    return spec.model_copy(update={"train": spec.train.model_copy(update={"log_every": log_every})})


def points_of(rows):
    return [point for row in rows for point in row[col.POINTS]]


@pytest.mark.parametrize(("log_every", "steps"), [(1, range(12)), (4, (0, 4, 8)), (5, (0, 5, 10)), (100, (0,))])
def test_points_are_the_losses_and_gradients_before_the_updates_of_a_plain_loop(small_tokens, log_every, steps):
    rows = list(Trainer([every(log_every, run(steps=12, lr=1e-2, warmup_fraction=0.25))], small_tokens))
    model = TransformerLM(run().model)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    expected = []
    for step in range(12):
        x, y = get_batch(small_tokens.train, 4, 16, "cpu", 0, step)
        lr = optimizer.param_groups[0]["lr"] = cosine_lr(step + 1, 1e-2, 1e-3, 3, 12)
        optimizer.zero_grad()
        loss = cross_entropy(model(x[None])[0], y)
        loss.backward()
        expected.append((step, loss.item(), clip_grad_norm_(model.parameters(), 1.0).item(), lr))
        optimizer.step()
    points = points_of(rows)
    assert [point[0] for point in points] == list(steps)
    for point in points:
        assert point == pytest.approx(expected[point[0]], rel=1e-5)
    # Each row has the points of the updates since the previous one.
    assert [[point[0] for point in row[col.POINTS]] for row in rows] == [
        [step for step in steps if begin <= step < end] for begin, end in ((0, 5), (5, 10), (10, 12))
    ]
    if log_every == 1:
        assert [row[col.GRAD_NORM] for row in rows] == [points[end - 1][2] for end in (5, 10, 12)]
        assert rows[1][col.TRAIN_LOSS] == math.fsum(point[1] for point in points[5:10]) / 5
        assert [row[col.LR] for row in rows] == [points[end - 1][3] for end in (5, 10, 12)]


@pytest.mark.parametrize("context_length", [16, 10], ids=["batched", "looped"])
def test_slots_that_log_at_different_steps_have_the_points_that_they_have_alone(small_tokens, context_length):
    model = {"context_length": context_length}
    runs = [
        every(n, one.model_copy(update={"model": one.model.model_copy(update=model)}))
        for n, one in zip((1, 3, "auto", 7, 100), FIVE, strict=True)
    ]
    together = curves(Trainer(runs, small_tokens))
    for k, alone in enumerate(runs):
        points = points_of(together[k])
        expected = points_of(curves(Trainer([alone], small_tokens))[0])
        assert torch.equal(*(torch.tensor(one, dtype=torch.float64).nan_to_num(-1.0) for one in (points, expected)))
        assert [point[0] for point in points] == list(range(0, 30, (1, 3, 1, 7, 100)[k]))
    assert math.isnan(points_of(together[2])[-1][1])  # diverged, and still logged


def test_what_is_logged_changes_no_other_number(small_tokens):
    def without_points(rows):
        return [{name: value for name, value in row.items() if name != col.POINTS} for row in numbers(rows)]

    one, other = (without_points(Trainer([every(n, FIVE[3])], small_tokens)) for n in (1, 1000))
    assert one == other


def test_slots_that_advance_apart_and_are_refilled_keep_their_own_points(small_tokens):
    trainer = Trainer([FIVE[0], FIVE[1], None], small_tokens)
    rows = trainer.advance([0, 1], batched=True) + trainer.advance([1], batched=True)
    trainer.load_slot(0, FIVE[3])
    trainer.load_slot(2, FIVE[4])
    rows += trainer.advance([0, 1, 2], batched=True) + trainer.advance([0, 2], batched=True)

    def alone(spec, begin, end):
        return points_of(Trainer([spec], small_tokens))[begin:end]

    assert [row[col.SLOT] for row in rows] == [0, 1, 1, 0, 1, 2, 0, 2]
    assert points_of(rows[:1]) == alone(FIVE[0], 0, 5)
    assert points_of([rows[1], rows[2], rows[4]]) == alone(FIVE[1], 0, 15)
    assert points_of([rows[3], rows[6]]) == alone(FIVE[3], 0, 10)
    assert points_of([rows[5], rows[7]]) == alone(FIVE[4], 0, 10)


def test_a_run_that_is_resumed_anywhere_has_the_points_of_the_uninterrupted_one(small_tokens, tmp_path):
    spec = every(3, run(steps=20, lr=1e-2))
    whole = points_of(Trainer([spec], small_tokens))
    for cut in range(1, 5):  # after 5, 7, 10 and 15 updates
        first = Trainer([spec, run(steps=7)], small_tokens)
        rows = [row for _ in range(cut) for row in first.advance() if row[col.SLOT] == 0]
        snapshot = first.snapshot_slot(0)
        first.save_slot(0, tmp_path / "slot.safetensors")
        known = repr(snapshot[1]["points"])
        first.advance()
        assert repr(snapshot[1]["points"]) == known  # another thread may be writing it
        second = Trainer([None, FIVE[0]], small_tokens)
        second.restore_slot(0, tmp_path / "slot.safetensors")
        rows += [row for row in second if row[col.SLOT] == 0]
        assert points_of(rows) == whole


def test_a_checkpoint_from_before_there_were_points_is_restored(small_tokens, tmp_path):
    trainer = Trainer([run(steps=10)], small_tokens)
    trainer.advance()
    tensors, meta = trainer.snapshot_slot(0)
    del meta["points"], meta["run"]["train"]["log_every"]
    meta["last_row"] = {name: value for name, value in meta["last_row"].items() if name != col.POINTS}
    write_checkpoint(tmp_path / "old.safetensors", tensors, meta)
    other = Trainer([run(steps=10)], small_tokens)
    other.restore_slot(0, tmp_path / "old.safetensors")
    assert points_of(other) == points_of(trainer)


def test_results_may_be_overwritten_once_they_are_added():
    """As the next replay of a CUDA graph does."""
    slot = Slot(every(2, run()), step=3)
    log = IntervalLog([None, slot], 5, torch.float64, "cpu")
    result = StepResult(torch.zeros(2), torch.zeros(2))
    for n in range(5):
        result.losses.copy_(torch.tensor([99.0, n + 0.5]))
        result.grad_norms.copy_(torch.tensor([99.0, n + 0.25]))
        log.add(n, result)
    result.losses.fill_(7.0)
    result.grad_norms.fill_(7.0)
    idle, trained = log.read()
    assert idle is None
    assert (trained.loss_sum, trained.grad_norm) == (12.5, 4.25)
    assert trained.points == [[4, 1.5, 1.25, slot.lr(5)], [6, 3.5, 3.25, slot.lr(7)]]


@pytest.mark.parametrize("steps", [1, 7, 199, 200, 299, 300, 301, 1000, 12_345, 10**7])
def test_by_default_a_run_has_about_200_points(steps):
    count = len(Slot(RunSpec(train=TrainConfig(steps=steps))).logged_steps(steps))
    assert count == steps if steps < 300 else 150 <= count <= 250


def test_the_budget_in_tokens_decides_as_well():
    assert RunSpec(train=TrainConfig(tokens=2048 * 1000)).log_every == 5
    assert RunSpec(train=TrainConfig(steps=1000, log_every=7)).log_every == 7


@pytest.mark.parametrize("value", [0, -5, 2.5, "often", None, True])
def test_only_whole_updates_can_be_between_points(value):
    with pytest.raises(ValidationError, match=r"log_every"):
        TrainConfig(log_every=value)


def test_runs_that_log_at_different_steps_share_a_program():
    assert every(3, run()).static_signature == run().static_signature
