"""Branches of a wsd run against the runs that they equal, and the run itself against one without branches."""

import pytest
import torch
from pydantic import ValidationError
from test_trainer import MODEL, TIMES, numbers, run

from lmcore import columns as col
from lmcore.branches import branch_run, branches_of, updates_by
from lmcore.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from lmcore.config import OptimConfig, RunSpec, TrainConfig
from lmcore.population.slot import Slot
from lmcore.trainer import Trainer

# What a branch's row need not share with the last row of its run alone, which reports more often.
OWN = (*TIMES, col.TRAIN_LOSS, col.BRANCH, col.BRANCHES, col.BEST_WINDOW_LOSSES, col.BEST_STEP, col.POINTS)


def wsd(branches=(0.3, 0.55), steps=40, train=None, **changes):
    optim = {"schedule": "wsd", "warmup_fraction": 0.1, "decay_fraction": 0.25, "lr": 1e-2}
    return run(steps=steps, train={"branches": branches, "final_eval_windows": 24, **(train or {})}, **optim | changes)


MIXED = [
    wsd(),  # leaves at 9 and 16, ends at 12 and 22
    wsd((0.4, 0.5, 0.8, 1.0), steps=50, lr=3e-2, seed=1, tied=True, decay_fraction=0.5, warmup_fraction=0.0),
    wsd((0.7,), steps=29, seed=2, clip_norm=0.1, min_lr_ratio=0.0, model={**MODEL, "dropout": 0.0}),
]


def without(spec):
    return spec.model_copy(update={"train": spec.train.model_copy(update={"branches": None})})


def state(trainer, k):
    """Weights and optimizer state of what slot k trains."""
    return {
        f"{part}.{name}": named[name].detach()[k].clone()
        for part, named in trainer._slot_tensors().items()
        for name in trainer.model.slot_names(k)
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def comparable(row):
    return {name: value for name, value in row.items() if name not in OWN}


def trunk(rows):
    """Numbers of the rows of the run itself, without what they say about branches."""
    return [{name: value for name, value in row.items() if name != col.BRANCHES} for row in numbers(rows)]


def timeless(rows):
    """`numbers` of rows and of the branches' rows in them."""
    return [{**row, col.BRANCHES: numbers(row[col.BRANCHES])} for row in numbers(rows)]


def trained(runs, tokens, batched=None):
    """All rows by slot, and the weights and state with which each branch ended."""
    trainer = Trainer(runs, tokens)
    rows, states = [[] for _ in runs], {}
    while trainer.active:
        for row in trainer.advance(batched=batched):
            rows[row[col.SLOT]].append(row)
            if row[col.BRANCH] is not None:
                states[row[col.SLOT], row[col.BRANCH]] = state(trainer, row[col.SLOT])
    return trainer, rows, states


def assert_equal_to_runs_from_the_start(runs, tokens, batched=None):
    trainer, rows, states = trained(runs, tokens, batched)
    for k, spec in enumerate(runs):
        ended = [row for row in rows[k] if row[col.BRANCH] is not None]
        assert [row[col.BRANCH] for row in ended] == [branch.fraction for branch in branches_of(spec)]
        for row in ended:
            alone = Trainer([branch_run(spec, row[col.BRANCH])], tokens)
            *_, last = alone
            assert comparable(row) == comparable(last)
            assert row[col.FINAL_WINDOWS] == 24
            assert_same(states[k, row[col.BRANCH]], state(alone, 0))
        alone = Trainer([without(spec)], tokens)
        assert trunk(row for row in rows[k] if row[col.BRANCH] is None) == trunk(alone)
        assert_same(state(trainer, k), state(alone, 0))


@pytest.mark.parametrize("spec", MIXED, ids=["two", "three", "one"])
def test_a_branch_is_bitwise_the_run_from_the_start_and_the_run_is_as_without_branches(small_tokens, spec):
    assert_equal_to_runs_from_the_start([spec], small_tokens)


@pytest.mark.parametrize("batched", [None, True, False], ids=["as it pays", "batched", "looped"])
def test_so_are_those_of_packed_slots_that_leave_at_different_updates(small_tokens, batched):
    assert_equal_to_runs_from_the_start(MIXED, small_tokens, batched)


def test_so_are_those_with_dropout_and_micro_batches(small_tokens):
    specs = [wsd(seed=seed, model={**MODEL, "dropout": 0.1}, train={"micro_batch_size": 2}) for seed in (0, 1)]
    assert_equal_to_runs_from_the_start(specs, small_tokens)


def test_several_branches_may_leave_at_one_update(small_tokens):
    spec = wsd((0.1, 0.4, 0.9), decay_fraction=1.0, warmup_fraction=0.0)
    assert [branch.begin for branch in branches_of(spec)] == [0, 0, 0]
    assert_equal_to_runs_from_the_start([spec], small_tokens)


def test_the_row_after_a_branch_repeats_the_rows_of_the_branches_that_ended(small_tokens):
    rows = list(Trainer([wsd()], small_tokens))
    assert [(row[col.STEP], row[col.BRANCH]) for row in rows] == [
        *((5, None), (12, 0.3), (10, None), (15, None), (22, 0.55)),
        *((step, None) for step in (20, 25, 30, 35, 40)),
    ]
    told = {row[col.STEP]: row[col.BRANCHES] for row in rows if row[col.BRANCHES]}
    assert told == {10: [rows[1]], 20: [rows[4]]}
    assert [len(row[col.WINDOW_LOSSES]) for row in rows if row[col.BRANCH] is not None] == [24, 24]


def test_checkpoints_of_every_moment_continue_bitwise_what_they_were_in(small_tokens, tmp_path):
    runs = [wsd(), wsd((0.4,), steps=30, tied=True, seed=3)]
    moments = snapshots(runs, small_tokens, tmp_path)
    whole = Trainer(runs, small_tokens)
    rows = list(whole)
    kinds = set()
    for file, k, seen in moments:
        other = Trainer([without(MIXED[0]), None, None], small_tokens)
        other.restore_slot(2, file)
        slot = other.slots[2]
        kinds.add("in" if slot.branch else "after" if slot.branches_done else "before")
        rest = [row for row in rows if row[col.SLOT] == k][seen:]
        assert timeless(row for row in other if row[col.SLOT] == 2) == timeless(rest)
        assert_same(state(other, 2), state(whole, k))
    assert kinds == {"before", "in", "after"}


def snapshots(runs, tokens, folder):
    """A checkpoint of every slot at every moment at which there can be one, and how many rows of it came before."""
    trainer = Trainer(runs, tokens)
    seen, moments = [0] * len(runs), []
    while trainer.active:
        for row in trainer.advance():
            seen[row[col.SLOT]] += 1
        for k in range(len(runs)):
            moments.append((folder / f"{len(moments)}.safetensors", k, seen[k]))
            trainer.save_slot(k, moments[-1][0])
    return moments


def test_a_checkpoint_in_a_branch_has_the_trunk_under_its_usual_names_and_all_of_the_branch(small_tokens, tmp_path):
    trainer = Trainer([wsd((0.9,), steps=100)], small_tokens)  # leaves at 68, ends at 90
    while trainer.slots[0].step < 68:
        trainer.advance()
    before, _ = trainer.snapshot_slot(0)
    trainer.advance()
    trainer.save_slot(0, tmp_path / "slot.safetensors")
    tensors, meta = read_checkpoint(tmp_path / "slot.safetensors")
    assert (meta["step"], meta["branch"]["step"]) == (68, 70)
    assert_same({name: tensor for name, tensor in tensors.items() if name in before}, before)
    assert {name.removeprefix("branch.") for name in tensors} == set(before)
    damaged = {name: tensor for name, tensor in tensors.items() if name != "branch.exp_avg.lm_head.weight"}
    write_checkpoint(tmp_path / "slot.safetensors", damaged, meta)
    with pytest.raises(CheckpointError, match="lacks tensors of its run, or has others"):
        Trainer([None, wsd()], small_tokens).restore_slot(0, tmp_path / "slot.safetensors")


def test_a_slot_that_is_freed_in_a_branch_can_be_loaded_again(small_tokens):
    trainer = Trainer([wsd()], small_tokens)
    while trainer.slots[0].branch is None:
        trainer.advance()
    trainer.free_slot(0)
    trainer.load_slot(0, wsd())
    assert timeless(trainer) == timeless(Trainer([wsd()], small_tokens))


@pytest.mark.parametrize("steps", [40, 137, 1000, 4999])
@pytest.mark.parametrize("warmup", [0.0, 0.013, 0.05])
@pytest.mark.parametrize(("lr", "ratio"), [(3e-3, 0.1), (0.1, 0.3), (7.3e-4, 0.0), (1e-2, 1 / 3)])
def test_a_branch_has_the_learning_rates_of_its_run_to_the_last_bit(steps, warmup, lr, ratio):
    spec = wsd((0.12, 0.31, 0.5, 0.77), steps=steps, warmup_fraction=warmup, lr=lr, min_lr_ratio=ratio)
    for branch in branches_of(spec):
        alone = branch_run(spec, branch.fraction)
        assert (alone.steps, alone.warmup_steps) == (round(branch.fraction * steps), spec.warmup_steps)
        assert branch.updates == alone.decay_steps == round(0.25 * alone.steps)
        own, trunk = Slot(alone), Slot(spec)
        assert [own.lr(t) for t in range(1, branch.begin + 1)] == [trunk.lr(t) for t in range(1, branch.begin + 1)]
        assert own.lr(alone.steps) == pytest.approx(ratio * lr)


def test_what_branches_cost_is_the_updates_of_their_decays():
    spec = wsd((0.25, 0.5), steps=1000)
    assert [branch.updates for branch in branches_of(spec)] == [62, 125]
    assert [updates_by(spec, step) for step in (188, 189, 375, 376, 1000)] == [188, 251, 437, 563, 1187]


def test_the_run_of_a_branch_is_valid_and_differs_in_budget_and_warm_up_alone():
    spec = wsd((0.25,), steps=None, train={"tokens": 100_000})
    alone = branch_run(spec, 0.25)
    assert RunSpec.model_validate(alone.model_dump()) == alone
    assert alone.steps == round(0.25 * spec.steps)
    changed = {"train": {"tokens": None, "steps": alone.steps, "branches": None}}
    changed["optim"] = {"warmup_fraction": alone.optim.warmup_fraction}
    parts = {part: getattr(spec, part).model_copy(update=fields) for part, fields in changed.items()}
    assert spec.model_copy(update=parts) == alone


@pytest.mark.parametrize(
    ("train", "optim", "message"),
    [
        ({"branches": [0.5]}, {"schedule": "cosine"}, r"optim.schedule must be wsd with .*\(got cosine\)"),
        ({"branches": [0.05]}, {}, r"must begin their decay after warm-up \(got 0.05, .* update 40, with 100 of"),
        ({"branches": [0.5, 0.5001]}, {}, r"must round to different updates \(got 0.5001 and 0.5, both 500 of 1000\)"),
        ({"branches": [0.5, 0.9999]}, {}, r"must round to different updates \(got 0.9999 and 1, both 1000 of 1000\)"),
        ({"branches": [0.0001]}, {"warmup_fraction": 0.0}, r"an update to decay in \(got 0.0001, 0 of 1000"),
        ({"branches": [0.5]}, {"decay_fraction": 0.0}, r"an update to decay in \(got 0.5, 500 of 1000 updates\)"),
    ],
)
def test_branches_that_a_run_cannot_have_are_refused_with_the_remedy(train, optim, message):
    optim = {"schedule": "wsd", "warmup_fraction": 0.1, **optim}
    with pytest.raises(ValidationError, match=message):
        RunSpec(train=TrainConfig(steps=1000, **train), optim=OptimConfig(**optim))


@pytest.mark.parametrize("branches", [[0.5, 0.25], [0.5, 0.5], [0.0], [1.5], ["0.5"], 0.5, [True]])
def test_branches_are_an_ascending_list_of_fractions(branches):
    with pytest.raises(ValidationError, match="branches"):
        TrainConfig(branches=branches)


def test_one_is_the_run_itself():
    assert TrainConfig(branches=[0.5, 1]).branches == (0.5, 1.0)
    assert branches_of(wsd((0.5, 1.0))) == branches_of(wsd((0.5,)))
