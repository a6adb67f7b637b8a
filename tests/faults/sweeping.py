"""Small real sweeps in processes of their own, to be broken, and what is left of them."""

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lmcore import columns as col
from lmcore.cores import cores
from lmcore.curve_batches import read_batches
from lmcore.window_records import read_records

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "sweeps" / "run.py"
QUIET = ("--no-dashboard", "--wandb", "off")
SETTINGS = {
    "sizes": "[{name: xs, model.d_model: 32, model.d_ff: 64, model.num_layers: 1}]",
    "model.context_length": "64",
    "train.steps": "200",
    "train.eval_every": "20",
    "compare": "[]",
    "confirm.top": "0",
    "data.source": "tokens.npy",
    "data.vocab_size": "61",
}
NOT_NUMBERS = {*col.PLACE_COLUMNS, col.TOKENS_PER_S, col.ELAPSED_S}
"""Columns of a row that hang on time and place."""


def write_tokens(folder):
    """tokens.npy: a random walk over 61 symbols."""
    steps = np.random.default_rng(0).integers(0, 3, 20_000)
    np.save(folder / "tokens.npy", np.cumsum(steps).astype(np.uint16) % 61)


def sweep_command(name, *more, trials=6, search="random", scheduler="none", slots=2, quiet=QUIET, **settings):
    """A sweep of six trials with ten rows each, some seconds long; `train__steps="400"` sets train.steps."""
    changed = {path.replace("__", "."): value for path, value in settings.items()}
    options = [word for path, value in (SETTINGS | changed).items() for word in ("--set", f"{path}={value}")]
    flags = [f"--trials={trials}", f"--search={search}", f"--scheduler={scheduler}", f"--slots={slots}"]
    return [sys.executable, str(RUN), "--name", name, *flags, *options, *quiet, *more]


def write_config(path, name="mine", **options):
    """The sweep of `sweep_command` as a file."""
    from sweeps.cli.options import parse
    from sweeps.spec.load import load_spec
    from sweeps.spec.sweep_spec import dump_yaml

    given = parse(sweep_command(name, **options)[2:])
    path.write_text(dump_yaml(load_spec(given.config, given.set, **given.flags)))


def sweep_without_ray(folder, **changes):
    """The sweep of `sweep_command("whole", **changes)` in this process; returns the run's folder."""
    from sweeps.cli.options import parse
    from sweeps.spec.load import load_spec
    from sweeps.sweep import with_data
    from tests.training import train_without_ray

    write_tokens(folder)
    options = parse(sweep_command("whole", data__source=str(folder / "tokens.npy"), **changes)[2:])
    spec, tokens = with_data(load_spec(options.config, options.set, **options.flags))
    return train_without_ray(spec, tokens, folder / "runs" / "whole").path


def resume_command(name, *more, quiet=QUIET):
    """What goes on with it."""
    return [sys.executable, str(RUN), "--resume", f"runs/{name}", *quiet, *more]


def remedy(name):
    """What the sweep says of how to go on with it, which is `resume_command`, to be typed."""
    return f"resume with {shlex.join([sys.executable, str(RUN), '--resume', f'runs/{name}', '--no-dashboard'])}"


def run(command, cwd, timeout=250, check=None, **environment):
    """The finished process; with `check`, its exit code must be that. A text is what a user would type."""
    options = {"cwd": cwd, "env": os.environ | environment, "timeout": timeout, "shell": isinstance(command, str)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert check is None or done.returncode == check, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def start(command, cwd, **environment):
    """The process, in a session of its own."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_on(host, command):
    """Start a sweep on a host of `hosts.Hosts`; the process's `lines` are what it has printed so far."""
    process = host.start(command, RAY_AUTH_MODE="token")
    process.lines = []
    readers = [
        threading.Thread(target=lambda stream=stream: process.lines.extend(stream), daemon=True)
        for stream in (process.stdout, process.stderr)
    ]
    for reader in readers:
        reader.start()
    wait = process.wait

    def wait_and_read(timeout):
        code = wait(timeout)
        for reader in readers:
            reader.join(10)
        return code

    process.wait = wait_and_read
    return process


def kill(process):
    """SIGKILL it and wait."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def rows_of(folder):
    """Rows by trial, in order; whole lines only."""
    path = folder / "metrics.jsonl"
    by_trial = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        row = json.loads(line)
        by_trial.setdefault(row[col.TRIAL], []).append(row)
    return by_trial


def count_rows(folder):
    """Whole lines of metrics.jsonl."""
    return sum(map(len, rows_of(folder).values()))


def curves(folder):
    """Rows by trial, in order, without what hangs on time and place."""
    return {
        trial: [{name: value for name, value in row.items() if name not in NOT_NUMBERS} for row in rows]
        for trial, rows in rows_of(folder).items()
    }


def windows_of(folder):
    """Steps and losses of single windows by trial and evaluation; the last record of each."""
    records = list(read_records((folder / "window_losses.bin").read_bytes()))
    return {
        (header["trial"], header["evaluation"]): (header["step"], header["set"], losses.tolist())
        for header, losses, _ in records
        if "trial" in header
    }


def points_of(folder):
    """Points of the training curves by trial, sorted; those that a resume repeated are the same, and are there once."""
    batches = [points for points, _ in read_batches((folder / "curves.arrow").read_bytes()) if points is not None]
    points = [tuple(point.values()) for batch in batches for point in batch.to_pylist()]
    return {
        trial: sorted({repr(point[1:]) for point in points if point[0] == trial}) for trial in {p[0] for p in points}
    }


def table_of(folder):
    """The report's table of the best trials, as text."""
    return (folder / "report" / "parameters.csv").read_text()


def wait_until(condition, seconds, what):
    """Until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} in {seconds} s"
        time.sleep(0.05)


def processes():
    """Parent, state and title of every process, by pid."""
    listing = ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="]
    table = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in table.splitlines()]
    return {int(row[0]): (int(row[1]), row[2], row[3] if len(row) > 3 else "") for row in rows}


def descendants(pid):
    """The process and everything it has started that has not been orphaned."""
    table, family = processes(), {pid}
    while more := {child for child, (parent, _, _) in table.items() if parent in family} - family:
        family |= more
    return family


def running(pids):
    """Those of `pids` that have not ended; one that nobody has waited for yet has."""
    return {pid for pid, (_, state, _) in processes().items() if pid in pids and not state.startswith("Z")}


def titled(pids, title):
    """Those of `pids` whose title holds this text."""
    return {pid for pid, (_, _, args) in processes().items() if pid in pids and title in args}


def measured_on():
    """Commit, versions and hardware, for a table of figures."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    hardware = {"machine": platform.machine(), "processor": processor(), "cores": cores()}
    return {"command": "make faults", "commit": commit(), "versions": versions(), "hardware": hardware}
