"""Branches of a sweep's trials: rows, study and windows are those of runs from the start, whatever is killed."""

import json
import threading
import time

import numpy as np
import optuna
import pytest
from test_ledger import row as reported

from lmcore import columns as col
from lmcore.branches import branch_run
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.device import spent_flops, training_flops
from lmcore.trainer import Trainer
from lmcore.window_records import read_records
from sweeps.callbacks.metrics_file import last_rows
from sweeps.callbacks.tracked_trial import best_before
from sweeps.callbacks.tracking import follow
from sweeps.cli.dry_run import plan, print_plan
from sweeps.engine.trainers import Trainers
from sweeps.rundir.checkpoints import checkpoint_files, step_of
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.early_rows import decode, encode
from sweeps.study.ledger import Ledger
from tests.faults.sweeping import (
    curves,
    descendants,
    kill,
    resume_command,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    sweep_without_ray,
    wait_until,
)
from tests.training import train_without_ray

# Of 60 updates: leave after 12 and 24, end after 24 and 48.
TRAIN = {"steps": 60, "batch_size": 4, "eval_every": 10, "eval_windows": 8, "branches": [0.4, 0.8]}
OPTIM = {"schedule": "wsd", "decay_fraction": 0.5, "warmup_fraction": 0.1}
MODEL = {"d_model": 64, "num_layers": 1, "num_heads": 2, "d_ff": 128, "context_length": 16, "vocab_size": 61}
NUMBERS = (*col.LOSS_COLUMNS, col.GRAD_NORM, col.LR, col.TOKENS)


def spec(train=None, **search):
    return SweepSpec.model_validate(
        {
            "name": "branched",
            "data": {"source": "tokens.npy", "vocab_size": 61},
            "model": MODEL,
            "train": TRAIN | {"device": "cpu", "dtype": "float32", "compile": False, "threads": 1} | (train or {}),
            "optim": OPTIM,
            "search": {"method": "random", "scheduler": "none", "trials": 2} | search,
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-1, "log": True}},
            "tracking": {"wandb": "off"},
        }
    )


@pytest.fixture(scope="module")
def tokens():
    ids = np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)) % 61
    return Tokens.of(ids[:16_000], ids[16_000:], 61)


@pytest.fixture
def folder(tokens, in_tmp):
    np.save("tokens.npy", np.zeros(100, np.uint16))
    return train_without_ray(spec(), tokens, in_tmp / "branched")


def study_of(folder, name="main"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder.path}/study.db")


def assert_rows_are_those_of_runs_from_the_start(row, alone_run, tokens):
    *_, last = Trainer([alone_run], tokens)
    wanted = {name: last[name] for name in NUMBERS if name != col.TRAIN_LOSS}
    assert {name: row[name] for name in wanted} == wanted


def test_branches_are_rows_of_their_own_and_results_in_the_study_and_windows_in_the_file(folder, tokens):
    study, lines = study_of(folder), [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    windows = {
        (header["trial"], header["branch"]): (header["step"], header["set"], losses.tolist())
        for header, losses, _ in read_records(folder.window_losses.read_bytes())
        if header.get("evaluation") == "branch"
    }
    for trial in study.trials:
        name, spec_ = trial.user_attrs[col.TRIAL], RunSpec.model_validate(trial.user_attrs[col.RUN])
        mine = [line for line in lines if line[col.TRIAL] == name]
        ended = [line for line in mine if line[col.BRANCH] is not None]
        assert [(line[col.BRANCH], line[col.STEP], line[col.STATUS]) for line in ended] == [
            (0.4, 24, col.RUNNING),
            (0.8, 48, col.RUNNING),
        ]
        assert [line[col.STEP] for line in mine] == [10, 24, 20, 48, 30, 40, 50, 60]  # before the row that tells of it
        for line in ended:
            assert_rows_are_those_of_runs_from_the_start(line, branch_run(spec_, line[col.BRANCH]), tokens)
            step, kind, losses = windows[name, line[col.BRANCH]]
            assert (step, kind, len(losses)) == (line[col.STEP], "final", line[col.FINAL_WINDOWS])
            assert np.mean(losses) == pytest.approx(line[col.FINAL_VAL_LOSS], abs=1e-6)
        assert trial.user_attrs[col.BRANCHES] == [{name: line[name] for name in col.BRANCH_COLUMNS} for line in ended]
        assert list(trial.intermediate_values) == [10, 20, 30, 40, 50, 60]
        assert trial.value == mine[-1][col.FINAL_VAL_LOSS]
    assert len(windows) == 4


def test_whoever_reads_rows_of_a_trial_gets_those_of_its_trunk(folder):
    assert {row[col.STEP] for row in last_rows(folder.metrics).values()} == {60}
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    own = [line for line in lines if line[col.TRIAL] == "main-0000" and line[col.BRANCH] is None]
    assert best_before(folder, "main-0000", 61) == min((line[col.VAL_LOSS], line[col.STEP]) for line in own)


def test_a_trial_that_is_stopped_keeps_the_branches_that_have_ended(in_tmp):
    ledger = Ledger(spec(scheduler="asha-stop", grace_steps=10, trials=4), optuna.storages.InMemoryStorage())
    branch = reported(24, 3.0) | {col.BRANCH: 0.4}
    for loss in (3.0, 9.0):
        live = ledger.ask("main")
        ledger.report(live.id, reported(10, 4.0 + loss / 100))
        status = ledger.report(live.id, reported(20, loss) | {col.BRANCHES: [branch]})
        ledger.report(live.id, reported(20, loss) | {col.BRANCHES: [branch]})  # repeated by a worker
        if status == col.RUNNING:
            for step in range(30, 61, 10):
                ledger.report(live.id, reported(step, loss))
        ledger.end(live.id)
    complete, stopped = ledger.studies["main"].study.trials[:2]
    assert stopped.user_attrs[col.STATUS] in (col.PRUNED, col.DIVERGED)
    for trial in (complete, stopped):
        (kept,) = trial.user_attrs[col.BRANCHES]
        assert (kept[col.BRANCH], kept[col.STEP], kept[col.VAL_LOSS]) == (0.4, 24, 3.0)
        assert 24 not in trial.intermediate_values


def test_a_branch_without_a_finite_loss_is_recorded_and_no_verdict_on_its_trial():
    ledger = Ledger(spec(), optuna.storages.InMemoryStorage())
    live = ledger.ask("main")
    lost = reported(24, float("nan")) | {col.BRANCH: 0.4}
    assert ledger.report(live.id, reported(20, 3.0) | {col.BRANCHES: [lost]}) == col.RUNNING
    assert ledger.studies["main"].study.trials[0].user_attrs[col.BRANCHES][0][col.VAL_LOSS] is None


def test_rows_that_arrive_early_keep_their_branches():
    row = reported(20, 3.0) | {col.BRANCHES: [reported(24, 2.9) | {col.BRANCH: 0.4}]}
    assert decode(encode("main-0000", row)) == ("main-0000", row)


def test_a_checkpoint_written_in_a_branch_continues_it_and_stands_for_the_update_where_it_left(tokens, tmp_path):
    run = spec({"eval_every": 4}).run_for("main", {})
    signature = run.static_signature
    whole = list(Trainer([run], tokens))

    def opened():
        trainers = Trainers(slots=1, memory_bytes=2**32)
        trainers.share(tokens)
        trainers.open(run)
        return trainers

    first = opened()
    assert first.load(signature, 0, run, tmp_path) == (None, [])
    rows, intervals = [], 0
    while not (rows and rows[-1][col.STEP] == 24 and intervals == 3):
        found, snapshots = first.advance(signature, [0], batched=False)
        rows += found.values()
        intervals = 0 if found else intervals + 1
        for snapshot in snapshots.values():
            first.save(tmp_path, snapshot)
    unsaved = first.unsaved(signature, 0)
    assert (unsaved[1]["step"], unsaved[1]["branch"]["step"]) == (24, 36)
    first.save(tmp_path, unsaved)
    assert [step_of(file) for file in checkpoint_files(tmp_path)] == [20, 24]
    second = opened()
    last, skipped = second.load(signature, 0, run, tmp_path)
    assert (last[col.STEP], skipped) == (24, [])
    while rows[-1][col.STEP] < 60:
        rows += second.advance(signature, [0], batched=False)[0].values()
    own = [row for row in whole if row[col.BRANCH] is None]
    names = (col.STEP, *NUMBERS, col.WINDOW_LOSSES)
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in own]
    told, wanted = ([branch for row in one for branch in row[col.BRANCHES]] for one in (rows, own))
    assert [[row[name] for name in names] for row in told] == [[row[name] for name in names] for row in wanted]


def test_the_dry_run_counts_what_branches_cost(capsys):
    branched, plain = spec(), spec({"branches": None})
    print_plan(branched)
    assert "the decays of the branches 0.4, 0.8 add 60% to the tokens of a trial" in capsys.readouterr().out
    tokens = [plan(one).trials[0].tokens for one in (plain, branched)]
    assert tokens == [60 * 64, 96 * 64]
    run = branched.run_for("main", {})
    assert spent_flops(run) == pytest.approx(1.6 * training_flops(run))
    assert spent_flops(run, 20) == pytest.approx(32 / 60 * training_flops(run))


def test_branches_are_a_field_of_a_run_that_tensorboard_can_show():
    from sweeps.callbacks.tensorboard_tracker import _hparam

    assert _hparam((0.4, 0.8)) == "0.4, 0.8"


def test_a_tracker_follows_the_rows_of_the_trunk_alone(folder):
    ended = threading.Event()
    ended.set()
    assert {(row[col.BRANCH], row[col.STEP]) for row in follow(folder.metrics, ended)} == {
        (None, step) for step in range(10, 61, 10)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {}}, r"^optim.schedule: must be wsd with train.branches, .* \(got cosine\); set it"),
        (
            {"optim": OPTIM | {"warmup_fraction": 0.5}},
            r"^train.branches: must begin their decay after warm-up \(got 0.4",
        ),
        ({"train": TRAIN | {"branches": [0.8, 0.4]}}, r"^train.branches: must ascend \(got \[0.8, 0.4\]\)"),
        (
            {"space": {"optim.warmup_fraction": [0.0, 0.2], "optim.decay_fraction": {"low": 0.1, "high": 0.6}}},
            r"^space.optim.warmup_fraction.choices: train.branches: must begin their decay after warm-up \(got 0.4",
        ),
        ({"space": {"train.branches": [0.4]}}, r"^space.train.branches: must not vary"),
    ],
)
def test_branches_that_no_trial_or_some_trial_cannot_have_are_refused_before_anything_runs(changes, message):
    from pydantic import ValidationError

    from lmcore.runfile.paths import describe

    with pytest.raises(ValidationError) as error:
        SweepSpec.model_validate({**spec().model_dump(), "space": {}, "search": {"trials": 1}, **changes})
    with pytest.raises(Exception, match=message):
        raise describe(error.value)


# Of 500 updates: leave after 100 and 200, which are reports, end after 200 and 400.
BRANCHED = {
    "train__steps": "700",
    "train__branches": "[0.4, 0.8]",
    "optim__schedule": "wsd",
    "optim__decay_fraction": "0.5",
    "optim__warmup_fraction": "0.1",
}
LEFT = 280
"""Updates after which the branch of 0.8 leaves, to end after 560."""


@pytest.mark.ray
def test_a_sweep_killed_in_the_middle_of_a_branch_ends_with_the_rows_of_one_that_was_not(in_tmp):
    whole, folder = sweep_without_ray(in_tmp, trials=2, **BRANCHED), in_tmp / "runs" / "killed"
    process = start(sweep_command("killed", trials=2, **BRANCHED), in_tmp)

    def in_a_branch():
        last = {trial: rows[-1][col.STEP] for trial, rows in rows_of(folder).items()}
        return LEFT in last.values()

    wait_until(in_a_branch, 200, "no trial came to its second branch")
    time.sleep(0.1)
    family = descendants(process.pid)
    kill(process)
    wait_until(lambda: not running(family), 20, "processes were left")
    assert LEFT in {rows[-1][col.STEP] for rows in rows_of(folder).values()}
    run(resume_command("killed"), in_tmp, check=0)
    assert by_branch_and_step(folder) == by_branch_and_step(whole)
    attributes = [
        [one.user_attrs[col.BRANCHES] for one in study_of(RunFolder(f), "xs").trials] for f in (folder, whole)
    ]
    for ours, theirs in zip(*attributes, strict=True):
        assert [untimed(branch) for branch in ours] == [untimed(branch) for branch in theirs]
    tokens = load_tokens(whole / "tokens")
    for trial in study_of(RunFolder(folder), "xs").trials[:1]:
        spec_ = RunSpec.model_validate(trial.user_attrs[col.RUN])
        for branch in trial.user_attrs[col.BRANCHES]:
            *_, last = Trainer([branch_run(spec_, branch[col.BRANCH])], tokens)
            assert branch[col.FINAL_VAL_LOSS] == last[col.FINAL_VAL_LOSS]


def by_branch_and_step(folder):
    return {trial: {(row[col.BRANCH], row[col.STEP]): row for row in rows} for trial, rows in curves(folder).items()}


def untimed(branch):
    return {name: value for name, value in branch.items() if name not in (col.ELAPSED_S, col.TOKENS_PER_S)}
