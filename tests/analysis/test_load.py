"""A run's folder is loaded as DataFrames, and a damaged one is reported in one line."""

import hashlib
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import armed

import analysis
from analysis.runs.load import RunError
from analysis.tables.cost import cost_table
from analysis.tables.trials import complete_trials, trials_table
from lmcore.columns import COUNT_COLUMNS, LAST_COLUMNS, ROW_COLUMNS

ROOT = Path(__file__).resolve().parents[2]


def trial_of(run, name):
    return run.trials.set_index("trial").loc[name]


def test_trials_are_in_the_order_of_the_manifest_then_by_number(folder):
    trials = analysis.load(folder.path).trials
    assert trials["trial"].tolist() == [f"xs-{i:04d}" for i in range(6)] + [f"s-{i:04d}" for i in range(4)]
    ends = ["complete"] * 3 + ["pruned", "diverged", "failed", "complete", "complete", "pruned", "running"]
    assert trials["status"].tolist() == ends
    assert trials["number"].tolist() == [*range(6), *range(4)]


def test_fields_of_the_runspec_are_columns_with_their_own_types(folder):
    trials = analysis.load(str(folder.path)).trials
    assert trials["params.optim.lr"].iloc[:2].tolist() == [1e-3, 2e-3]
    assert trials["params.model.tie_embeddings"].dtype == bool
    assert trials["params.train.steps"].dtype == "int64"
    assert trials["val_loss"].dtype == "float64"
    assert trials["step"].dtype == "Int64"
    assert trials["message"].dtype == "str"
    assert trials["experiment"].isna().all()


def test_perplexity_bits_and_flops_are_those_of_the_closed_forms(folder):
    trial = trial_of(analysis.load(folder.path), "xs-0000")
    assert trial["perplexity"] == pytest.approx(math.exp(4.2), rel=1e-15)
    assert trial["bits_per_byte"] == pytest.approx(4.2 / math.log(2) / 3.0, rel=1e-15)
    assert trial["train_flops"] == 7000 * 25_600


def test_train_flops_of_a_large_model_do_not_wrap_around(make_run):
    run = make_run()
    run.add("xs", "complete", 2.0, flops_per_token=6 * 10**10, tokens=10**12)
    assert analysis.load(run.path).trials["train_flops"].tolist() == [6e22]


def test_bits_per_byte_are_nan_where_bytes_per_token_are_unknown(make_run):
    run = make_run(data={"bytes_per_token": None})
    run.add("xs", "complete", 4.0)
    assert analysis.load(run.path).trials["bits_per_byte"].isna().all()


def test_the_data_that_a_config_expects_are_no_parameter_in_which_trials_differ(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0, data__fingerprint="8f1c")
    assert "params.data.fingerprint" not in analysis.load(run.path).trials


def test_a_running_trial_shows_its_newest_row(folder):
    run = analysis.load(folder.path)
    trial = trial_of(run, "s-0003")
    assert (trial["status"], trial["step"], trial["val_loss"], trial["elapsed_s"]) == ("running", 50, 4.0, 5.0)
    assert trial["train_flops"] == 7000 * 50 * 256


def test_an_ended_trial_shows_its_record_and_not_its_rows(make_run):
    run = make_run()
    run.row(run.add("xs", "diverged", None), 25, 4.0)
    trial = analysis.load(run.path).trials.iloc[0]
    assert np.isnan(trial["val_loss"])


def test_a_trial_that_ended_without_a_report_has_its_counts_and_nothing_measured(folder):
    folder.row("xs-0005", 25, 4.0)  # not in its recorded end
    trial = trial_of(analysis.load(folder.path), "xs-0005")
    assert trial[list(COUNT_COLUMNS)].tolist() == [1000, 1100, 800, 7000]
    assert trial[[*LAST_COLUMNS, "train_flops", "perplexity", "bits_per_byte"]].isna().all()


def test_status_is_authoritative_over_the_state_of_the_study(make_run):
    run = make_run()
    # The driver was killed after it recorded the status and before it told Optuna.
    run.add("xs", None, status="pruned", last={"step": 25, "val_loss": 4.5})
    assert analysis.load(run.path).trials["status"].tolist() == ["pruned"]


def test_a_trial_without_status_that_the_study_has_ended_is_not_called_running(make_run):
    run = make_run()
    run.add("xs", None)
    for value, state in ((None, "FAIL"), (None, "PRUNED"), (2.0, "COMPLETE"), (math.inf, "COMPLETE")):
        run.add("xs", None)
        run.study("xs").tell(run.study("xs").trials[-1].number, value, optuna.trial.TrialState[state])
    assert analysis.load(run.path).trials["status"].tolist() == ["running", "failed", "pruned", "complete", "diverged"]


def test_enqueued_trials_are_skipped(folder):
    folder.study("xs").enqueue_trial({"optim.lr": 1e-3})
    assert len(analysis.load(folder.path).trials) == 10


def test_of_two_lines_for_one_step_the_last_wins_and_rows_are_in_order(folder):
    folder.row("xs-0000", 50, 5.0)
    folder.row("xs-0000", 25, 6.0)
    folder.row("xs-0000", 50, 4.8)
    rows = analysis.load(folder.path).rows
    assert rows.columns.tolist() == list(ROW_COLUMNS)
    assert rows[["trial", "step", "val_loss"]].values.tolist() == [
        *(["xs-0000", 25, 6.0], ["xs-0000", 50, 4.8]),
        *(["s-0003", 25, 4.4], ["s-0003", 50, 4.0]),
    ]


def test_null_becomes_nan(folder):
    folder.row("xs-0004", 25, None, grad_norm=None)
    row = analysis.load(folder.path).rows.query("trial == 'xs-0004'").iloc[0]
    assert np.isnan(row["val_loss"])
    assert np.isnan(row["grad_norm"])


@pytest.mark.parametrize("torn", ['{"trial": "s-0003", "st', '{"trial": "s-0003", "status": "läu'])
def test_a_torn_last_line_is_dropped(folder, torn):
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode()[:-1])
    assert analysis.load(folder.path).rows["step"].tolist() == [25, 50]


@pytest.mark.parametrize("damage", ['{"trial": "s-00', "[1, 2]", '{"trial": "s-0003"}'])
def test_a_damaged_line_elsewhere_is_named(folder, damage):
    folder.append(damage + "\n")
    folder.row("s-0003", 75, 3.9)
    with pytest.raises(RunError, match=r"line 3 of .*metrics\.jsonl is damaged"):
        analysis.load(folder.path)


@pytest.mark.parametrize("text", [None, ""])
def test_rows_may_be_absent_or_empty(folder, text):
    (folder.path / "metrics.jsonl").unlink()
    if text is not None:
        folder.append(text)
    run = analysis.load(folder.path)
    assert run.rows.columns.tolist() == list(ROW_COLUMNS)
    assert run.rows.empty
    assert np.isnan(trial_of(run, "s-0003")["val_loss"])


def test_a_size_without_a_study_has_no_trials(make_run):
    run = make_run()
    run.add("s", "complete", 4.0)
    assert analysis.load(run.path).trials["size"].tolist() == ["s"]


def test_another_storage_than_study_db_is_read_from_its_address(make_run, tmp_path):
    run = make_run(storage=f"sqlite:///{tmp_path}/elsewhere.db")
    run.add("xs", "complete", 4.0)
    assert analysis.load(run.path, run.manifest["storage"]).trials["val_loss"].tolist() == [4.0]


def test_in_a_shared_database_only_the_studies_of_the_manifest_are_read(make_run, tmp_path):
    shared = f"sqlite:///{tmp_path}/shared.db"
    other = make_run(storage=shared, studies={"xs": "other/xs"})
    other.add("xs", "complete", 3.0)
    run = make_run(storage=shared, studies={"s": "quick/s", "xs": "quick/xs"})
    run.add("xs", "complete", 4.0)
    run.add("s", "complete", 5.0)
    trials = analysis.load(run.path, shared).trials
    assert trials[["trial", "size", "val_loss"]].values.tolist() == [["s-0000", "s", 5.0], ["xs-0000", "xs", 4.0]]


def test_a_folder_with_any_name_is_read_from_anywhere(folder, tmp_path, monkeypatch):
    strange = folder.path.rename(tmp_path / "a b%20#?x")
    monkeypatch.chdir(tmp_path)
    assert len(analysis.load(Path(strange.name)).trials) == 10


def test_loading_changes_no_file(folder):
    def digests():
        return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.path.iterdir()}

    before = digests()
    analysis.load(folder.path)
    assert digests() == before


def write_study(damage):
    def spoil(path):
        good = (path / "study.db").read_bytes()
        (path / "study.db").write_bytes(damage(good))

    return spoil


SPOILED = {
    "a run's folder must hold manifest.json": lambda path: (path / "manifest.json").unlink(),
    "manifest.json must be JSON": lambda path: (path / "manifest.json").write_text("{"),
    "must have schema 1 or 2, but .* has 3": lambda path: (path / "manifest.json").write_text('{"schema": 3}'),
    "must have schema 1 or 2, but .* has None": lambda path: (path / "manifest.json").write_text("[]"),
    "must name the study of each size .* has None": lambda path: (path / "manifest.json").write_text('{"schema": 1}'),
    "must name the study of each size .* has \\[": lambda path: (path / "manifest.json").write_text(
        '{"schema": 1, "studies": ["xs"]}'
    ),
    "must hold study.db": lambda path: (path / "study.db").unlink(),
    r"is not \(.*not a database\)": write_study(lambda good: b"no SQLite at all" * 500),
    r"is not \(.*malformed\)": write_study(lambda good: good[: len(good) // 2]),
    r"is not \(.*no such table": write_study(lambda good: b""),
    r"is not \(Expecting": write_study(lambda good: good.replace(b'{"data": {', b'{"data": [')),
    "none named other": lambda path: (path / "manifest.json").write_text('{"schema": 1, "studies": {"xs": "other"}}'),
    r"names a database.* \(got nonsense://user:\*\*\*@host/x\)": lambda path: (path / "manifest.json").write_text(
        '{"schema": 1, "studies": {"xs": "xs"}, "storage": "nonsense://user:secret@host/x"}'
    ),
}


@pytest.mark.parametrize("message", SPOILED)
def test_a_damaged_folder_is_reported_in_one_line(folder, message):
    SPOILED[message](folder.path)
    with pytest.raises(RunError, match=message) as caught:
        analysis.load(folder.path)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "a remedy"
    assert "secret" not in str(caught.value)


def test_an_address_that_cannot_be_opened_is_reported_in_one_line_without_its_password(make_run):
    run = make_run(storage="nonsense://host/x")
    with pytest.raises(RunError, match=r"the database that was given is not \(") as caught:
        analysis.load(run.path, "nonsense://user:secret@host/x")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_trial_begun_is_an_error(make_run):
    run = make_run()
    study = run.study("xs")
    for begin in (lambda: None, lambda: study.enqueue_trial({}), study.ask):
        begin()
        with pytest.raises(RunError, match=r"no trial of .* has begun"):
            analysis.load(run.path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunError, match="is not a folder"):
        analysis.load(tmp_path / "none")


def test_the_public_face_is_imported_when_it_is_used():
    code = "import sys, analysis; assert not {'pandas', 'scipy', 'lmcore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert dir(analysis) == analysis.__all__
    for name in analysis.__all__:
        assert getattr(analysis, name).__name__ == name
    assert inspect.isfunction(analysis.load)
    assert inspect.ismodule(analysis.runs.load)
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = analysis.torch


def test_loading_needs_neither_torch_nor_ray_nor_other_parts_of_the_project(folder):
    code = (
        "import sys, json, analysis, analysis.report\n"
        f"analysis.report.build_report(analysis.load({str(folder.path)!r})).text()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert not {"torch", "ray", "wandb", "sweeps", "pydantic"} & set(modules)
    assert [name for name in modules if name.split(".")[0] == "lmcore"] == [
        *("lmcore", "lmcore.columns", "lmcore.curve_batches", "lmcore.errors", "lmcore.measure"),
        *("lmcore.measure.axis", "lmcore.measure.optimum_law", "lmcore.measure.seed_noise"),
        *("lmcore.measure.window_difference", "lmcore.notebook", "lmcore.printable", "lmcore.run_folders"),
        *("lmcore.runfile", "lmcore.runfile.yaml_file"),
        *("lmcore.study_database", "lmcore.terminal", "lmcore.terminal.console", "lmcore.terminal.table"),
        *("lmcore.terminal.width", "lmcore.window_records"),
    ]


def test_arms_and_phases_are_columns_and_confirmations_name_their_setting_and_the_leader(make_run):
    run = make_run(**armed("untied", "tied"))
    for arm in ("xs-untied", "xs-tied", "s-untied"):
        run.add(arm, "complete", 4.0)
    run.add("xs-untied", "complete", 4.1, optim__lr=1e-3)
    run.confirm("xs-untied-0000", {1: 4.2, 2: 4.3})
    run.confirm("xs-untied-0001", {1: 4.4})
    run.result("xs-untied-0000", **{"xs-untied-0001": 1})
    trials = analysis.load(run.path).trials
    assert trials["trial"].tolist() == [
        *("xs-untied-0000", "xs-untied-0001", "xs-tied-0000"),
        *("xs-untied-confirm-0000", "xs-untied-confirm-0001", "xs-untied-confirm-0002", "s-untied-0000"),
    ]
    assert trials["size"].tolist() == ["xs"] * 6 + ["s"]
    assert trials["arm"].tolist() == ["untied", "untied", "tied", "untied", "untied", "untied", "untied"]
    assert trials["phase"].tolist() == ["search"] * 3 + ["confirm"] * 3 + ["search"]
    assert trials["of"].tolist()[3:6] == ["xs-untied-0000"] * 2 + ["xs-untied-0001"]
    assert trials["leader"].tolist()[3:6] == [True, True, False]
    assert trials[["of", "leader"]].iloc[[0, 1, 2, 6]].isna().all(axis=None)


def test_a_folder_of_schema_1_has_one_search_per_size_and_no_arms(folder):
    trials = analysis.load(folder.path).trials
    assert set(trials["phase"]) == {"search"}
    assert trials[["arm", "of", "leader", "final_val_loss", "window_losses"]].isna().all(axis=None)


def test_the_quoted_loss_is_the_final_one_where_there_is_one(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0, final_val_loss=3.9, final_val_loss_se=0.001, final_windows=240)
    run.add("xs", "pruned", 4.5)
    trials = analysis.load(run.path).trials
    assert trials["val_loss"].tolist() == [4.0, 4.5]
    assert trials["loss"].tolist() == [3.9, 4.5]
    assert trials["loss_se"].tolist() == [0.001, 0.01]
    assert trials["final_windows"].isna().tolist() == [False, True]
    assert trials["perplexity"].tolist() == pytest.approx([math.exp(3.9), math.exp(4.5)])
    assert trials["bits_per_byte"].iloc[0] == pytest.approx(3.9 / math.log(2) / 3)


def test_losses_of_windows_are_arrays_beside_their_trial(make_run):
    run = make_run()
    first, second = run.add("xs", "complete", 4.0), run.add("xs", "complete", 4.1)
    run.windows(first, [9.0, 9.0, 9.0])
    run.documents([0, 0, 7])
    run.windows(first, [1.0, 2.0, 3.0])  # a later record wins
    run.windows(first, [1.5, 2.5], evaluation="best")
    run.windows(second, [4.0, 5.0, 6.0])
    trials = analysis.load(run.path).trials
    assert [one.tolist() for one in trials["window_losses"]] == [[1, 2, 3], [4, 5, 6]]
    assert trials["best_window_losses"].iloc[0].tolist() == [1.5, 2.5]
    assert trials["best_window_losses"].iloc[1] is None
    assert trials["window_documents"].iloc[1].tolist() == [0, 0, 7]


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_a_torn_end_of_the_losses_of_windows_is_ignored(make_run, cut):
    run = make_run()
    first, second = run.add("xs", "complete", 4.0), run.add("xs", "complete", 4.1)
    run.windows(first, [1.0, 2.0])
    run.windows(second, [3.0, 4.0])
    path = run.path / "window_losses.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    trials = analysis.load(run.path).trials
    assert trials["window_losses"].iloc[0].tolist() == [1, 2]
    assert trials["window_losses"].iloc[1] is None


def test_a_damaged_record_of_losses_of_windows_is_skipped(make_run):
    run = make_run()
    trial = run.add("xs", "complete", 4.0)
    run.windows(trial, [1.0, 2.0])
    path = run.path / "window_losses.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert analysis.load(run.path).trials["window_losses"].iloc[0] is None


def test_a_confirmation_of_an_experiment_belongs_to_the_experiment(make_run):
    run = make_run(**armed(sizes=("main",)))
    run.confirm(run.add("main", "complete", 4.0, experiment="baseline"), {1: 4.1})
    assert analysis.load(run.path).trials["experiment"].tolist() == ["baseline", "baseline"]


def test_a_trial_that_has_the_result_of_another_is_marked_in_tables_and_costs_nothing(make_run):
    run = make_run()
    first = run.add("xs", "complete", 4.0)
    repeated = run.add("xs", "complete", 4.0, same_as=first)
    for step in (50, 100):
        run.row(first, step, 4.0)
    loaded = analysis.load(run.path)
    assert loaded.trials["same_as"].tolist()[1:] == [first]
    assert loaded.trials["same_as"].isna().tolist() == [True, False]
    table = trials_table(loaded.trials)
    assert table.set_index("trial").loc[repeated, "same_as"] == first
    assert complete_trials(loaded.trials)["trial"].tolist() == [first]
    assert cost_table(loaded)["trials"].tolist() == [1]


def test_a_trial_that_has_the_result_of_an_excluded_one_is_excluded_with_it(make_run):
    run = make_run()
    first = run.add("xs", "complete", 4.0)
    repeated = run.add("xs", "complete", 4.0, same_as=first)
    run.add("xs", "complete", 4.1)
    run.study("xs").set_user_attr("excluded", {first: "a bad node"})
    loaded = analysis.load(run.path)
    assert loaded.trials["trial"].tolist() == ["xs-0002"]
    assert loaded.manifest["excluded"] == {first: "a bad node", repeated: f"same as {first}"}
