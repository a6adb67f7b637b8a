"""Whatever happens to wandb, the sweep's rows are the same as without it, and its processes end with the driver."""

import os
import signal
import time

import pytest
from sweeping import (
    count_rows,
    curves,
    descendants,
    kill,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    titled,
    wait_until,
)

from lmcore import columns as col
from sweeps.callbacks.tracking import WAIT_S

KEY = "canary3" * 5 + "12345"
OFFLINE, ONLINE = ("--no-dashboard", "--wandb", "offline"), ("--no-dashboard", "--wandb", "online")
RAISING = """
import sys
if "sweeps.callbacks.tracking" in sys.orig_argv:
    import wandb
    real, calls = wandb.Run.log, []
    def log(self, *arguments, **options):
        calls.append(1)
        if len(calls) > 7:
            raise wandb.errors.CommError("injected")
        return real(self, *arguments, **options)
    wandb.Run.log = log
"""


def lines_about_wandb(out):
    return [line for line in out.splitlines() if line.startswith("wandb ")]


@pytest.mark.ray
def test_without_a_network_wandb_costs_no_row_and_writes_no_key(tiny, control, fault):
    network = fault("network of wandb gone")
    network.injected()
    environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}
    out = run(sweep_command("alone", quiet=ONLINE), tiny, check=0, **environment).stdout
    decided = max(row[col.DECIDED_AT] for rows in rows_of(tiny / "runs" / "alone").values() for row in rows)
    assert time.time() - decided < WAIT_S + 30  # Ray's end and the table, on a machine that may be busy
    (line,) = lines_about_wandb(out)
    assert "no result is affected (see runs/alone/wandb.log)" in line
    assert curves(tiny / "runs" / "alone") == control.curves
    files = [path for path in (tiny / "runs").rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    network.survived()


@pytest.mark.ray
def test_a_wandb_that_raises_costs_no_row(tiny, control, fault):
    raising = fault("wandb raising")
    raising.injected()
    (tiny / "site").mkdir()
    (tiny / "site" / "sitecustomize.py").write_text(RAISING)
    out = run(sweep_command("loud", quiet=OFFLINE), tiny, check=0, PYTHONPATH=str(tiny / "site")).stdout
    assert lines_about_wandb(out) == ["wandb failed; no result is affected (see runs/loud/wandb.log)"]
    assert "CommError: injected" in (tiny / "runs" / "loud" / "wandb.log").read_text()
    assert curves(tiny / "runs" / "loud") == control.curves
    raising.survived()


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["sweeps.callbacks.tracking", "wandb-core"])
def test_a_wandb_that_is_killed_costs_no_row(victim, tiny, control, fault):
    killed = fault(f"wandb killed ({victim})")
    process = start(sweep_command("hurt", quiet=OFFLINE), tiny)
    folder = tiny / "runs" / "hurt"
    wait_until(lambda: titled(descendants(process.pid), victim), 100, f"no {victim}")
    killed.injected()
    for pid in titled(descendants(process.pid), victim):
        os.kill(pid, signal.SIGKILL)
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error
    (line,) = lines_about_wandb(out)
    assert "no result is affected (see runs/hurt/wandb.log)" in line
    assert curves(folder) == control.curves
    killed.survived()


@pytest.mark.ray
def test_wandbs_processes_end_within_ten_seconds_of_a_driver_that_is_killed(tiny, fault):
    orphaned = fault("driver kill -9 with wandb running")
    process = start(sweep_command("orphan", quiet=OFFLINE), tiny)
    wait_until(lambda: titled(descendants(process.pid), "wandb-core"), 100, "no wandb-core")
    wait_until(lambda: count_rows(tiny / "runs" / "orphan") >= 5, 100, "no 5 rows")
    family = descendants(process.pid)
    assert titled(family, "sweeps.callbacks.tracking")
    orphaned.injected()
    kill(process)
    began = time.monotonic()
    wait_until(lambda: not running(family), 10, "processes were left")
    orphaned.survived(seconds=time.monotonic() - began)
