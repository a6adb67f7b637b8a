"""Files cut anywhere, writers killed at any moment: the state before is readable, or the file is refused by name."""

import itertools
import json
import os
import pickle
import re
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import optuna
import pytest
import torch
from crashing import killed_at_every_moment
from sweeping import (
    count_rows,
    curves,
    descendants,
    kill,
    resume_command,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    table_of,
    wait_until,
)

from lmcore import columns as col
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens, load_tokens, save_tokens
from lmcore.curve_batches import read_batches
from lmcore.durable import append
from lmcore.errors import InputError
from lmcore.trainer import Trainer
from lmcore.window_records import read_records
from sweeps.callbacks.curve_file import CurveFile
from sweeps.callbacks.metrics_file import RowFile, last_rows
from sweeps.callbacks.window_file import WindowFile
from sweeps.engine.trainers import Trainers
from sweeps.rundir.checkpoints import checkpoint_file, checkpoint_files, drop_checkpoints
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.spec.load import load_spec
from sweeps.study.integrity import check_file, check_trials
from sweeps.study.storage import open_storage

SMALL = ModelConfig(vocab_size=61, d_model=16, num_layers=1, num_heads=2, d_ff=32, context_length=16)
RUN = RunSpec(model=SMALL, train=TrainConfig(steps=60, batch_size=4, eval_every=10, eval_windows=8, device="cpu"))
STEPS = (10, 20, 30, 40)


@pytest.fixture
def harmed(whole, tmp_path):
    """A copy of the unharmed sweep's folder."""
    shutil.copytree(whole, tmp_path / "runs" / "whole")
    return tmp_path / "runs" / "whole"


@pytest.fixture(scope="module")
def tokens():
    walk = np.cumsum(np.random.default_rng(0).integers(0, 3, 4_000)).astype(np.uint16) % 61
    return Tokens.of(walk[:3_000], walk[3_000:], 61)


@pytest.fixture(scope="module")
def snapshots(tokens):
    """Snapshots of one run, by step: after each of STEPS."""
    trainer = Trainer([RUN], tokens)
    return {row[col.STEP]: trainer.snapshot_slot(0) for row in itertools.islice(trainer, len(STEPS))}


def restored(tokens, folder, spec=RUN):
    """The last row from the checkpoints in a trial's folder, and what was said of them."""
    trainers = Trainers(1, 2**40)
    trainers.share(tokens)
    trainers.open(spec)
    return trainers.load(spec.static_signature, 0, spec, folder)


@pytest.mark.smoke
def test_metrics_cut_at_every_byte_of_its_last_line_loses_that_line_at_most(whole, tmp_path, fault):
    lines = (whole / "metrics.jsonl").read_bytes()
    *before, last = lines.splitlines(keepends=True)
    path = tmp_path / "metrics.jsonl"
    torn = fault("metrics.jsonl cut at every byte of its last line")
    for kept in range(len(last)):
        torn.injected()
        path.write_bytes(b"".join(before) + last[:kept])
        assert last_rows(path) == last_rows_of(before)
        rows = RowFile(path)
        assert path.read_bytes() == b"".join(before)
        rows._append(last)
        rows.close()
        assert path.read_bytes() == lines
        torn.survived()


@pytest.mark.smoke
def test_window_losses_cut_at_every_byte_of_the_last_record_lose_that_record_at_most(whole, tmp_path, fault):
    content = (whole / "window_losses.bin").read_bytes()
    *before, last = list(read_records(content))[:4]
    content = content[: last.end]
    start = before[-1].end
    folder = RunFolder(tmp_path)
    torn = fault("window_losses.bin cut at every byte of its last record")
    for kept in range(start, last.end):
        torn.injected()
        folder.window_losses.write_bytes(content[:kept])
        assert [record.header for record in read_records(content[:kept])] == [record.header for record in before]
        file = WindowFile(folder)
        assert folder.window_losses.read_bytes() == content[:start]
        append(file._file, content[start:])
        file.close()
        assert folder.window_losses.read_bytes() == content
        torn.survived()


@pytest.mark.smoke
def test_a_writer_of_window_losses_killed_at_any_moment_leaves_the_records_before(whole, tmp_path, fault):
    content = (whole / "window_losses.bin").read_bytes()
    _, before, last = list(read_records(content))[:3]
    content, end = content[: last.end], before.end
    folder = RunFolder(tmp_path)

    def write():
        file = WindowFile(folder)
        append(file._file, content[end:])
        file.close()

    def check():
        assert len(list(read_records(folder.window_losses.read_bytes()))) in (2, 3)
        WindowFile(folder).close()
        assert folder.window_losses.read_bytes() in (content[:end], content)

    crash = fault("window losses' writer killed at every write and sync")
    moments = killed_at_every_moment(lambda: folder.window_losses.write_bytes(content[:end]), write, check)
    crash.injected(moments)
    assert moments >= 3
    crash.survived(moments)


@pytest.mark.smoke
def test_curves_cut_at_every_byte_of_the_last_batch_lose_that_batch_at_most(whole, tmp_path, fault):
    content = (whole / "curves.arrow").read_bytes()
    _, *before, last = list(read_batches(content))[:5]
    content, start = content[: last.end], before[-1].end
    folder = RunFolder(tmp_path)
    torn = fault("curves.arrow cut at every byte of its last batch")
    for kept in range(start, last.end):
        torn.injected()
        folder.curves.write_bytes(content[:kept])
        assert [batch.points for batch in read_batches(content[:kept])][1:] == [batch.points for batch in before]
        file = CurveFile(folder)
        assert folder.curves.read_bytes() == content[:start]
        if kept % 20 == 0:
            append(file._file, content[start:])
            assert folder.curves.read_bytes() == content
        file.close()
        torn.survived()


@pytest.mark.smoke
def test_a_writer_of_curves_killed_at_any_moment_leaves_the_batches_before(whole, tmp_path, fault):
    content = (whole / "curves.arrow").read_bytes()
    _, before, last = list(read_batches(content))[:3]
    content, end = content[: last.end], before.end
    folder = RunFolder(tmp_path)

    def write():
        file = CurveFile(folder)
        append(file._file, content[end:])
        file.close()

    def check():
        assert len(list(read_batches(folder.curves.read_bytes()))) in (2, 3)
        CurveFile(folder).close()
        assert folder.curves.read_bytes() in (content[:end], content)

    crash = fault("curves' writer killed at every write and sync")
    moments = killed_at_every_moment(lambda: folder.curves.write_bytes(content[:end]), write, check)
    crash.injected(moments)
    assert moments >= 3
    crash.survived(moments)


def last_rows_of(lines):
    return {row[col.TRIAL]: row for row in map(json.loads, lines)}


JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")  # sqlite.org/fileformat.html
TABLES = ("trials", "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes")
CHANGES = {
    "every row is updated": (
        "UPDATE trial_user_attributes SET value_json = value_json || ' '",
        "UPDATE trial_system_attributes SET value_json = value_json || ' '",
        "UPDATE trial_intermediate_values SET intermediate_value = intermediate_value + 1",
        "UPDATE trial_params SET distribution_json = distribution_json || ' '",
    ),
    "a trial ends": (
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, 'x', '1' FROM trials",
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        "SELECT trial_id, 999, 1.0, 'FINITE' FROM trials",
        "INSERT INTO trial_values (trial_id, objective, value, value_type) "
        "SELECT trial_id, 9, 1.0, 'FINITE' FROM trials",
        "UPDATE trials SET state = 'PRUNED'",
    ),
}


def rows_by_key(path):
    """Every row of TABLES by table and row id."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            (table, rowid): values
            for table in TABLES
            for rowid, *values in connection.execute(f"SELECT rowid, * FROM {table}")
        }


@pytest.mark.smoke
@pytest.mark.parametrize("change", CHANGES)
def test_sqlites_journal_cut_anywhere_loses_no_committed_row(change, whole, tmp_path, fault):
    """A crash leaves the rows as they were. A synced journal is cut by damage only: each row is then as it was or as
    the interrupted transaction would have left it, or the database is refused by name."""
    cut = fault("study.db's journal cut at and inside page borders")
    before = (whole / "study.db").read_bytes()
    path, journal = tmp_path / "study.db", tmp_path / "study.db-journal"
    path.write_bytes(before)
    wanted = rows_by_key(path)
    database = sqlite3.connect(path)
    for statement in CHANGES[change]:
        database.execute(statement)
    unsynced = journal.read_bytes()  # as SQLite leaves it until it commits: it counts no pages yet
    database.commit()
    database.close()
    after, changed_rows = path.read_bytes(), rows_by_key(path)
    page = int.from_bytes(unsynced[24:28], "big")
    record, header = page + 8, int.from_bytes(unsynced[20:24], "big")
    pages = (len(unsynced) - header) // record
    assert pages >= 4
    assert unsynced[:12] == bytes(12)
    # What SQLite does when it commits: sign and count, sync, and only then write to the database.
    synced = JOURNAL_MAGIC + pages.to_bytes(4, "big") + unsynced[12:]
    borders = {header + n * record + at for n in range(pages + 1) for at in (-1, 0, 1, record // 2)}
    cuts = sorted({0, 1, 27, 28, 100, *(at for at in borders if at <= len(unsynced))})

    def opened(database, left):
        path.write_bytes(database)
        journal.write_bytes(left)
        try:
            check_file(path, {"any": {}}, "study.db")
        except InputError as refusal:
            return str(refusal)
        return rows_by_key(path)

    for length in cuts:  # killed before the sync: the database is as it was
        cut.injected()
        assert opened(before, unsynced[:length]) == wanted
        cut.survived()
    changed = [n for n in range(len(after) // page) if before[n * page :][:page] != after[n * page :][:page]]
    for written in (1, len(changed) // 2, len(changed)):  # killed after so many changed pages were written
        half = bytearray(before)
        for n in changed[:written]:
            half[n * page : (n + 1) * page] = after[n * page : (n + 1) * page]
        assert opened(bytes(half), synced) == wanted
        for length in (length for length in cuts if length < header + pages * record):
            cut.injected()
            found = opened(bytes(half), synced[:length])
            if isinstance(found, str):
                assert found.startswith("study.db: must be an undamaged Optuna database")
            else:
                assert found.keys() >= wanted.keys()
                assert all(row in (wanted.get(key), changed_rows[key]) for key, row in found.items())
            cut.survived()


def damage_missing(folder):
    (folder / "study.db").unlink()


def damage_empty(folder):
    (folder / "study.db").write_bytes(b"")


def damage_cut(folder):
    os.truncate(folder / "study.db", (folder / "study.db").stat().st_size // 2)


def damage_foreign(folder):
    (folder / "study.db").write_text("trial,loss\nxs-0000,1.0\n" * 500)


def damage_other_database(folder):
    (folder / "study.db").unlink()
    with closing(sqlite3.connect(folder / "study.db")) as database:
        database.execute("CREATE TABLE songs (name TEXT)")


def damage_bytes_in_the_middle(folder):
    with (folder / "study.db").open("r+b") as file:
        for at in range(4096 * 3, (folder / "study.db").stat().st_size, 4096 * 4):
            file.seek(at)
            file.write(np.random.default_rng(0).bytes(4096))


def damage_trial_lacking(folder):
    forget(folder, "DELETE FROM trials WHERE number = 5")


def damage_report_lacking(folder):
    forget(folder, "DELETE FROM trial_intermediate_values WHERE step = 200 AND trial_id = 2")


def damage_loss_lacking(folder):
    forget(folder, "DELETE FROM trial_values WHERE trial_id = 2")


def damage_trial_that_is_a_path(folder):
    forget(
        folder, "UPDATE trial_user_attributes SET value_json = '\"../../../x\"' WHERE key = 'trial' AND trial_id = 2"
    )


def forget(folder, statement):
    with closing(sqlite3.connect(folder / "study.db")) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()


def damage_metrics_missing(folder):
    (folder / "metrics.jsonl").unlink()


DAMAGE = {
    damage_missing: r"study\.db: must hold the sweep's 6 trials, but is missing",
    damage_empty: r"study\.db: must hold the sweep's 6 trials, but is empty",
    damage_cut: r"study\.db: must be an undamaged Optuna database",
    damage_foreign: r"study\.db: must be an undamaged Optuna database",
    damage_other_database: r"study\.db: must be an undamaged Optuna database, .*no such table",
    damage_bytes_in_the_middle: r"study\.db: must be an undamaged Optuna database",
    damage_trial_lacking: r"study\.db: must hold every trial .* lacks xs-0005",
    damage_report_lacking: r"study\.db: must have the loss of xs-0001 at step 200",
    damage_loss_lacking: r"study\.db: must have the loss of xs-0001, which is complete",
    damage_trial_that_is_a_path: r"study\.db: trial 1 of xs must be called xs-0001",
    damage_metrics_missing: r"metrics\.jsonl: must have rows of xs-0000",
}


def checked(folder, spec):
    rows = last_rows(folder.metrics)
    check_file(folder.study_db, rows, "study.db")
    check_trials(open_storage(None, folder), spec, rows, "study.db")


@pytest.mark.smoke
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_study_is_refused_by_name(damage, harmed, fault):
    damaged = fault("study.db or metrics.jsonl damaged or missing")
    damaged.injected()
    folder = RunFolder(harmed)
    spec = load_spec(folder.sweep_yaml)
    damage(harmed)
    with pytest.raises(InputError, match=DAMAGE[damage]):
        checked(folder, spec)
    damaged.survived()


@pytest.mark.smoke
@pytest.mark.parametrize("damage", [damage_missing, damage_bytes_in_the_middle, damage_trial_lacking])
def test_resuming_with_a_damaged_study_ends_with_exit_code_2_and_one_line_and_changes_nothing(damage, harmed, fault):
    damaged = fault("study.db or metrics.jsonl damaged or missing")
    damaged.injected()
    damage(harmed)
    before = {path: path.read_bytes() for path in harmed.rglob("*") if path.is_file()}
    refused = run(resume_command("whole", "--trials", "8"), harmed.parents[1], check=2)
    assert re.fullmatch(r"runs/whole/" + DAMAGE[damage] + r".*; restore it from a copy\n", refused.stderr)
    assert refused.stdout == ""
    after = {path: path.read_bytes() for path in harmed.rglob("*") if path.is_file() and path.name[:5] != ".lock"}
    assert after.items() <= before.items()
    damaged.survived()


@pytest.mark.smoke
def test_a_whole_study_is_not_refused(harmed):
    checked(RunFolder(harmed), load_spec(harmed / "sweep.yaml"))
    check_file(harmed / "none.db", {}, "none.db")  # stopped before there was one


@pytest.mark.smoke
def test_a_writer_of_checkpoints_killed_at_any_moment_leaves_one_that_is_whole(tokens, snapshots, tmp_path, fault):
    folder = tmp_path / "xs-0000"

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for step in (10, 20):
            Trainers.save(folder, snapshots[step])

    def check():
        last_row, skipped = restored(tokens, folder)
        assert not skipped
        assert last_row[col.STEP] in (20, 30)
        Trainers.save(folder, snapshots[40])
        assert [path.name for path in folder.iterdir() if path.suffix != ".safetensors"] == []
        assert checkpoint_files(folder)[-1] == checkpoint_file(folder, 40)
        assert len(checkpoint_files(folder)) == 2

    crash = fault("checkpoint writer killed at every write, sync and renaming")
    moments = killed_at_every_moment(prepare, lambda: Trainers.save(folder, snapshots[30]), check)
    crash.injected(moments)
    assert moments >= 8
    crash.survived(moments)


@pytest.mark.smoke
def test_a_writer_of_rows_killed_at_any_moment_leaves_the_rows_before(whole, tmp_path, fault):
    *before, last = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]
    path = tmp_path / "metrics.jsonl"

    def write():
        rows = RowFile(path)
        rows._append(last)
        rows.close()

    def check():
        assert last_rows(path) in (last_rows_of(before), last_rows_of([*before, last]))
        rows = RowFile(path)
        assert path.read_bytes() in (b"".join(before), b"".join([*before, last]))
        rows.close()

    crash = fault("row writer killed at every write and sync")
    moments = killed_at_every_moment(lambda: path.write_bytes(b"".join(before)), write, check)
    crash.injected(moments)
    assert moments >= 3
    crash.survived(moments)


@pytest.mark.smoke
def test_a_writer_of_text_killed_at_any_moment_leaves_the_old_text_or_the_new(tmp_path, fault):
    path = tmp_path / "best" / "xs.yaml"
    old, new = "name: old\n" * 50, "name: new\n" * 70
    crash = fault("writer of configs and manifests killed at every write, sync and renaming")

    def check():
        assert path.read_text() in (old, new)

    moments = killed_at_every_moment(lambda: write_text(path, old), lambda: write_text(path, new), check)
    crash.injected(moments)
    assert moments >= 5
    crash.survived(moments)


@pytest.mark.smoke
def test_a_writer_of_tokens_killed_at_any_moment_leaves_them_whole_or_absent(tokens, tmp_path, fault):
    folder = tmp_path / "tokens"
    crash = fault("token writer killed at every write, sync and renaming")

    def check():
        if folder.exists():
            assert load_tokens(folder).fingerprint == tokens.fingerprint

    moments = killed_at_every_moment(
        lambda: shutil.rmtree(folder, ignore_errors=True), lambda: save_tokens(tokens, folder), check
    )
    crash.injected(moments)
    assert moments >= 8
    crash.survived(moments)


@pytest.mark.smoke
def test_a_study_killed_at_every_statement_of_its_making_can_be_opened_and_used(tmp_path, fault):
    path = tmp_path / "study.db"
    folder = RunFolder(tmp_path)
    crash = fault("study.db killed at every statement of its making")
    statements = 0
    for fatal in itertools.count():
        path.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                die_at_statement(fatal)
                optuna.create_study(storage=open_storage(None, folder), study_name="xs")
            except BaseException:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        statements = fatal
        check_file(path, {}, "study.db")
        study = optuna.create_study(storage=open_storage(None, folder), study_name="xs", load_if_exists=True)
        study.tell(study.ask(), 1.0)
        assert study.best_value == 1.0
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    crash.injected(statements)
    assert statements > 20
    crash.survived(statements)


def die_at_statement(fatal):
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    passed = itertools.count()

    @event.listens_for(Engine, "before_cursor_execute")
    def mortal(*_):
        if next(passed) == fatal:
            os.kill(os.getpid(), 9)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def flip(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


@pytest.mark.smoke
def test_a_checkpoint_that_is_damaged_forged_or_another_trials_is_skipped_for_the_one_before(
    tokens, snapshots, tmp_path, fault
):
    fired = tmp_path / "fired"
    other = RUN.model_copy(update={"train": RUN.train.model_copy(update={"seed": 7})})
    trainer = Trainer([other], tokens)
    elsewhere = next((trainer.snapshot_slot(0) for row in trainer if row[col.STEP] == 20), None)
    harms = {
        "cut": lambda file: os.truncate(file, file.stat().st_size - 1),
        "empty": lambda file: os.truncate(file, 0),
        "bit flipped": flip,
        "pickle bomb": lambda file: file.write_bytes(pickle.dumps(Bomb(str(fired)))),
        "torch.save bomb": lambda file: torch.save({"model": Bomb(str(fired))}, file),
        "of another step": lambda file: shutil.copy(checkpoint_file(file.parent, 10), file),
        "of another run": lambda file: Trainers.save(file.parent, elsewhere),
    }
    skipping = fault("newest checkpoint cut, flipped, forged or another's")
    for name, harm in harms.items():
        skipping.injected()
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        for step in (10, 20):
            Trainers.save(folder, snapshots[step])
        harm(checkpoint_file(folder, 20))
        last_row, skipped = restored(tokens, folder)
        assert last_row[col.STEP] == 10, name
        assert len(skipped) == 1
        assert skipped[0].startswith(f"{folder.name}: a checkpoint was skipped (")
        assert str(checkpoint_file(folder, 20)) in skipped[0]
        assert "\n" not in skipped[0]
        skipping.survived()
    assert not fired.exists()


@pytest.mark.smoke
def test_where_both_checkpoints_are_damaged_those_of_the_new_beginning_are_the_newest(
    tokens, snapshots, tmp_path, fault
):
    skipping = fault("newest checkpoint and the one before damaged")
    skipping.injected()
    for step in (30, 40):
        Trainers.save(tmp_path, snapshots[step])
        flip(checkpoint_file(tmp_path, step))
    last_row, skipped = restored(tokens, tmp_path)
    assert last_row is None
    assert len(skipped) == 2
    Trainers.save(tmp_path, snapshots[10])
    assert checkpoint_files(tmp_path) == [checkpoint_file(tmp_path, 10)]
    last_row, skipped = restored(tokens, tmp_path)
    assert last_row[col.STEP] == 10
    assert not skipped
    drop_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []
    skipping.survived()


@pytest.mark.ray
def test_a_sweep_goes_on_from_the_checkpoints_before_and_says_so(tiny, control, fault):
    folder = tiny / "runs" / "harmed"
    process = start(sweep_command("harmed"), tiny)
    wait_until(lambda: count_rows(folder) >= 28, 100, "no 28 rows")
    family = descendants(process.pid)
    kill(process)
    wait_until(lambda: not running(family), 10, "processes were left")
    newest = [
        files[-1]
        for trial, rows in rows_of(folder).items()
        if rows[-1][col.STATUS] == col.RUNNING and (files := checkpoint_files(folder / "trials" / trial))
    ]
    assert newest
    harmed = fault("newest checkpoints of a killed sweep damaged or pickle bombs")
    harmed.injected(len(newest))
    for number, file in enumerate(newest):
        flip(file) if number % 2 else file.write_bytes(pickle.dumps(Bomb(str(tiny / "fired"))))
    out = run(resume_command("harmed"), tiny, check=0).stdout
    for file in newest:
        assert f"Note: {file.parent.name}: a checkpoint was skipped (" in out
    assert not (tiny / "fired").exists()
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    harmed.survived(len(newest))
