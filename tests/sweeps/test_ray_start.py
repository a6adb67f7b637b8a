"""Ray that does not start: one more try, then one line with a remedy and exit code 1, and nothing is left running."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.cluster import local_ray as module
from sweeps.cluster.local_ray import local_ray, patience, why_not_started
from sweeps.cluster.private_folder import SOCKET_PATH_BYTES, RayStartError
from sweeps.cluster.reaper import kill_processes_of, processes_of
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
model: {d_model: 32, d_ff: 64, num_layers: 1}
train: {steps: 4, eval_every: 2, eval_windows: 4, final_eval_windows: 4}
search: {method: random, trials: 1, scheduler: none}
tracking: {wandb: "off"}
space: {optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""


@pytest.fixture
def failing(monkeypatch):
    """Replaces `ray.init` by a function that raises these errors, one at each call; returns the calls so far."""
    import ray

    calls = []

    def use(*errors):
        def init(**options):
            calls.append(options)
            logs = os.path.join(options["_temp_dir"], "session_2026-01-02_03-04-05_678901_23", "logs")
            os.makedirs(logs)
            open(os.path.join(logs, "raylet.out"), "w").close()
            error = errors[min(len(calls), len(errors)) - 1]
            if isinstance(error, BaseException):
                raise error
            return error

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests of this process may have a cluster
        return calls

    return use


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (Exception("The current node timed out during startup. This could happen."), "when the machine is less busy"),
        (OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x"), "RAY_TMPDIR"),
        (ValueError("Failed to bind to 127.0.0.1:8265 because it's already occupied."), "end the program that holds"),
        (OSError(11, "Resource temporarily unavailable"), "raise `ulimit -u`"),
        (ValueError("The memory for the object store is too small"), "free memory"),
        (ImportError("libstdc++.so: cannot import name _raylet"), "install it again"),
        (RuntimeError(""), "run it again"),
        (AssertionError("one\nline\x1b[31m only"), "run it again"),
    ],
)
def test_whatever_ray_raises_is_one_line_with_a_remedy(error, remedy):
    line = why_not_started(error)
    assert line.startswith("Ray did not start (")
    assert remedy in line
    assert line.isprintable()


def test_the_second_try_is_in_a_folder_of_its_own_and_may_succeed(failing, tmp_path, monkeypatch):
    calls = failing(Exception("The current node timed out during startup."), "context")
    said = []
    with local_ray(None, lambda folder: None, said.append) as context:
        assert context == "context"
        folders = [call["_temp_dir"] for call in calls]
        assert len(set(folders)) == 2
        assert [os.path.exists(folder) for folder in folders] == [False, True]
    assert said == ["Ray did not start (The current node timed out during startup); trying once more"]
    assert not os.path.exists(os.path.dirname(folders[1]))


def test_after_two_tries_a_sweep_ends_in_one_line_with_code_1_and_names_the_logs(failing, in_tmp, capsys):
    (in_tmp / "tiny.yaml").write_text(CONFIG)
    calls = failing(Exception("The current node timed out during startup. And more."))
    assert main(["--config", "tiny.yaml", "--no-dashboard"]) == 1
    assert len(calls) == 2
    [line] = capsys.readouterr().err.splitlines()
    logs = f"{calls[1]['_temp_dir']}/session_latest/logs"
    assert line == (
        "Ray did not start (The current node timed out during startup); run it again when the machine is less busy "
        f"(Ray's logs are kept in {logs})"
    )
    assert not os.path.exists(os.path.dirname(calls[0]["_temp_dir"]))


def test_without_a_place_for_its_files_there_is_no_second_try(failing, monkeypatch, tmp_path):
    calls, said = failing(None), []
    monkeypatch.setattr("sweeps.cluster.private_folder.why_unfit", lambda parent: "it is not yours")
    with pytest.raises(RayStartError, match="set RAY_TMPDIR"), local_ray(None, lambda folder: None, said.append):
        pass
    assert (calls, said) == ([], [])


def test_an_interrupt_while_ray_starts_is_not_tried_again(failing):
    calls = failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), local_ray(None, lambda folder: None):
        pass
    assert len(calls) == 1


def test_ray_waits_for_its_node_longer_than_by_itself_but_not_for_one_that_has_ended(tmp_path, monkeypatch):
    from ray._private import services

    asked = []

    def get_node(address, node):
        asked.append(node)
        if len(asked) < 4:
            raise RuntimeError("not there yet")
        return {"node": node}

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(module, "processes_of", lambda folder, program: [1])
    with patience(tmp_path):
        assert services.get_node("head:1", "a") == {"node": "a"}
    assert services.get_node is get_node
    asked.clear()
    with patience(tmp_path, seconds=0), pytest.raises(RuntimeError, match="not there yet"):
        services.get_node("head:1", "a")
    asked.clear()
    monkeypatch.setattr(module, "processes_of", lambda folder, program: [])
    with patience(tmp_path), pytest.raises(ChildProcessError, match="its raylet has ended"):
        services.get_node("head:1", "a")


def test_what_a_try_has_started_is_killed_with_its_children_and_nothing_else(tmp_path):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    ours = subprocess.Popen([sys.executable, "-c", code, f"{tmp_path}/sockets/raylet"], stdin=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", "input()", f"{tmp_path}-other/raylet"], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while processes_of(tmp_path) != [ours.pid] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert processes_of(tmp_path, b"/sockets/raylet") == [ours.pid]
        assert processes_of(tmp_path, b"gcs_server") == []
        kill_processes_of(tmp_path)
        assert ours.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
            process.stdin.close()


def test_the_error_without_logs_names_none():
    assert str(RayStartError("Ray did not start (x); y")) == "Ray did not start (x); y"


@pytest.mark.ray
def test_a_sweep_with_a_temporary_folder_that_is_too_long_for_sockets_says_so_and_completes(in_tmp):
    long = in_tmp / ("t" * SOCKET_PATH_BYTES)
    long.mkdir()
    (in_tmp / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--config", "tiny.yaml", "--no-dashboard"]
    environment = os.environ | {"TMPDIR": str(long)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Note: TMPDIR is not used for Ray, because its path has {len(str(long.resolve()))} bytes" in done.stderr
