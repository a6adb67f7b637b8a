"""Machines other than Linux, imitated: what Python lacks there is taken away from every process of a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACOS = """\
import os
import pathlib

for name in [name for name in dir(os) if name.startswith("sched_") or name in ("memfd_create", "eventfd", "O_TMPFILE")]:
    delattr(os, name)


def without_proc(method):
    def checked(self, *arguments, **options):
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return method(self, *arguments, **options)

    return checked


for name in ("read_text", "read_bytes", "write_text", "open"):
    setattr(pathlib.Path, name, without_proc(getattr(pathlib.Path, name)))
"""
WINDOWS = """\
import os
import signal
import sys

for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("geteuid", "getuid", "statvfs", "killpg", "setsid", "fork", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGHUP", "SIGALRM", "SIGKILL", "SIGPIPE", "SIGUSR1", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
import warnings
warnings.filterwarnings("ignore", "only soft file lock is available")  # with which filelock does without fcntl
import sweeps.cli.supported
sweeps.cli.supported.SYSTEM = "win32"
"""
TINY = """\
model: {d_model: 32, d_ff: 64, num_layers: 1}
train: {steps: 4, eval_every: 2, eval_windows: 4, final_eval_windows: 4}
search: {method: random, trials: 2, scheduler: none}
tracking: {wandb: "off"}
space: {optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""


@pytest.fixture
def run(in_tmp):
    """Runs a command of lmsweep on an imitated machine."""

    def run(machine, *arguments):
        (in_tmp / "machine").mkdir(exist_ok=True)
        (in_tmp / "machine" / "sitecustomize.py").write_text(machine)
        (in_tmp / "tiny.yaml").write_text(TINY)
        path = os.pathsep.join([str(in_tmp / "machine"), str(ROOT)])
        command = [sys.executable, str(ROOT / "lmsweep.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)

    return run


def test_the_imitation_reaches_the_command(run):
    done = run(MACOS + 'print(hasattr(os, "sched_getaffinity"))\n', "--version")
    assert done.stdout.startswith("False\n")


@pytest.mark.parametrize("command", ["run", "status", "report", "export", "generate", "exclude", "cluster-token"])
def test_every_command_shows_its_help_on_a_mac(run, command):
    done = run(MACOS, command, "--help")
    assert done.returncode == 0, done.stderr


def test_the_dry_run_counts_engines_on_a_mac(run):
    done = run(MACOS, "run", "--config", "tiny.yaml", "--dry-run", "--tokens-per-s", "1000")
    assert done.returncode == 0, done.stderr
    assert f"on the {os.cpu_count()} engine" in done.stdout


@pytest.mark.ray
def test_a_sweep_its_status_its_report_and_a_sample_work_on_a_mac(run):
    for arguments in (
        ("run", "--config", "tiny.yaml", "--no-dashboard"),
        ("status", "runs/tiny"),
        ("report", "runs/tiny", "--brief"),
        ("generate", "runs/tiny", "def ", "--max-tokens", "3"),
    ):
        done = run(MACOS, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        assert "Traceback" not in done.stderr


def test_on_windows_a_sweep_is_refused_in_one_line_that_names_wsl(run):
    for arguments in (("run", "--config", "tiny.yaml"), ("cluster-token",)):
        done = run(WINDOWS, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"lmsweep {arguments[0]} works on Linux and macOS (got Windows); run it in WSL, the Linux of Windows: "
            "`wsl --install`, then install lmsweep there\n"
        )


@pytest.mark.parametrize("command", ["run", "status", "report", "export", "generate", "exclude", "cluster-token"])
def test_every_command_shows_its_help_on_windows(run, command):
    done = run(WINDOWS, command, "--help")
    assert done.returncode == 0, done.stderr


def test_the_dry_run_works_on_windows(run):
    done = run(WINDOWS, "run", "--config", "tiny.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
