"""metrics.jsonl holds every row as one line of JSON, whatever its numbers are."""

import json
import math

import optuna
import pytest

from lmcore import columns as col
from sweeps.callbacks.metrics_file import RowFile
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger


@pytest.fixture
def live():
    """A trial that runs: main-0000."""
    spec = SweepSpec.model_validate({"name": "rows", "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}}})
    return Ledger(spec, optuna.storages.InMemoryStorage()).ask("main")


def row(step, **values):
    """A report row as the scheduler passes it on, its columns in another order than the file's."""
    columns = {name: float(place) for place, name in enumerate((*col.REPORT_COLUMNS, *col.PLACE_COLUMNS))}
    return dict(reversed({col.TRIAL: "main-0000", **columns, col.STEP: step, **values}.items()))


def strict(text):
    """Parse JSON, without Python's extensions NaN and Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_each_row_is_one_line_with_the_columns_in_their_order_and_the_trials_status(live, tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = RowFile(path)
    rows.on_trial_start(live)
    assert path.read_text() == ""
    rows.on_report(live, row(10))
    assert path.read_text().endswith("\n")  # a reader sees it before the next row comes
    live.status = col.PRUNED
    rows.on_report(live, row(20))
    rows.on_trial_end(live)
    rows.close()
    first, second = (strict(text) for text in path.read_text().splitlines())
    assert list(first) == list(second) == list(col.ROW_COLUMNS)
    assert (first[col.STEP], first[col.STATUS]) == (10, col.RUNNING)
    assert (second[col.STEP], second[col.STATUS], second[col.SIZE]) == (20, col.PRUNED, "main")
    assert first == {name: {**row(10), col.SIZE: "main", col.STATUS: col.RUNNING}[name] for name in col.ROW_COLUMNS}


def test_the_last_row_of_a_paused_trial_is_repeated_as_pruned_when_it_is_given_up_and_not_when_it_goes_on(
    live, tmp_path
):
    rows = RowFile(tmp_path / "metrics.jsonl")
    live.last_row, live.status, live.paused_at = row(20, slot=3), col.PAUSED, 20
    rows.on_report(live, live.last_row)
    rows.on_trial_end(live)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    live.status = col.PRUNED
    rows.on_trial_end(live)
    rows.close()
    first, second = (strict(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first[col.STATUS] == col.PAUSED
    assert second == first | {col.STATUS: col.PRUNED}


def test_numbers_that_are_not_finite_are_null(live, tmp_path):
    rows = RowFile(tmp_path / "metrics.jsonl")
    rows.on_report(live, row(10, val_loss=math.nan, train_loss=math.inf, grad_norm=-math.inf))
    rows.close()
    written = strict((tmp_path / "metrics.jsonl").read_text())
    assert [name for name, value in written.items() if value is None] == [col.TRAIN_LOSS, col.VAL_LOSS, col.GRAD_NORM]


def test_window_losses_are_left_out_and_a_row_of_an_older_version_has_no_final_loss(live, tmp_path):
    rows = RowFile(tmp_path / "metrics.jsonl")
    windows = {col.WINDOW_LOSSES: [1.0], col.BEST_WINDOW_LOSSES: None, col.BEST_STEP: None}
    rows.on_report(live, {name: value for name, value in row(10).items() if name not in col.FINAL_COLUMNS} | windows)
    rows.close()
    written = strict((tmp_path / "metrics.jsonl").read_text())
    assert list(written) == list(col.ROW_COLUMNS)
    assert [name for name, value in written.items() if value is None] == list(col.FINAL_COLUMNS)


def test_a_file_that_is_opened_again_is_appended_to(live, tmp_path):
    for step in (10, 20):
        rows = RowFile(tmp_path / "metrics.jsonl")
        rows.on_report(live, row(step))
        rows.close()
    assert [strict(text)[col.STEP] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20]


def test_the_torn_last_line_of_a_killed_writer_is_cut_off_before_the_next_row(live, tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = RowFile(path)
    rows.on_report(live, row(10))
    rows.on_report(live, row(20))
    rows.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        rows = RowFile(path)
        rows.on_report(live, row(30))
        rows.close()
        assert [strict(text)[col.STEP] for text in path.read_text().splitlines()] == [10, 30]


def test_a_disk_that_refuses_leaves_no_half_of_a_row(live, tmp_path):
    """The refusal is real: the kernel's limit on the size of a file."""
    import resource
    import signal

    path = tmp_path / "metrics.jsonl"
    rows = RowFile(path)
    rows.on_report(live, row(10))
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
        with pytest.raises(OSError, match="too large"):
            rows.on_report(live, row(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    rows.on_report(live, row(20))
    rows.close()
    assert len(path.read_text().splitlines()) == 2
