"""window_losses.bin has the losses of a trial's last and best evaluation, whatever happens to the writer."""

import math
import resource
import signal

import numpy as np
import optuna
import pytest

from lmcore import columns as col
from lmcore.config import ModelConfig
from lmcore.corpus.documents import window_documents
from lmcore.corpus.tokenizer import train_tokenizer
from lmcore.corpus.tokens import Tokens, save_tokens
from lmcore.trainer import Trainer
from lmcore.window_records import read_records
from sweeps.callbacks.metrics_file import last_rows
from sweeps.callbacks.window_file import WindowFile
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from tests.corpora import encode_documents
from tests.training import train_without_ray

MODEL = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}
TEXTS = [f"document {n} says {n * n} and no more\n" * (3 + n % 4) for n in range(12)]


def spec_of(**search):
    return SweepSpec.model_validate(
        {
            "name": "windows",
            "model": MODEL,
            "train": {"steps": 40, "batch_size": 4, "eval_every": 10, "eval_windows": 5},
            "search": {"method": "random", "trials": 4, "scheduler": "none", **search},
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
        }
    )


@pytest.fixture(scope="module")
def tokens():
    """Tokens of twelve short documents."""
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = encode_documents(tokenizer, TEXTS)
    return Tokens.of(ids, ids, 300, tokenizer_json=tokenizer.to_str())


@pytest.fixture
def folder(tmp_path, tokens):
    save_tokens(tokens, tmp_path / "tokens")
    return RunFolder(tmp_path)


@pytest.fixture
def ended():
    """A trial that has made all its updates: main-0000."""
    trial = Ledger(spec_of(), optuna.storages.InMemoryStorage()).ask("main")
    trial.status = col.COMPLETE
    return trial


def row(step=40, windows=(1.0, 2.0, 3.0), best=(1.5, 1.5), best_step=30, final=3):
    losses = {col.WINDOW_LOSSES: list(windows), col.BEST_WINDOW_LOSSES: best and list(best), col.BEST_STEP: best_step}
    return {col.STEP: step, col.FINAL_WINDOWS: final, **losses}


def read(folder):
    return list(read_records(folder.window_losses.read_bytes()))


def losses_of(folder):
    """Losses by trial and evaluation, each with step and set; later ones win."""
    records = [record for record in read(folder) if col.TRIAL in record.header]
    return {(h["trial"], h["evaluation"]): (h["step"], h["set"], values.tolist()) for h, values, _ in records}


def test_the_last_and_the_best_evaluation_of_a_trial_are_written_when_it_ends(folder, ended):
    file = WindowFile(folder)
    ended.status = col.RUNNING
    file.on_report(ended, row(30))
    assert folder.window_losses.read_bytes() == b""
    ended.status = col.COMPLETE
    file.on_report(ended, row())
    assert losses_of(folder) == {  # a reader sees them before the file is closed
        ("main-0000", "last"): (40, "final", [1.0, 2.0, 3.0]),
        ("main-0000", "best"): (30, "val", [1.5, 1.5]),
    }
    ended.status = col.PRUNED
    file.on_report(ended, row(20, windows=(4.0, 5.0), best=(4.0, 5.0), best_step=20, final=None))
    assert losses_of(folder)["main-0000", "last"] == (20, "val", [4.0, 5.0])
    ended.status = col.DIVERGED
    file.on_report(ended, row(10, windows=(math.nan, math.inf), best=None, best_step=None, final=None))
    step, kind, losses = losses_of(folder)["main-0000", "last"]
    assert (step, kind, losses[1]) == (10, "val", math.inf)
    assert math.isnan(losses[0])
    size = folder.window_losses.stat().st_size
    file.on_report(ended, {col.STEP: 40, col.VAL_LOSS: 1.0})  # from a checkpoint of an older version
    assert folder.window_losses.stat().st_size == size
    file.close()


def test_documents_are_written_once_for_each_number_of_windows_and_context_length(folder, ended, tokens):
    def documents():
        records = [record for record in read(folder) if "documents" in record.header]
        return {(r.header["context_length"], r.header["n"]): r.values.tolist() for r in records}, len(records)

    for _ in range(2):  # a driver, and one that resumes
        file = WindowFile(folder)
        file.on_report(ended, row())
        file.on_report(ended, row())
        file.close()
    by_kind, count = documents()
    assert count == 2
    assert by_kind == {(16, n): window_documents(tokens, 16, n).tolist() for n in (2, 3)}
    run = ended.run.model_copy(update={"model": ModelConfig(**MODEL | {"context_length": 8})})
    ended.run = run
    file = WindowFile(folder)
    file.on_report(ended, row())
    file.close()
    by_kind, count = documents()
    assert count == 4
    assert by_kind[8, 3] == window_documents(tokens, 8, 3).tolist()


def test_without_documents_only_losses_are_written(tmp_path, ended):
    ids = np.arange(500) % 97
    save_tokens(Tokens.of(ids, ids, 97), tmp_path / "tokens")
    file = WindowFile(RunFolder(tmp_path))
    file.on_report(ended, row())
    file.close()
    assert [record.header.get("evaluation") for record in read(RunFolder(tmp_path))] == ["last", "best"]


def test_a_last_record_that_was_cut_at_any_byte_is_cut_off_before_the_next_one(folder, ended):
    file = WindowFile(folder)
    file.on_report(ended, row())
    file.on_report(ended, row(windows=(7.0, 8.0, 9.0)))
    file.close()
    whole = folder.window_losses.read_bytes()
    *_, before, _ = (record.end for record in read(folder))
    kept = len(read(folder)) - 1
    for cut in range(before, len(whole)):
        folder.window_losses.write_bytes(whole[:cut])
        file = WindowFile(folder)
        assert folder.window_losses.read_bytes() == whole[:before]
        file.on_report(ended, row(best=(0.5, 0.5)))
        file.close()
        assert len(read(folder)) == kept + 2
        assert losses_of(folder)["main-0000", "best"][2] == [0.5, 0.5]
        assert folder.window_losses.stat().st_size == read(folder)[-1].end


def test_damage_in_the_middle_does_not_cost_the_records_after_it(folder, ended):
    file = WindowFile(folder)
    file.on_report(ended, row())
    file.on_report(ended, row(windows=(7.0, 8.0, 9.0)))
    file.close()
    whole = bytearray(folder.window_losses.read_bytes())
    whole[5] ^= 1  # in the line of the first record
    folder.window_losses.write_bytes(whole)
    WindowFile(folder).close()
    assert folder.window_losses.read_bytes() == whole
    assert losses_of(folder)["main-0000", "last"][2] == [7.0, 8.0, 9.0]


def test_a_disk_that_refuses_leaves_the_file_as_it_was(folder, ended):
    """The refusal is real: the kernel's limit on the size of a file."""
    file = WindowFile(folder)
    file.on_report(ended, row())
    whole = folder.window_losses.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    more = row(windows=[1.0] * 7)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
        with pytest.raises(OSError, match="too large"):
            file.on_report(ended, more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.window_losses.read_bytes() == whole
    file.on_report(ended, more)
    file.close()
    assert {record.header["n"] for record in read(folder) if "documents" in record.header} == {2, 3, 7}


def test_a_whole_sweep_writes_what_its_trials_have_alone(tmp_path, tokens):
    folder = train_without_ray(spec_of(), tokens, tmp_path / "windows")
    losses = losses_of(folder)
    rows = last_rows(folder.metrics)
    study = optuna.load_study(study_name="main", storage=f"sqlite:///{folder.study_db}")
    assert len(study.trials) == len(rows) == 4
    for trial in study.trials:
        name, run = trial.user_attrs[col.TRIAL], trial.user_attrs[col.RUN]
        last = list(Trainer([type(spec_of().base).model_validate(run)], tokens))[-1]
        assert trial.value == last[col.FINAL_VAL_LOSS] == rows[name][col.FINAL_VAL_LOSS]
        assert trial.user_attrs[col.LAST][col.FINAL_VAL_LOSS] == trial.value
        assert trial.value != trial.intermediate_values[40] == last[col.VAL_LOSS]
        assert last[col.FINAL_WINDOWS] == 0.15 * 40 * 4
        for evaluation, column in (("last", col.WINDOW_LOSSES), ("best", col.BEST_WINDOW_LOSSES)):
            step, kind, values = losses[name, evaluation]
            assert values == np.float32(last[column]).tolist()
            assert (step, kind) == ((40, "final") if evaluation == "last" else (last[col.BEST_STEP], "val"))
    assert not {*col.WINDOW_COLUMNS} & set(rows["main-0000"])
