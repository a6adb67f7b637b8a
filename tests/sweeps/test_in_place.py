"""A run's folder that is moved, deleted or replaced while its sweep runs is noticed, and is not created again."""

import os
import shutil
import threading

import pytest

from sweeps.rundir.disk_full import MovedError
from sweeps.rundir.folder import RunFolder, write_json
from sweeps.rundir.in_place import InPlace
from sweeps.study.storage import open_storage


@pytest.fixture
def folder(in_tmp):
    """runs/quick as it is when a sweep has begun, claimed."""
    folder = RunFolder.named("quick")
    with folder.claimed():
        folder.metrics.write_text("{}\n")
        folder.curves.touch()
        yield folder


def moved(folder):
    folder.path.rename(folder.path.with_name("elsewhere"))


def replaced_by_a_copy(folder):
    moved(folder)
    shutil.copytree(folder.path.with_name("elsewhere"), folder.path)


def rows_replaced(folder):
    other = folder.path / "other"
    other.write_text("{}\n")
    os.replace(other, folder.metrics)


@pytest.mark.parametrize(
    ("happening", "found"),
    [
        (moved, "it is gone"),
        (lambda folder: shutil.rmtree(folder.path), "it is gone"),
        (replaced_by_a_copy, ".lock is another file now"),
        (rows_replaced, "metrics.jsonl is another file now"),
        (lambda folder: folder.metrics.unlink(), "metrics.jsonl is gone"),
        (lambda folder: folder.curves.unlink(), "curves.arrow is gone"),
    ],
    ids=["moved", "deleted", "replaced by a copy", "rows replaced", "rows deleted", "curves deleted"],
)
def test_nothing_is_written_to_studies_of_a_folder_that_is_not_in_place(happening, found, folder, tmp_path):
    import optuna

    in_place = InPlace(folder)
    storage = open_storage(f"sqlite:///{tmp_path}/shared.db", folder, check=in_place.check)
    study = optuna.create_study(study_name="quick/xs", storage=storage)
    trial = study.ask()
    happening(folder)
    rule = f"runs/quick: the folder of a running sweep must stay where it is, but {found}; move it when"
    writes = (
        lambda: study.tell(trial, 1.0),
        study.ask,
        lambda: trial.report(1.0, 1),
        lambda: trial.set_user_attr("a", 1),
    )
    for write in writes:
        with pytest.raises(MovedError) as stop:
            write()
        assert stop.value.line(folder.path).startswith(rule)
    (kept,) = study.trials
    assert (kept.state.name, kept.intermediate_values, kept.user_attrs) == ("RUNNING", {}, {})


def test_a_folder_in_place_may_get_files_and_lose_others(folder):
    in_place = InPlace(folder)
    in_place.check()
    folder.study_db.touch()
    write_json(folder.manifest, {})
    write_json(folder.manifest, {"more": 1})
    in_place.check()
    folder.manifest.unlink()
    in_place.check()


def test_a_folder_that_vanishes_while_nothing_is_written_is_noticed_within_seconds(folder):
    lines, seen = [], threading.Event()

    def end(line):
        lines.append(line)
        seen.set()

    with InPlace(folder).watched(end):
        assert not seen.wait(1.5)
        shutil.rmtree(folder.path)
        assert seen.wait(5)
    assert len(lines) == 1
    assert "it is gone" in lines[0]


def test_the_manifest_of_a_folder_that_is_gone_does_not_bring_it_back(folder):
    shutil.rmtree(folder.path)
    with pytest.raises(MovedError):
        write_json(folder.manifest, {})
    assert not folder.path.exists()
