"""Another user of the machine, while a sweep runs: cannot read, connect to or replace anything of it.

The other user is a forked process that has become `nobody`, so this needs root. It tries everything that it finds and
records the error of each attempt; they are printed, and each is a row of the table of faults.
"""

import json
import os
import pwd
import re
import shutil
import socket
import stat
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from sweeping import count_rows, curves, descendants, processes, start, sweep_command, wait_until, write_tokens
from test_security import listening

OTHER = "nobody"
SHARED_MEMORY = Path("/dev/shm")
METHODS = [  # one of each service that Ray's processes offer
    *("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull"),
    *("CoreWorkerService/GetCoreWorkerStats", "ReporterService/GetTraceback"),
]
REFUSED = re.compile("PermissionError|UNAUTHENTICATED|HTTP 401|HTTP 403")
NO_SERVICE = re.compile("UNIMPLEMENTED|UNAVAILABLE|CANCELLED|INTERNAL|RemoteDisconnected|BadStatusLine|ConnectionReset")
METRICS = "succeeded: metrics"
"""Ray gives Prometheus its numbers without a token, on every path of a port on loopback."""
PUBLIC = re.compile("^/ of dashboard.py")
"""The dashboard's static first page, which asks for the token."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(OTHER not in {one.pw_name for one in pwd.getpwall()}, reason=f"there is no user {OTHER}"),
]


def as_other_user(work):
    """The JSON that `work()` returns in a process of the other user. It may import nothing: root's files are closed."""
    read, write = os.pipe()
    other = pwd.getpwnam(OTHER)
    if not (pid := os.fork()):
        status = 1
        try:
            os.setgroups([])
            os.setgid(other.pw_gid)
            os.setuid(other.pw_uid)
            with open(write, "w") as file:
                json.dump(work(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(text)


class Attempts:
    """Tries things and records how each ended: its kind, what was tried, and the error or `succeeded`."""

    def __init__(self):
        self.ended = []

    def __call__(self, kind, what, action):
        try:
            answer = action()
            how = METRICS if str(answer).startswith("b'# HELP") else "succeeded"
        except urllib.error.HTTPError as error:
            how = f"HTTP {error.code}"
        except Exception as error:
            code = getattr(error, "code", None)
            how = f"{type(error).__name__}: {code().name if callable(code) else error}"
        self.ended.append((kind, str(what), how))


def every_attempt(private, shared, sockets, places, memory, pids, folder, token, grpc):
    """All that the other user tries; `places` are pairs of a port and the title of the process that listens there."""
    attempt = Attempts()
    attempt("list Ray's folder", private, lambda: os.listdir(private))
    for path in shared:
        attempt("replace a folder", path, lambda path=path: path.rename(f"{path}-mine"))
    for path in sockets:
        attempt("connect to a socket", path.name, lambda path=path: socket.socket(socket.AF_UNIX).connect(str(path)))
        attempt("replace a socket", path.name, path.unlink)
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    for port, title in places:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
        for method in METHODS:
            call = channel.unary_unary(f"/ray.rpc.{method}")
            attempt("call a process of Ray's", f"{method} of {title}", lambda call=call: call(b"", timeout=5))
        channel.close()
        for page in ("/", "/metrics", "/api/jobs/", "/nodes?view=summary"):
            url = f"http://127.0.0.1:{port}{page}"
            attempt("read a page", f"{page} of {title}", lambda url=url: open_url(url, timeout=5).read())
    for pid in pids:
        attempt("read an environment", pid, Path(f"/proc/{pid}/environ").read_bytes)
        attempt("read a memory map", pid, Path(f"/proc/{pid}/maps").read_bytes)
        attempt("end a process", pid, lambda pid=pid: os.kill(pid, 15))
    for path in memory:
        attempt("read shared memory", path, path.read_bytes)
    attempt("read the token", token, token.read_bytes)
    attempt("replace the token", token, token.unlink)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            attempt("put a file into the run's folder", path, lambda path=path: (path / "x").touch())
        elif path.is_file():
            attempt("write to a file of the run", path, lambda path=path: path.open("r+b"))
            attempt("delete a file of the run", path, path.unlink)
    return attempt.ended


@pytest.fixture
def reachable():
    """A folder that every user can enter and list, as a home directory may be; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_another_user_cannot_read_connect_to_or_replace_anything_of_a_sweep(reachable, fault, capsys):
    import concurrent.futures
    import encodings.idna
    import http.client

    import grpc
    import grpc._channel

    assert all((concurrent.futures, encodings.idna, http.client))  # the other user could not import them
    sys.setswitchinterval(0.005)
    write_tokens(reachable)
    home = reachable / "home"
    home.mkdir(mode=0o755)
    command = sweep_command("mine", quiet=("--wandb", "off"), train__steps="40000", train__eval_every="200")
    environment = {"HOME": str(home), "RAY_TMPDIR": str(reachable)}
    older = set(SHARED_MEMORY.glob("*"))
    before = os.umask(0o022)
    process = start(command, reachable, **environment)
    os.umask(before)
    folder = reachable / "runs" / "mine"
    try:
        wait_until(lambda: count_rows(folder) >= 2 or process.poll() is not None, 300, "no 2 rows")
        family = descendants(process.pid)
        [private] = reachable.glob("lmsweep-*")
        everything = [private, *private.rglob("*")]
        sockets = [path for path in everything if stat.S_ISSOCK(path.lstat().st_mode)]
        assert {"raylet", "plasma_store"} <= {path.name for path in sockets}
        # Ray opens what it makes to everybody: only the folder around it is closed.
        assert any(stat.S_IMODE(path.stat().st_mode) & 0o002 for path in everything if path.is_dir())
        titles = processes()
        places = [(port, f"{short(titles[pid][2])}:{port}") for pid in family for _, port in listening({pid})]
        assert len(places) > 6
        token = home / ".ray" / "auth_token"
        shared = [private, folder.parent, folder, token.parent]
        memory = sorted(set(SHARED_MEMORY.glob("*")) - older)
        found = sockets, places, memory, sorted(family)
        ended = as_other_user(lambda: every_attempt(private, shared, *found, folder, token, grpc))
        assert process.poll() is None
        assert curves(folder)
    finally:
        process.terminate()
        out, error = process.communicate(timeout=120)
    assert process.returncode == 143, out + error
    assert not private.exists()

    attempts = [one for one in ended if not NO_SERVICE.search(one[2])]
    with capsys.disabled():
        print(f"\n{len(attempts)} attempts of {OTHER}, and {len(ended) - len(attempts)} calls of services not offered:")
        for kind, what, how in attempts:
            print(f"  {kind}: {what.replace(str(reachable), '')}: {how.replace(str(reachable), '')[:80]}")
    for kind, what, how in attempts:
        if kind == "read a page" and (how == METRICS or PUBLIC.search(what)):
            continue
        row = fault(f"another user: {kind}")
        row.injected()
        assert REFUSED.search(how), f"{kind}: {what}: {how}"
        row.survived()
    kinds = {kind for kind, _, _ in attempts}
    assert {
        "call a process of Ray's",
        "connect to a socket",
        "replace a socket",
        "read a page",
        "end a process",
    } < kinds
    called = " ".join(what for kind, what, _ in attempts if kind == "call a process of Ray's")
    assert all(method in called for method in METHODS)
    assert all(f"of {name}" in called for name in ("gcs_server", "raylet", "SlotWorker", "run.py", "DashboardAgent"))


def short(title):
    """What a process is called: `gcs_server`, `raylet`, `SlotWorker`."""
    if title.startswith("ray::engine"):
        return "SlotWorker"
    found = re.search(r"ray::(\w+)|/(gcs_server|raylet)\b|/(dashboard\.py)|sweeps/(run\.py)", title)
    return next(filter(None, found.groups())) if found else title[:20]
