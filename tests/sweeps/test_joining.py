"""Joining a cluster: whatever is wrong with the address, the token, the machine or the version is one line, at once."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from lmcore.errors import InputError
from sweeps.cluster.joining import check_address, dashboard_address, join

ROOT = Path(__file__).resolve().parents[2]
TOKEN, OTHER = "t" * 48, "o" * 48
AT_ONCE_S = 15.0  # Ray alone takes 20 s and more; two loaded cores take some of it to import


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("ray://head:10001", r"cannot run over Ray Client \(got ray://head:10001\); submit .*`ray job submit`"),
        ("http://127.0.0.1:8265", r"must be HOST:PORT or auto \(got http://127\.0\.0\.1:8265\)"),
        ("head", r"must be HOST:PORT or auto \(got head\); give the address that `ray start --head` printed"),
        ("head:", r"must be HOST:PORT"),
        ("head:70000", r"must be HOST:PORT"),
        (":6379", r"must be HOST:PORT"),
        ("local", r"got local\); leave it out \(and RAY_ADDRESS unset\) to use this machine"),
        ("127.0.0.1:1", r"must be a running Ray cluster \(got 127\.0\.0\.1:1: Connection refused\); start one with"),
        ("no.such.host.invalid:6379", r"must be a running Ray cluster \(got no\.such\.host\.invalid:6379: "),
    ],
)
def test_an_address_that_is_none_of_a_cluster_is_one_line(address, what):
    with pytest.raises(InputError, match=rf"^--address: .*{what}") as error:
        join(address, {})
    assert "\n" not in str(error.value)


def test_the_form_of_an_address_is_checked_before_anything_is_spent(tmp_path):
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--address", "ray://head:10001"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.7:6379", "[fd00::7]:6379", "auto", None])
def test_addresses_of_clusters_are_let_through(address):
    check_address(address)


@pytest.mark.parametrize(
    ("url", "head", "address"),
    [
        ("127.0.0.1:8265", "127.0.0.1:6379", "http://127.0.0.1:8265"),
        ("192.0.2.77:8265", "192.0.2.77:6379", "http://192.0.2.77:8265"),
        # Nobody has this address: it is reserved for documentation.
        ("127.0.0.1:8266", "192.0.2.77:6379", "http://127.0.0.1:8266 after `ssh -N -L 8266:127.0.0.1:8266 192.0.2.77`"),
    ],
)
def test_a_dashboard_on_the_loopback_of_another_machine_is_printed_with_the_way_there(url, head, address):
    assert dashboard_address(url, head) == address


JOIN = """
import json, os, sys
from lmcore.errors import InputError
from sweeps.cluster.connect import connect
try:
    with connect(sys.argv[1], "127.0.0.1") as cluster:
        import ray
        ran = ray.get(ray.remote(lambda: "a task ran").remote())
        print(json.dumps([cluster.cpus, cluster.dashboard_url, os.environ["RAY_AUTH_MODE"], ran]))
except InputError as error:
    print(error)
"""
PRETEND = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
metadata = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=10))
changed = json.dumps(metadata | json.loads(sys.argv[2])).encode()
client.internal_kv_put(b"CLUSTER_METADATA", changed, True, b"cluster", timeout=10)
"""


def run(code, *words, **environment):
    """What a script printed, and in how many seconds."""
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip(), time.monotonic() - began


def processes_of(folder):
    """Processes whose command lines name a folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (process / "cmdline").read_bytes():
                pids.append(int(process.name))
        except OSError:
            continue  # it has ended
    return pids


def is_raylet(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"
    except OSError:
        return False


def free_ports(count):
    """Ports that nobody listens on now."""
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class StartedCluster:
    """`ray start --head` with the token TOKEN, or without one."""

    def __init__(self, mode, wait=True):
        self.folder = tempfile.mkdtemp(prefix="rj")  # sockets have short paths
        port, dashboard_port = free_ports(2)
        self.address, self.dashboard = f"127.0.0.1:{port}", f"127.0.0.1:{dashboard_port}"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=2"]
        options = [f"--temp-dir={self.folder}", f"--dashboard-port={dashboard_port}", "--disable-usage-stats"]
        env = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": TOKEN}
        env.pop("RAY_ADDRESS", None)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.starting = subprocess.Popen([*command, *options], env=env, **quiet)
        assert not wait or self.starting.wait(300) == 0

    def stop(self):
        for signal in (15, 9):
            for pid in processes_of(self.folder):
                os.kill(pid, signal)
            deadline = time.monotonic() + 10
            while processes_of(self.folder) and time.monotonic() < deadline:
                time.sleep(0.1)


@pytest.fixture(scope="module")
def started():
    """A cluster that demands a token."""
    cluster = StartedCluster("token")
    yield cluster
    cluster.stop()


@pytest.mark.ray
def test_a_cluster_is_joined_with_its_token_and_the_dashboard_opens_from_here(started):
    printed, _ = run(JOIN, started.address, RAY_AUTH_TOKEN=TOKEN)
    assert json.loads(printed) == [2, f"http://{started.dashboard}", "token", "a task ran"]
    with urllib.request.urlopen(f"http://{started.dashboard}", timeout=30) as page:
        assert page.status == 200


@pytest.mark.ray
@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, r"demands a token \(got none: there is no /nowhere\); copy the file"),
        ({"RAY_AUTH_TOKEN": OTHER}, r"demands a token, and it is not this machine's \(got the one of RAY_AUTH_TOKEN\)"),
        (
            {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": TOKEN},
            r"\(got RAY_AUTH_MODE=disabled\); unset RAY_AUTH_MODE",
        ),
    ],
)
def test_a_cluster_whose_token_this_machine_lacks_is_one_line_at_once(started, environment, what):
    printed, seconds = run(JOIN, started.address, **environment)
    assert re.match(rf"--address: the cluster at {started.address} .*{what}", printed)
    assert OTHER not in printed
    assert "\n" not in printed
    assert seconds < AT_ONCE_S


@pytest.mark.ray
def test_another_port_of_a_cluster_is_one_line_at_once(started):
    printed, seconds = run(JOIN, started.dashboard, RAY_AUTH_TOKEN=TOKEN)
    assert re.fullmatch(r"--address: must be the port of a cluster's control service .* it is 6379 unless .*", printed)
    assert seconds < AT_ONCE_S


@pytest.mark.ray
@pytest.mark.parametrize("theirs", [{"ray_version": "2.50.0"}, {"python_version": "3.9.1"}])
def test_another_version_of_ray_or_python_is_one_line(started, theirs):
    import ray

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ours = {"ray_version": ray.__version__, "python_version": ".".join(map(str, sys.version_info[:3]))}
    run(PRETEND, started.address, json.dumps(theirs), **token)
    printed, _ = run(JOIN, started.address, RAY_AUTH_TOKEN=TOKEN)
    run(PRETEND, started.address, json.dumps(ours), **token)
    there, here = ({"ray_version": "Ray", "python_version": "Python"}[name] for name in (*theirs, *theirs))
    (version,) = theirs.values()
    assert re.fullmatch(
        rf"--address: the cluster and .* \(got .*{there} {version}.* on the cluster .*; install .*", printed
    )
    assert f"{here} {ours[next(iter(theirs))]}" in printed


@pytest.mark.ray
def test_a_machine_that_is_no_node_of_the_cluster_is_one_line(started):
    """The last test of this cluster: it loses its only node."""
    for pid in processes_of(started.folder):
        if is_raylet(pid):
            os.kill(pid, 15)
    printed = ""
    deadline = time.monotonic() + 60
    while "must be a node" not in printed and time.monotonic() < deadline:  # until the control service knows
        printed, _ = run(JOIN, started.address, RAY_AUTH_TOKEN=TOKEN)
    assert re.fullmatch(r"--address: this machine must be a node of .* \(got 0 others\); run `ray start .*`", printed)


@pytest.mark.ray
def test_a_cluster_whose_first_node_is_not_there_yet_is_waited_for():
    started = StartedCluster("token", wait=False)
    try:
        raylets, deadline = [], time.monotonic() + 60
        while not raylets and time.monotonic() < deadline:  # its control service is there, and lets in
            raylets = [pid for pid in processes_of(started.folder) if is_raylet(pid)]
        os.kill(raylets[0], 19)
        joining = subprocess.Popen(
            [sys.executable, "-c", JOIN, started.address],
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(8)
        assert joining.poll() is None
        os.kill(raylets[0], 18)
        printed, _ = joining.communicate(timeout=60)
        assert json.loads(printed) == [2, f"http://{started.dashboard}", "token", "a task ran"]
        assert started.starting.wait(60) == 0
    finally:
        started.stop()


@pytest.mark.ray
def test_a_cluster_without_a_token_is_joined_unless_the_user_demands_one():
    started = StartedCluster("disabled")
    try:
        printed, _ = run(JOIN, started.address, RAY_AUTH_TOKEN=TOKEN)
        warning, joined = printed.splitlines()
        port = started.address.rpartition(":")[2]
        assert re.match(rf"Warning: [\d.]+:{port} demands no token, so whoever reaches it can run code on it", warning)
        assert json.loads(joined) == [2, f"http://{started.dashboard}", "disabled", "a task ran"]
        printed, seconds = run(JOIN, started.address, RAY_AUTH_TOKEN=TOKEN, RAY_AUTH_MODE="token")
        assert re.fullmatch(r"--address: the cluster at .* must demand a token \(got one that anybody .*", printed)
        assert seconds < AT_ONCE_S
    finally:
        started.stop()
