"""Runs on the same data are combined into one; others are rejected in one line."""

import pytest
from conftest import RunFolder

import analysis
from analysis.report import build_report, main
from analysis.runs.combine import load_all
from analysis.runs.load import RunError
from lmcore.curve_batches import HEADER, encode_batch


@pytest.fixture
def two(tmp_path):
    """Two runs, `a` and `b`; b's data as given."""

    def two(fingerprint="f00d", names=("a", "b")):
        runs = []
        for folder, name in zip("ab", names, strict=True):
            data = {"fingerprint": fingerprint if folder == "b" else "f00d", "bytes_per_token": 3.0}
            run = RunFolder(tmp_path / folder, name=name, data=data)
            trial = run.add("xs", "complete", 4.0 if folder == "a" else 3.5)
            run.row(trial, 100, 4.0)
            runs.append(run.path)
        return runs

    return two


def test_trials_of_several_runs_are_combined_under_the_names_of_their_runs(two):
    run = load_all(two())
    assert run.trials["trial"].tolist() == ["a/xs-0000", "b/xs-0000"]
    assert run.trials["size"].tolist() == ["a/xs", "b/xs"]
    assert run.rows["trial"].tolist() == ["a/xs-0000", "b/xs-0000"]
    report = build_report(run)
    assert report.name == "a + b"
    assert report.summary.startswith("2 trials: 2 complete")


def test_curves_of_several_runs_have_the_names_of_their_runs(two):
    folders = two()
    content = HEADER + encode_batch("xs-0000", [[0, 5.5, 1.0, 1e-3]])
    (folders[1] / "curves.arrow").write_bytes(content)
    assert load_all(folders).curves[["trial", "step"]].to_numpy().tolist() == [["b/xs-0000", 0]]
    (folders[0] / "curves.arrow").write_bytes(content)
    assert load_all(folders).curves["trial"].tolist() == ["a/xs-0000", "b/xs-0000"]


def test_one_run_is_loaded_as_it_is(two):
    folder = two()[0]
    assert load_all([folder]).trials.equals(analysis.load(folder).trials)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [({"fingerprint": "beef"}, "the same data"), ({"names": ("a", "a")}, "a name of its own")],
)
def test_runs_that_do_not_belong_together_are_rejected_in_one_line(two, options, fragment, capsys):
    folders = two(**options)
    with pytest.raises(RunError, match=fragment):
        load_all(folders)
    assert main([str(folder) for folder in folders]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
