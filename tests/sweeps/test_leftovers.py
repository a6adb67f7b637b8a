"""`--resume auto` after a start that was killed: the folder starts anew, unless something was computed."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.run import load_sweep
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.rundir.leftovers import clear_leftovers, holds_nothing
from sweeps.study.ledger import Ledger
from sweeps.sweep import open_studies, write_inputs

COMMAND = ("--config", "quick", "--name", "batch", "--search", "grid", "--trials", "4", "--resume", "auto")


def start(tokens, *more):
    """What `sweeps.sweep` does until the first trial, with the real files; yields after each step."""
    spec, folder, resume = load_sweep(parse((*COMMAND, *more)))
    before = (lambda: None) if resume else (lambda: clear_leftovers(folder) if holds_nothing(folder) else None)
    spec = spec.with_vocab_size(2048).absolute()
    with folder.claimed(resume, before):
        yield "claimed", folder, resume, None
        storage = open_studies(spec, folder, {}, resume)
        yield "studies opened", folder, resume, None
        write_inputs(spec, tokens, folder)
        yield "inputs written", folder, resume, None
        ledger = Ledger(spec, storage)
        yield "studies created", folder, resume, ledger
        write_json(folder.manifest, {"schema": 2})
        yield "manifest written", folder, resume, ledger


def run_until(tokens, moment, *more):
    for reached, folder, resume, ledger in start(tokens, *more):
        if reached == moment:
            return folder, resume, ledger
    raise AssertionError(moment)


MOMENTS = ("claimed", "studies opened", "inputs written", "studies created", "manifest written")


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_start_that_was_killed_before_its_first_trial_is_started_by_the_same_line(
    in_tmp, small_tokens, moment, stored
):
    more = ("--storage", f"sqlite:///{in_tmp}/all.db") if stored else ()
    run_until(small_tokens, moment, *more)
    folder, resume, ledger = run_until(small_tokens, "manifest written", *more)
    assert resume == (stored and moment in MOMENTS[2:])  # what lies in a database is not looked at, and is resumed
    assert ledger.ask(ledger.spec.size_names[0]).trial.number == 0
    assert folder.sweep_yaml.exists()


def test_a_start_that_was_killed_may_be_followed_by_one_with_other_settings_and_data(in_tmp, small_tokens):
    run_until(small_tokens, "manifest written")
    folder, resume, _ = run_until(small_tokens, "inputs written", "--set", "train.seed=7")
    assert not resume
    assert "seed: 7" in folder.sweep_yaml.read_text()
    assert (folder.tokens / "meta.json").exists()


@pytest.mark.parametrize(
    "name", ["sweep.yaml", ".sweep.yaml.x.tmp", "study.db", "metrics.jsonl", "curves.arrow", ".lock", ".owner"]
)
def test_any_file_of_a_start_may_be_empty(in_tmp, small_tokens, name):
    folder = RunFolder.named("batch")
    folder.path.mkdir(parents=True)
    (folder.path / name).touch()
    assert holds_nothing(folder)
    if name == ".owner":
        (folder.path / name).write_text("00\n")
    _, resume, ledger = run_until(small_tokens, "manifest written")
    assert not resume
    assert ledger is not None


def test_half_of_a_file_is_started_over_wherever_it_was_cut(in_tmp, small_tokens):
    folder, _, _ = run_until(small_tokens, "studies created")
    whole = folder.sweep_yaml.read_bytes()
    for cut in range(0, len(whole), 97):
        folder.sweep_yaml.write_bytes(whole[:cut])
        assert load_sweep(parse(COMMAND))[2] is False


def test_tables_of_the_database_that_were_half_created_are_created_anew(in_tmp, small_tokens):
    folder, _, _ = run_until(small_tokens, "studies created")
    with closing(sqlite3.connect(folder.study_db)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in [name for name in tables if name not in ("studies", "study_directions")]:
            database.execute(f"DROP TABLE {table}")
        database.commit()
    assert holds_nothing(folder)
    _, resume, ledger = run_until(small_tokens, "manifest written")
    assert not resume
    assert ledger is not None


def test_a_folder_with_anything_computed_is_never_emptied(in_tmp, small_tokens):
    folder, _, ledger = run_until(small_tokens, "manifest written")
    kept = in_tmp / "kept"
    shutil.copytree(folder.path, kept)

    def again():
        shutil.rmtree(folder.path)
        shutil.copytree(kept, folder.path)

    for path in ("metrics.jsonl", "curves.arrow", "window_losses.bin", "trials/xs-0000/run.yaml", "best/xs.yaml"):
        again()
        (folder.path / path).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / path).write_text("x")
        assert not holds_nothing(folder), path
    again()
    folder.study_db.write_bytes(b"not a database")  # nobody knows what was in it
    assert not holds_nothing(folder)
    again()
    _, _, ledger = run_until(small_tokens, "manifest written")
    ledger.ask(ledger.spec.size_names[0])
    assert not holds_nothing(folder)
    assert load_sweep(parse(COMMAND))[2] is True
    folder.sweep_yaml.unlink()
    with pytest.raises(InputError, match=r"the database has .* already"):
        run_until(small_tokens, "studies opened")
    assert folder.study_db.exists()
