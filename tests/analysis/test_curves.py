"""`run.curves`: the training curves as a table, read while they are written, beside the three parts of a run."""

import copy
import math
import pickle
import threading

import pandas as pd
import pytest

import analysis
from lmcore.curve_batches import HEADER, encode_batch

COLUMNS = ["trial", "step", "tokens", "train_loss", "grad_norm", "lr"]


@pytest.fixture
def run(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("xs", "diverged", None, train__batch_size=16)
    return run


def table(run):
    return analysis.load(run.path).curves.to_numpy().tolist()


def test_the_points_of_every_trial_come_in_the_order_of_the_trials_and_of_their_steps(run):
    run.points("xs-0001", [[0, 5.5, 2.0, 1e-3], [7, math.nan, math.inf, 2e-3]])
    run.points("xs-0000", [[5, 4.5, 0.5, 2e-3]])
    run.points("xs-0000", [[0, 5.25, 1.0, 1e-3]])
    curves = analysis.load(run.path).curves
    assert curves.columns.tolist() == COLUMNS
    *first, last = curves.to_numpy().tolist()
    assert first == [
        ["xs-0000", 0, 0, 5.25, 1.0, 1e-3],
        ["xs-0000", 5, 5 * 8 * 32, 4.5, 0.5, 2e-3],
        ["xs-0001", 0, 0, 5.5, 2.0, 1e-3],
    ]
    assert last[:3] == ["xs-0001", 7, 7 * 16 * 32]
    assert math.isnan(last[3])
    assert last[4:] == [math.inf, 2e-3]
    rows = analysis.load(run.path).rows
    assert curves.dtypes.equals(rows[COLUMNS].dtypes)


def test_of_a_step_that_a_resume_repeated_the_last_point_counts(run):
    run.points("xs-0000", [[0, 5.0, 1.0, 1e-3], [5, 4.5, 1.0, 1e-3]])
    run.points("xs-0000", [[5, 4.25, 1.0, 1e-3], [10, 4.0, 1.0, 1e-3]])
    assert [point[3] for point in table(run)] == [5.0, 4.25, 4.0]


@pytest.mark.parametrize("content", [None, b"", HEADER, HEADER[:100]], ids=["no file", "empty", "header", "torn"])
def test_a_run_without_points_has_an_empty_table_with_the_same_columns(run, content):
    if content is not None:
        (run.path / "curves.arrow").write_bytes(content)
    curves = analysis.load(run.path).curves
    assert curves.columns.tolist() == COLUMNS
    assert len(curves) == 0
    assert curves.dtypes.equals(analysis.load(run.path).rows[COLUMNS].dtypes)


def test_points_of_excluded_and_of_unknown_trials_are_left_out(run):
    for trial in ("xs-0000", "xs-0001", "\x1b[31mxs-0002"):
        run.points(trial, [[0, 5.0, 1.0, 1e-3]])
    run.study("xs").set_user_attr("excluded", {"xs-0001": "a bad node"})
    assert [point[0] for point in table(run)] == ["xs-0000"]


def test_a_run_is_still_three_things_and_curves_follow_its_trials(run):
    run.points("xs-0000", [[0, 5.0, 1.0, 1e-3]])
    run.points("xs-0001", [[0, 5.5, 1.0, 1e-3]])
    loaded = analysis.load(run.path)
    trials, rows, manifest = loaded
    assert trials is loaded.trials
    assert rows is loaded.rows
    assert manifest is loaded.manifest
    assert len(loaded) == 3
    fewer = loaded._replace(trials=trials.iloc[1:])
    assert type(fewer) is type(loaded)
    assert fewer.curves["trial"].tolist() == ["xs-0001"]
    assert loaded.curves["trial"].tolist() == ["xs-0000", "xs-0001"]
    assert loaded.curves is loaded.curves  # read once
    for other in (copy.copy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert other.curves.equals(loaded.curves)
    assert analysis.Run(trials, rows, manifest).curves.empty


def test_a_file_is_read_while_it_is_written(run):
    """Every state of the file between two bytes is one that a reader may see."""
    batches = [encode_batch("xs-0000", [[step, 5.0, 1.0, 1e-3]]) for step in range(3)]
    whole, path = HEADER + b"".join(batches), run.path / "curves.arrow"
    loaded = analysis.load(run.path)
    ends = [len(HEADER) + sum(map(len, batches[: n + 1])) for n in range(3)]
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        curves = loaded._replace().curves
        assert len(curves) == sum(end <= cut for end in ends)
    path.unlink()

    def write():
        with path.open("ab", buffering=0) as file:
            for place in range(0, len(whole), 5):
                file.write(whole[place : place + 5])

    writer = threading.Thread(target=write)
    path.touch()
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(len(loaded._replace().curves))
    writer.join()
    assert seen == sorted(seen)
    assert len(loaded._replace().curves) == 3


def test_a_figure_of_a_curve_takes_one_line(run):
    run.points("xs-0000", [[0, 5.0, 1.0, 1e-3], [5, 4.5, 1.0, 1e-3]])
    run.points("xs-0001", [[0, 5.5, 1.0, 1e-3]])
    wide = analysis.load(run.path).curves.pivot(index="step", columns="trial", values="train_loss")
    assert wide.loc[0].tolist() == [5.0, 5.5]
    assert pd.isna(wide.loc[5, "xs-0001"])
