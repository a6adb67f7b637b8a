"""A CSV of another tool's trials is read under the user's column names, or rejected in one line."""

import math

import pytest

from analysis.runs.load import RunError
from analysis.runs.trial_csv import parse_columns, read_trials

TEXT = """params,tokens,flops,val_loss,rate,seqs
1e6,2e7,1.2e14,4.0,1e-3,8
4e6,2e7,4.8e14,3.5,2e-3,16
4e6,8e7,1.92e15,nan,1,32
"""
ALL = {"N": "params", "D": "tokens", "loss": "val_loss"}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "trials.csv"
    path.write_text(TEXT)
    return path


def test_columns_are_read_under_the_users_names(table):
    columns = parse_columns("N=params, D=tokens,loss=val_loss,lr=rate,batch=seqs")
    trials = read_trials(table, columns, batch_unit_tokens=128)
    assert list(trials.columns) == ["N", "D", "loss", "lr", "batch"]
    assert trials.iloc[1].tolist() == [4e6, 2e7, 3.5, 2e-3, 2048]
    assert math.isinf(trials["loss"][2])  # it diverged: the row stays


def test_tokens_follow_from_flops(table):
    trials = read_trials(table, {"N": "params", "loss": "val_loss"}, flops_column="flops")
    assert trials["D"].tolist() == pytest.approx([2e7, 2e7, 8e7])


def test_the_highest_losses_can_be_left_out(table):
    assert read_trials(table, ALL, drop_highest_loss=2)["loss"].tolist() == [3.5]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("N", "'N'"), ("N=a,N=b", "'N=b'"), ("M=a", "one of N, D, loss, lr, batch"), ("", "''"), ("N=", "'N='")],
)
def test_a_mistake_in_columns_is_one_line_with_the_form(text, fragment):
    with pytest.raises(RunError, match=r"^--columns: ") as error:
        parse_columns(text)
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "columns", "options", "fragment"),
    [
        (None, ALL | {"lr": "eta"}, {}, "the column 'eta' that --columns names, but has params, tokens"),
        (None, {"N": "params", "loss": "val_loss"}, {}, "must name D"),
        (None, {"D": "tokens", "loss": "val_loss"}, {}, "must name N"),
        (None, ALL, {"flops_column": "flops"}, "leave one out"),
        (None, {"N": "params", "loss": "val_loss"}, {"flops_column": "C"}, "that --flops-column names"),
        (None, ALL, {"drop_highest_loss": 3}, "must leave a row of"),
        (("3.5", "low"), ALL, {}, ":3: val_loss must be a positive number (got 'low')"),
        (("2e7", "-2e7"), ALL, {}, ":2: tokens must be a positive number (got -20000000.0)"),
        (("2e7", ""), ALL, {}, ":2: tokens must be a positive number (got nan)"),
        ((TEXT[TEXT.index("\n") + 1 :], ""), ALL, {}, "has only a header"),
        (None, ALL, {"batch_unit_tokens": 0.0}, "--batch-unit-tokens: must be a positive number (got 0)"),
    ],
)
def test_a_file_that_does_not_fit_is_rejected_in_one_line(table, change, columns, options, fragment):
    if change:
        table.write_text(TEXT.replace(*change, 1))
    with pytest.raises(RunError) as error:
        read_trials(table, columns, **options)
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_csv_is_rejected_in_one_line(tmp_path):
    for content in (None, b"", b"\x00\xff" * 100):
        path = tmp_path / "x.csv"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError) as error:
            read_trials(path, ALL)
        assert "\n" not in str(error.value)
