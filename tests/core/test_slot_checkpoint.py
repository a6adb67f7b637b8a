"""Slots that are saved and restored go on bit for bit, also from checkpoints of earlier versions."""

import pytest
from test_trainer import FINAL, FIVE, assert_same_weights, curves, numbers, run

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint, write_checkpoint
from lmcore.trainer import Trainer


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


def test_a_saved_trainer_continues_all_its_slots_even_between_two_reports(small_tokens, tmp_path):
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


def test_a_checkpoint_from_before_optimizers_had_names_is_restored(small_tokens, tmp_path):
    trainer = Trainer([run()], small_tokens)
    trainer.advance()
    tensors, meta = trainer.snapshot_slot(0)
    assert meta["run"]["optim"].pop("name") == "adamw"
    assert meta["run"]["optim"].pop("schedule") == "cosine"
    write_checkpoint(tmp_path / "old.safetensors", tensors, meta)
    other = Trainer([run()], small_tokens)
    other.restore_slot(0, tmp_path / "old.safetensors")
    assert curves(other) == curves(trainer)


def test_a_checkpoint_from_before_window_losses_is_restored(small_tokens, tmp_path):
    trainer = Trainer([run()], small_tokens)
    for _ in range(2):
        trainer.advance()
    tensors, meta = trainer.snapshot_slot(0)
    for name in ("best_val_loss", "best_step", "best_window_losses"):
        del meta[name]
    del meta["run"]["train"]["final_eval_windows"]
    new = (*FINAL, *col.WINDOW_COLUMNS)
    meta["last_row"] = {name: value for name, value in meta["last_row"].items() if name not in new}
    write_checkpoint(tmp_path / "old.safetensors", tensors, meta)
    other = Trainer([run()], small_tokens)
    other.restore_slot(0, tmp_path / "old.safetensors")
    assert curves(other) == curves(trainer)
    assert col.quoted_loss(other.slots[0].last_row) == other.slots[0].last_row[col.FINAL_VAL_LOSS]


def test_a_saved_slot_has_its_last_report_and_continues_with_another_number_of_threads(small_tokens, tmp_path):
    trainer = Trainer([run()], small_tokens)
    (row,) = trainer.advance()
    trainer.save_slot(0, tmp_path / "slot.safetensors")
    other = Trainer([run(train={"threads": 2})], small_tokens)
    other.restore_slot(0, tmp_path / "slot.safetensors")
    assert other.slots[0].last_row == row
    assert other.slots[0].run.train.threads == 2


def test_a_snapshot_written_later_equals_the_file_that_save_slot_writes_now(small_tokens, tmp_path):
    trainer = Trainer([run(lr=1e-2), run(lr=1e-2, seed=1, tied=True)], small_tokens)
    trainer.advance()
    for k in (0, 1):
        trainer.save_slot(k, tmp_path / f"now-{k}.safetensors")
    snapshots = [trainer.snapshot_slot(k) for k in (0, 1)]
    trainer.advance()
    trainer.load_slot(0, FIVE[1])
    for k, snapshot in enumerate(snapshots):
        write_checkpoint(tmp_path / f"later-{k}.safetensors", *snapshot)
        now, later = ((tmp_path / f"{when}-{k}.safetensors").read_bytes() for when in ("now", "later"))
        assert now == later
    with pytest.raises(ValueError, match="slot 2 is empty"):
        Trainer([run(), run(), None], small_tokens).snapshot_slot(2)


def test_a_run_resumes_between_reports_at_equal_tokens_as_if_it_had_never_stopped(small_tokens, tmp_path):
    aligned = run(steps=13, train={"batch_size": 16, "eval_every": 10, "eval_tokens": 10 * 64})
    whole, trainer = Trainer([aligned], small_tokens), Trainer([aligned], small_tokens)
    expected = numbers(whole)
    trainer.advance()
    trainer.save(tmp_path)
    resumed = Trainer([aligned], small_tokens)
    resumed.restore(tmp_path)
    assert numbers(resumed) == expected[1:]
