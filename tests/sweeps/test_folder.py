"""A run's folder has one writer at a time, one sweep, no half-written files, and may be a symbolic link."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.errors import InputError
from sweeps.rundir import lock_holder
from sweeps.rundir.folder import FolderInUseError, RunFolder, write_json, write_text
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.sweep import write_inputs

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import time; from sweeps.rundir.folder import RunFolder\nwith RunFolder.named('quick').claimed():\n"


@pytest.fixture
def folder(in_tmp):
    """runs/quick, not made yet."""
    return RunFolder.named("quick")


@pytest.fixture
def holder(folder):
    """Another process that holds runs/quick."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + "    print(flush=True)\n    time.sleep(600)"],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_pid_of_the_first(folder, holder):
    with (
        pytest.raises(FolderInUseError, match=f"process {holder.pid} on {socket.gethostname()} is writing") as refusal,
        folder.claimed(),
    ):
        pass
    assert "\n" not in str(refusal.value)
    assert "runs/quick" in str(refusal.value)


def test_a_folder_whose_holder_was_killed_is_free(folder, holder):
    holder.kill()
    holder.wait()
    with folder.claimed():
        assert json.loads((folder.path / ".lock-holder").read_text())["pid"] == os.getpid()


def test_the_holder_is_seen_alive_while_it_holds_the_folder_and_is_gone_afterwards(folder, monkeypatch):
    monkeypatch.setattr(lock_holder, "BEAT_S", 0.01)
    file = folder.path / ".lock-holder"
    with folder.claimed():
        os.utime(file, (0, 0))
        end = time.monotonic() + 10
        while file.stat().st_mtime == 0:
            assert time.monotonic() < end, "no beat"
            time.sleep(0.01)
    assert not file.exists()


def test_a_folder_is_free_again_when_its_holder_lets_go(folder):
    for _ in range(2):
        with folder.claimed():
            pass


def test_a_folder_that_holds_a_sweep_is_refused_and_not_kept_locked(folder):
    write_text(folder.sweep_yaml, "name: quick")
    with pytest.raises(InputError, match="holds a sweep already") as refusal, folder.claimed():
        pass
    assert "\n" not in str(refusal.value)
    folder.sweep_yaml.unlink()
    with folder.claimed():  # although `refusal` keeps the frames of the first attempt alive
        pass


def test_a_folder_that_cannot_be_created_is_wrong_input(folder, in_tmp):
    (in_tmp / "runs").write_text("a file")
    with pytest.raises(InputError, match="runs/quick cannot be created"), folder.claimed():
        pass


@pytest.mark.parametrize("link", ["runs", "runs/quick", "runs/quick/trials"])
def test_symbolic_links_are_followed(link, folder, in_tmp):
    """As on clusters, where runs/ or large parts of a run's folder lie on another disk."""
    elsewhere = in_tmp / "elsewhere"
    elsewhere.mkdir()
    (in_tmp / link).parent.mkdir(parents=True, exist_ok=True)
    (in_tmp / link).symlink_to(elsewhere)
    run_yaml = folder.trial("xs-0003") / "run.yaml"
    with folder.claimed():
        write_text(run_yaml, "name: xs-0003")
        write_text(folder.sweep_yaml, "name: quick")
    assert (elsewhere / run_yaml.relative_to(in_tmp / link)).read_text() == "name: xs-0003"
    assert folder.display == "runs/quick"
    with RunFolder.of_sweep(folder.path).claimed(resume=True):
        pass


def test_a_second_process_is_refused_through_a_symbolic_link_too(folder, holder, in_tmp):
    (in_tmp / "link").symlink_to(folder.path)
    linked = RunFolder(in_tmp / "link")
    with pytest.raises(FolderInUseError, match=f"link: .*process {holder.pid} on"), linked.claimed():
        pass


def test_names_are_those_of_the_design(folder, in_tmp, monkeypatch):
    names = {
        "sweep_yaml": "sweep.yaml",
        "manifest": "manifest.json",
        "study_db": "study.db",
        "metrics": "metrics.jsonl",
        "curves": "curves.arrow",
        "tokens": "tokens",
        "best": "best",
        "wandb": "wandb",
    }
    assert {name: getattr(folder, name).relative_to(in_tmp / "runs/quick").as_posix() for name in names} == names
    assert folder.trial("xs-0003") == in_tmp / "runs" / "quick" / "trials" / "xs-0003"
    assert folder.display == "runs/quick"
    monkeypatch.chdir("/")
    assert folder.metrics.parent == in_tmp / "runs" / "quick"  # wherever the process goes later


def test_a_write_that_fails_leaves_the_old_text(tmp_path):
    path = tmp_path / "sub" / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == "old"
    write_json(path, {"loss": 1.5})
    assert path.read_text() == '{\n  "loss": 1.5\n}\n'


def test_what_a_killed_driver_was_writing_is_deleted_by_the_next_one(folder, small_tokens):
    spec = SweepSpec.model_validate({"name": "quick", "search": {"trials": 1}})
    unfinished = [
        folder.path / ".manifest.json.1a2b3c4d.tmp",
        folder.best / ".xs.yaml.1a2b3c4d.tmp",
        folder.trial("xs-0000") / ".run.yaml.1a2b3c4d.tmp",
    ]
    for file in unfinished:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    checkpoint = folder.trial("xs-0000") / ".step-000010.safetensors.1a2b3c4d.tmp"
    checkpoint.write_text("of a worker, which deletes it itself")
    write_inputs(spec, small_tokens, folder)
    assert not any(file.exists() for file in unfinished)
    assert checkpoint.exists()
    assert folder.sweep_yaml.exists()


def test_token_files_that_are_not_copied_are_named(folder, in_tmp):
    (in_tmp / "data").mkdir()
    for name in ("a", "b", "c"):
        (np.arange(4000) % 3000).astype(np.uint16).tofile(in_tmp / "data" / f"{name}.bin")
    data = {"source": str(in_tmp / "data"), "copy": "never"}
    console = Console(file=io.StringIO(), width=200)
    folder.path.mkdir(parents=True)
    spec = SweepSpec.model_validate({"name": "quick", "data": data, "search": {"trials": 1}})
    write_inputs(spec, prepare_tokens(DataConfig(**data)), folder, console)
    assert console.file.getvalue() == (
        "The token files stay where they are (a.bin and 2 others); keep them there, and at the same path on every "
        "node, until the sweep has ended\n"
    )
