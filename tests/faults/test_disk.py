"""On a full disk a sweep names the disk and ends; once there is room it can be resumed as if nothing had happened."""

import os
import subprocess

import optuna
import pytest
from sweeping import (
    count_rows,
    curves,
    remedy,
    resume_command,
    rows_of,
    run,
    start,
    sweep_command,
    table_of,
    wait_until,
    write_tokens,
)

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.callbacks.metrics_file import RowFile, last_rows
from sweeps.rundir.checkpoints import checkpoint_files
from sweeps.rundir.disk_full import UnwritableError, end_sweep_if_unwritable, full_line
from sweeps.rundir.folder import RunFolder
from sweeps.study.storage import open_storage

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs more rights")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk, leave):
    """Fill the disk except for `leave` bytes; returns the file that fills it."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(b"x" * (room.f_bavail * room.f_bsize - leave))
    return filler


@pytest.mark.smoke
def test_a_full_disk_is_named_with_its_type_and_size(small_disk):
    assert full_line(small_disk / "runs" / "none") == f"{small_disk} (tmpfs, 4.2 MB) is full; free space there"


@pytest.mark.smoke
def test_rows_and_studies_on_a_full_disk_stay_as_they_were_and_go_on_when_there_is_room(small_disk, whole, fault):
    full = fault("disk full under rows and studies")
    path = small_disk / "metrics.jsonl"
    rows = RowFile(path)
    study = optuna.create_study(storage=open_storage(None, RunFolder(small_disk)), study_name="xs")
    study.tell(study.ask(), 1.0)
    *_, line = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    rows._append(line)
    filler = fill(small_disk, 0)

    @end_sweep_if_unwritable()
    def write_rows():
        for _ in range(100):
            rows._append(line)

    @end_sweep_if_unwritable()
    def write_study():
        for _ in range(100):
            study.ask().set_user_attr("x", "x" * 1000)

    for write in (write_rows, write_study):
        full.injected()
        with pytest.raises(UnwritableError):
            write()
        assert len(last_rows(path)) == 1
        assert path.read_bytes().endswith(line)
        assert study.trials[0].value == 1.0
    filler.unlink()
    rows._append(line)
    study.tell(study.ask(), 0.5)
    assert study.best_value == 0.5
    assert len(last_rows(path)) == 1
    rows.close()
    full.survived(2)


@pytest.mark.ray
@pytest.mark.parametrize("leave", [200_000, 500_000])  # less than the checkpoints of four trials still need
def test_a_sweep_on_a_full_disk_names_it_and_goes_on_when_there_is_room(leave, small_disk, control, fault):
    full = fault("disk full under a sweep")
    full.injected()
    write_tokens(small_disk)
    folder = small_disk / "runs" / "full"
    process = start(sweep_command("full"), small_disk)
    wait_until(lambda: count_rows(folder) >= 1, 100, "no row")
    filler = fill(small_disk, leave)
    out, error = process.communicate(timeout=100)
    print(out, error)
    assert process.returncode == 1
    assert error == f"\n{small_disk} (tmpfs, 4.2 MB) is full; free space there; {remedy('full')}\n"
    for trial, rows in rows_of(folder).items():  # what was written is whole
        for file in checkpoint_files(folder / "trials" / trial):
            read_checkpoint(file)
        assert rows[-1][col.STATUS] in (col.RUNNING, col.COMPLETE)
    filler.unlink()
    run(resume_command("full"), small_disk, check=0)
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    full.survived()
