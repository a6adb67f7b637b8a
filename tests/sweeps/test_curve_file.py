"""curves.arrow has the points of every report, for any Arrow reader, whatever happens to the writer."""

import math
import resource
import signal

import numpy as np
import optuna
import pyarrow as pa
import pytest

import analysis
from lmcore import columns as col
from lmcore.corpus.tokens import Tokens
from lmcore.curve_batches import HEADER, encode_batch, read_batches
from lmcore.trainer import Trainer
from sweeps.callbacks.curve_file import CurveFile
from sweeps.provenance.manifest import sweep_entries
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from tests.training import train_without_ray

SPEC = SweepSpec.model_validate(
    {
        "name": "curves",
        "model": {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16},
        "train": {"steps": 20, "batch_size": 4, "eval_every": 5, "eval_windows": 4, "log_every": 2},
        "search": {"method": "random", "trials": 3, "scheduler": "none"},
        "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
    }
)
POINTS = [[0, 4.5, 1.25, 1e-3], [5, 4.25, 0.5, 2e-3]]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def trial():
    """A trial that is running: main-0000."""
    return Ledger(SPEC, optuna.storages.InMemoryStorage()).ask("main")


def report(file, trial, points):
    file.on_report(trial, {col.STEP: 10, col.VAL_LOSS: 4.0, col.POINTS: points})


def read(folder):
    """Points, with the trial in front, of what is undamaged."""
    batches = [points for points, _ in read_batches(folder.curves.read_bytes()) if points is not None]
    return [tuple(point.values()) for batch in batches for point in batch.to_pylist()]


def test_a_report_appends_its_points_and_any_arrow_reader_reads_them_while_the_file_is_open(folder, trial):
    file = CurveFile(folder)
    assert folder.curves.read_bytes() == b""  # as long as nothing was computed
    file.on_report(trial, {col.STEP: 10, col.VAL_LOSS: 4.0})  # from a checkpoint of an older version
    report(file, trial, [])
    assert folder.curves.read_bytes() == b""
    report(file, trial, POINTS)
    report(file, trial, [[10, math.nan, math.inf, 3e-3]])
    table = pa.ipc.open_stream(folder.curves).read_all()
    file.close()
    assert table.schema.names == [*col.CURVE_COLUMNS]
    assert [str(kind) for kind in table.schema.types] == ["string", "int32", "float", "float", "double"]
    *first, last = map(tuple, table.to_pandas().itertuples(index=False))
    assert first == [("main-0000", *point) for point in POINTS]
    assert last[:2] == ("main-0000", 10)
    assert math.isnan(last[2])
    assert last[3:] == (math.inf, 3e-3)


def test_a_driver_that_resumes_goes_on_in_the_same_stream(folder, trial):
    for points in (POINTS[:1], POINTS[1:]):
        file = CurveFile(folder)
        report(file, trial, points)
        file.close()
    assert folder.curves.read_bytes().count(HEADER) == 1
    assert len(pa.ipc.open_stream(folder.curves).read_all()) == 2


def test_a_file_that_was_cut_at_any_byte_loses_the_last_batch_at_most_and_is_continued(folder, trial):
    batches = [encode_batch("main-0000", [point]) for point in POINTS]
    whole = HEADER + b"".join(batches)
    before = len(HEADER + batches[0])
    for cut in range(len(whole)):
        kept = 0 if cut < len(HEADER) else len(HEADER) if cut < before else before
        folder.curves.write_bytes(whole[:cut])
        assert len(read(folder)) == (cut >= before)
        file = CurveFile(folder)
        assert folder.curves.read_bytes() == whole[:kept]
        if cut % 25:  # writing is slow
            file.close()
            continue
        report(file, trial, POINTS)
        file.close()
        assert [point[1] for point in read(folder)] == ([0, 0, 5] if cut >= before else [0, 5])
        assert len(pa.ipc.open_stream(folder.curves).read_all()) == len(read(folder))


def test_damage_costs_the_batch_that_it_hit_and_no_other(folder, trial):
    parts = [HEADER, *(encode_batch(f"main-000{n}", POINTS) for n in range(3))]
    names = [f"main-000{n}" for n in range(3)]
    for hit in range(len(parts)):
        damaged = [part if n != hit else part[:4] + bytes(64) + part[68:] for n, part in enumerate(parts)]
        folder.curves.write_bytes(b"".join(damaged))
        CurveFile(folder).close()
        assert folder.curves.read_bytes() == b"".join(damaged[: -1 if hit == 3 else None])
        left = [name for n, name in enumerate(names) if n + 1 != hit]
        assert [point[0] for point in read(folder)] == [name for name in left for _ in POINTS]
    folder.curves.write_bytes(np.random.default_rng(0).bytes(5000) + parts[1])
    assert [point[0] for point in read(folder)] == ["main-0000"] * 2


def test_no_damage_of_a_single_byte_stops_a_reader(folder):
    whole = HEADER + encode_batch("main-0000", POINTS) + encode_batch("main-0001", POINTS)
    for place in range(len(HEADER), len(whole), 3):
        for flipped in (0xFF, 0x01, 0x80):
            folder.curves.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            assert len(read(folder)) in (2, 4), (place, flipped)


def test_a_disk_that_refuses_leaves_the_file_as_it_was(folder, trial):
    """The refusal is real: the kernel's limit on the size of a file."""
    file = CurveFile(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(HEADER) + 20, limits[1]))
        with pytest.raises(OSError, match="too large"):
            report(file, trial, POINTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.curves.read_bytes() == b""
    report(file, trial, POINTS)
    file.close()
    assert len(pa.ipc.open_stream(folder.curves).read_all()) == 2


def test_a_whole_sweep_writes_what_its_trials_have_alone(tmp_path):
    ids = (np.cumsum(np.random.default_rng(0).integers(0, 3, 4000)) % 97).astype(np.uint16)
    tokens = Tokens.of(ids[:3000], ids[3000:], 97)
    folder = train_without_ray(SPEC, tokens, tmp_path / "curves")
    write_json(folder.manifest, sweep_entries(SPEC))
    run = analysis.load(folder.path)
    assert run.curves["trial"].unique().tolist() == run.trials["trial"].tolist()
    study = optuna.load_study(study_name="main", storage=f"sqlite:///{folder.study_db}")
    for trial in study.trials:
        alone = Trainer([type(SPEC.base).model_validate(trial.user_attrs[col.RUN])], tokens)
        expected = [point for row in alone for point in row[col.POINTS]]
        curve = run.curves[run.curves["trial"] == trial.user_attrs[col.TRIAL]]
        assert curve[[*col.POINT_COLUMNS]].to_numpy(float).tolist() == expected
        assert curve["tokens"].tolist() == [64 * step for step in range(0, 20, 2)]
    assert col.POINTS not in run.rows
