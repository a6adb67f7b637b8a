"""`lmsweep exclude`: a trial is kept and marked, and nothing that learns from the sweep sees it until it is back."""

import errno
import json
import re

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

import analysis
from analysis.report import build_report
from analysis.runs.load import RunError
from analysis.tables.sweep_status import sweep_status
from lmcore import columns as col
from sweeps.callbacks.metrics_file import last_rows
from sweeps.callbacks.trial_files import TrialFiles
from sweeps.cli.select_trial import select_trial
from sweeps.exclude import main
from sweeps.rundir.checkpoints import checkpoint_files
from sweeps.rundir.disk_full import UnwritableError
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import SCHEDULERS
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.excluded import Exclusions
from sweeps.study.integrity import check_trials
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage
from tests.sweeps.test_confirmation import drive, loss_of
from tests.sweeps.test_confirmation import spec as confirmed
from tests.sweeps.test_ledger import row
from tests.training import train_without_ray

SPEC = {
    "name": "quick",
    "data": {"source": "tokens.npy", "vocab_size": 97},
    "model": {"d_model": 32, "d_ff": 64, "num_layers": 1, "context_length": 32, "vocab_size": 97},
    "train": {"steps": 4, "eval_every": 2, "batch_size": 2, "eval_windows": 4, "final_eval_windows": 4},
    "search": {"method": "random", "trials": 5, "scheduler": "none"},
    "space": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@pytest.fixture
def folder(in_tmp, small_tokens):
    """The folder of a sweep of five trials that has ended."""
    spec = SweepSpec.model_validate(SPEC)
    folder = train_without_ray(spec, small_tokens, in_tmp / "runs" / "quick")
    studies = [{"id": "main", "study": "main", "size": "main", "arm": None, "phase": "search"}]
    data = {"source": "tokens.npy", "fingerprint": small_tokens.fingerprint, "vocab_size": 97, "bytes_per_token": None}
    data |= {"train_tokens": 20_000, "val_tokens": 4_000, "val_entropy_unigram": 4.0}
    manifest = {"schema": 2, "name": "quick", "studies": studies, "search": {"trials": 5}, "data": data}
    folder.manifest.write_text(json.dumps(manifest))
    return folder


def ranking(folder):
    storage = open_storage(None, folder)
    ledger = Ledger(SweepSpec.model_validate(SPEC), storage, last_rows(folder.metrics))
    found = ledger.ranking("main"), ledger.statuses(), ledger.over
    storage.engine.dispose()
    return found


def train(ledger):
    """Train all trials of a ledger, each until it ends or is stopped; returns their ids."""
    ids = []
    while not ledger.over:
        live = ledger.ask(ledger.sizes_left[0])
        for step in (10, 20):
            if ledger.report(live.id, row(step, loss_of(live.run))) != col.RUNNING:
                break
        ids.append(ledger.end(live.id).id)
    return ids


def test_it_leaves_the_ranking_and_the_tables_and_comes_back(folder, capsys):
    before, statuses, over = ranking(folder)
    trials = analysis.load(folder.path).trials
    best = before[0]
    assert main(["runs/quick", best, "--because", "node7 had bad memory"]) == 0
    assert capsys.readouterr().out == (
        f"Excluded: {best} (node7 had bad memory)\n"
        f"Take it back with: lmsweep exclude runs/quick {best} --include\n"
        "The search, the confirmation and best/ follow when the sweep is resumed: lmsweep run --resume runs/quick\n"
    )
    assert ranking(folder) == (before[1:], {**statuses, best: col.EXCLUDED}, over)
    run = analysis.load(folder.path)
    assert best not in set(run.trials[col.TRIAL]) | set(run.rows[col.TRIAL])
    assert len(run.trials) == len(trials) - 1
    assert run.manifest["excluded"] == {best: "node7 had bad memory"}
    assert main(["runs/quick", best, "--include"]) == 0
    assert ranking(folder) == (before, statuses, over)
    assert len(analysis.load(folder.path).trials) == len(trials)
    assert "excluded" not in analysis.load(folder.path).manifest


def test_the_report_says_which_trials_are_excluded_and_why_and_the_status_counts_without_them(folder):
    main(["runs/quick", "main-0001", "main-0003", "--because", "a bad node"])
    notes = build_report(analysis.load(folder.path), brief=True).notes
    assert "Excluded, and in no table: main-0001, main-0003 (a bad node)." in notes
    status = sweep_status(folder.path)
    assert (status.ended, status.planned) == (3, 3)


def test_on_resume_its_weights_are_kept_and_best_names_another(folder):
    best, second = ranking(folder)[0][:2]
    assert checkpoint_files(folder.trial(best))
    main(["runs/quick", best])
    storage = open_storage(None, folder)
    spec = SweepSpec.model_validate(SPEC)
    rows = last_rows(folder.metrics)
    check_trials(storage, spec, rows, "study.db")
    ledger = Ledger(spec, storage, rows)
    TrialFiles(folder, ledger).catch_up()
    assert checkpoint_files(folder.trial(best))
    assert ledger.winners("main")["main"] == ledger.studies["main"].run_of(second)
    assert select_trial(folder.path).id == second
    assert select_trial(folder.path, best).status == col.EXCLUDED
    storage.engine.dispose()


def test_an_excluded_trial_that_was_interrupted_is_not_resumed(in_tmp, small_tokens):
    spec = SweepSpec.model_validate(SPEC)
    folder = train_without_ray(spec, small_tokens, in_tmp / "runs" / "quick", trials=3, unfinished=1)
    storage = open_storage(None, folder)
    assert Ledger(spec, storage, last_rows(folder.metrics)).unfinished == 1
    storage.engine.dispose()
    assert main(["runs/quick", "main-0002"]) == 0
    storage = open_storage(None, folder)
    assert Ledger(spec, storage, last_rows(folder.metrics)).unfinished == 0
    storage.engine.dispose()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_samplers_and_schedulers_see_a_trial_without_loss_and_rungs(in_tmp, scheduler):
    folder = RunFolder(in_tmp)
    search = {"method": "optuna", "trials": 12, "scheduler": scheduler}
    spec = confirmed(search=search, confirm={"top": 0}, compare=[])
    storage = open_storage(None, folder)
    train(Ledger(spec, storage))
    Exclusions(spec, storage).add(["main-0000"], because="")
    storage.engine.dispose()
    storage = open_storage(None, folder)
    ledger = Ledger(spec, storage)
    [seen] = [t for t in ledger.studies["main"].study.trials if t.number == 0]
    assert (seen.state, seen.value, seen.user_attrs[col.STATUS]) == (TrialState.FAIL, None, col.EXCLUDED)
    assert not [name for name in seen.system_attrs if "rung" in name]
    more = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 15})})
    assert train(Ledger(more, storage)) == ["main-0012", "main-0013", "main-0014"]
    storage.engine.dispose()


def test_a_confirmed_setting_that_is_excluded_is_replaced_by_the_next_best_with_its_own_runs(in_tmp):
    folder, spec = RunFolder(in_tmp), confirmed()
    storage = open_storage(None, folder)
    drive(Ledger(spec, storage))
    ledger = Ledger(spec, storage)
    leader = ledger.studies["main-untied-confirm"].study.user_attrs[col.RESULT]["leader"]
    Exclusions(spec, storage).add([leader], because="")
    storage.engine.dispose()
    storage = open_storage(None, folder)
    again = drive(Ledger(spec, storage))
    assert leader not in {live.of for live in again}
    ledger = Ledger(spec, storage)
    assert ledger.over
    result = ledger.studies["main-untied-confirm"].study.user_attrs[col.RESULT]
    assert result["leader"] not in (leader, None)
    storage.engine.dispose()


def test_an_excluded_confirmation_run_is_trained_again_under_its_seed(in_tmp):
    folder, spec = RunFolder(in_tmp), confirmed()
    storage = open_storage(None, folder)
    before = drive(Ledger(spec, storage))
    spoilt = next(live for live in before if live.of is not None)
    Exclusions(spec, storage).add([spoilt.id], because="")
    storage.engine.dispose()
    storage = open_storage(None, folder)
    ledger = Ledger(spec, storage)
    again = drive(ledger)
    assert [(live.of, live.run) for live in again] == [(spoilt.of, spoilt.run)]
    assert Ledger(spec, storage).over
    assert ledger.planned - ledger.excluded_confirmations == len(before)
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UnwritableError("the database has not answered for 90 s: gone", None), r"the database has not answered"),
        (StorageInternalError("attempt to write a readonly database"), r"a readonly database"),
        (OSError(errno.ENOSPC, "No space left on device"), r"is full; free space there"),
    ],
)
def test_marks_that_cannot_be_written_are_one_line_and_exit_code_1(folder, capsys, monkeypatch, error, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(Exclusions, "add", fail)
    assert main(["runs/quick", "main-0001"]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(line, printed)


def test_in_a_folder_of_somebody_else_it_ends_in_one_line(folder, capsys, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder.lock))

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    assert main(["runs/quick", "main-0001"]) == 1
    assert re.fullmatch(r"the sweep's results cannot be written \(.*Permission denied.*\)\n", capsys.readouterr().err)


def test_an_interrupt_ends_it_with_exit_code_130(folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Exclusions, "add", interrupt)
    assert main(["runs/quick", "main-0001"]) == 130


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runs/none", "main-0000"], r"^RUN: must be the folder of a sweep"),
        (["runs/quick", "main-0009"], r"^TRIAL: must be a trial of runs/quick .*the nearest are main-000"),
        (["runs/quick", "main-0001", "--include"], r"^--include: main-0001 is not excluded"),
        (["runs/quick", "main-0001", "--include", "--because", "x"], r"^--because: says why trials are excluded"),
        (["runs/quick", "main-0001", "--storage", "sqlite:///x.db"], r"^--storage: must be left out"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(folder, capsys, arguments, line):
    before = folder.study_db.read_bytes()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(line, error)
    assert folder.study_db.read_bytes() == before


def test_a_sweep_that_runs_is_left_alone(folder, capsys):
    with folder.claimed(resume=True):
        assert main(["runs/quick", "main-0001"]) == 3
    assert capsys.readouterr().err.endswith("; stop the sweep first\n")


def test_if_all_trials_are_excluded_a_report_says_so(folder):
    names = [f"main-{number:04d}" for number in range(5)]
    main(["runs/quick", *names])
    with pytest.raises(RunError, match=r"all trials of .* are excluded; take one back with lmsweep exclude"):
        analysis.load(folder.path)


def test_an_unknown_mark_in_the_study_is_no_mark(in_tmp):
    folder, spec = RunFolder(in_tmp), confirmed(confirm={"top": 0}, compare=[])
    storage = open_storage(None, folder)
    drive(Ledger(spec, storage))
    storage.set_study_user_attr(storage.get_study_id_from_name("main"), col.EXCLUDED, "everything")
    storage.engine.dispose()
    storage = open_storage(None, folder)
    assert col.EXCLUDED not in Ledger(spec, storage).statuses().values()
    storage.engine.dispose()
