"""A node or the head of the cluster is gone."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest
from sweeping import (
    ROOT,
    count_rows,
    curves,
    descendants,
    remedy,
    resume_command,
    rows_of,
    run,
    running,
    start,
    sweep_command,
    table_of,
    titled,
    wait_until,
)

from lmcore import columns as col

# What is left after the second node is gone has room for one engine and one trial proxy: the hardest case.
TWO_NODES = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
node = cluster.add_node(num_cpus=3)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(node, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@contextmanager
def two_nodes():
    """A cluster of two nodes on this machine: its address, and what removes the second one without a warning."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    host = subprocess.Popen([sys.executable, "-c", TWO_NODES], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)

    def say_and_hear():
        host.stdin.write("\n")
        host.stdin.flush()
        return host.stdout.readline()

    try:
        yield host.stdout.readline().strip(), lambda: say_and_hear() == "removed\n"
    finally:
        family = descendants(host.pid)
        host.communicate("\n", timeout=60)
        for pid in running(family):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
def test_the_trials_of_a_node_that_is_lost_go_on_elsewhere(tiny, control, fault):
    folder = tiny / "runs" / "nodes"
    with two_nodes() as (address, remove):
        command = sweep_command("nodes", "--address", address, search__concurrent="3")
        process = start(command, tiny, RAY_AUTH_MODE="disabled")
        wait_until(lambda: count_rows(folder) >= 12 or process.poll() is not None, 100, "no 12 rows")
        lost = fault("node lost")
        lost.injected()
        assert remove()
        began, struck = time.monotonic(), time.time()
        # A node counts as dead when its heartbeats have been missing for a while.
        out, error = process.communicate(timeout=200)
        assert process.returncode == 0, out + error
        pairs = [pair for trial in rows_of(folder).values() for pair in pairwise(trial)]
        moved = [new for old, new in pairs if new[col.ENGINE] != old[col.ENGINE]]
        after = [row[col.DECIDED_AT] for row in moved if row[col.DECIDED_AT] > struck]
        assert after, "no trial moved to another engine: the node had none"
        assert curves(folder) == control.curves
        assert table_of(folder) == control.table
        lost.survived(seconds=min(after) - struck)
        assert time.monotonic() - began < 200


@pytest.mark.ray
def test_when_the_head_is_killed_the_sweep_says_so_and_goes_on_in_a_new_cluster(tiny, control, fault):
    folder = tiny / "runs" / "headless"
    process = start(sweep_command("headless"), tiny)
    wait_until(lambda: count_rows(folder) >= 12, 100, "no 12 rows")
    family = descendants(process.pid)
    head = fault("head (GCS) kill -9")
    head.injected()
    began = time.monotonic()
    os.kill(min(titled(family, "gcs_server")), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert process.returncode == 1
    assert error.startswith("\nthe Ray cluster at "), error
    assert error.endswith(f" is gone; {remedy('headless')}\n")
    assert error.count("\n") == 2
    wait_until(lambda: not running(family), 10, "processes were left")
    run(resume_command("headless"), tiny, check=0)
    assert curves(folder) == control.curves
    head.survived(seconds=seconds)
