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
METHODS = [  # one of each service that Ray's processes offer
    *("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull"),
    *("CoreWorkerService/GetCoreWorkerStats", "ReporterService/GetTraceback"),
]
REFUSED = re.compile("PermissionError|UNAUTHENTICATED|HTTP 401|HTTP 403")
NO_SERVICE = re.compile("UNIMPLEMENTED|UNAVAILABLE|CANCELLED|INTERNAL|RemoteDisconnected|BadStatusLine|ConnectionReset")
PUBLIC = re.compile("(metrics page|start page) of")
"""What Ray answers without a token: numbers for Prometheus, and the dashboard's own static page."""

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
    """Tries things and records how each ended: pairs of what was tried and the error, or `succeeded`."""

    def __init__(self):
        self.ended = []

    def __call__(self, what, action):
        try:
            action()
            self.ended.append((what, "succeeded"))
        except urllib.error.HTTPError as error:
            self.ended.append((what, f"HTTP {error.code}"))
        except Exception as error:
            code = getattr(error, "code", None)
            self.ended.append((what, f"{type(error).__name__}: {code().name if callable(code) else error}"))


def every_attempt(paths, sockets, places, pids, folder, token, grpc):
    """All that the other user tries; `places` are pairs of a port and the title of the process that listens."""
    attempt = Attempts()
    private = paths[0]
    attempt(f"list the private folder {private}", lambda: os.listdir(private))
    for path in paths:
        attempt(f"rename {path}", lambda path=path: path.rename(f"{path}-mine"))
        attempt(f"put a file beside {path.name}", lambda path=path: Path(f"{path}-mine").touch())
    for path in sockets:
        attempt(
            f"connect to the socket {path.name}", lambda path=path: socket.socket(socket.AF_UNIX).connect(str(path))
        )
        attempt(f"replace the socket {path.name}", path.unlink)
    open_http = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    for port, title in places:
        for method in METHODS:
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
            call = channel.unary_unary(f"/ray.rpc.{method}")
            attempt(f"call {method} of {title}", lambda call=call: call(b"", timeout=5))
            channel.close()
        for what, path in (("metrics", "/metrics"), ("start", "/"), ("jobs", "/api/jobs/"), ("nodes", "/nodes")):
            url = f"http://127.0.0.1:{port}{path}"
            attempt(f"read the {what} page of {title}", lambda url=url: open_http(url, timeout=5).read())
    for pid in pids:
        attempt(f"read the environment of process {pid}", Path(f"/proc/{pid}/environ").read_bytes)
        attempt(f"read the memory of process {pid}", Path(f"/proc/{pid}/maps").read_bytes)
        attempt(f"end process {pid}", lambda pid=pid: os.kill(pid, 15))
    for path in Path("/dev/shm").glob("*"):
        attempt(f"read shared memory {path.name}", path.read_bytes)
    attempt("read the token", token.read_bytes)
    attempt("replace the token", token.unlink)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            attempt(f"put a file into the run's {path.relative_to(folder)}", lambda path=path: (path / "x").touch())
        elif path.is_file():
            attempt(f"write to the run's {path.relative_to(folder)}", lambda path=path: path.open("r+b"))
            attempt(f"delete the run's {path.relative_to(folder)}", path.unlink)
    return attempt.ended


@pytest.fixture
def reachable():
    """A folder that every user can enter and list, as a home directory may be; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="reachable-"))
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
    before = os.umask(0o022)
    process = start(command, reachable, **environment)
    os.umask(before)
    folder = reachable / "runs" / "mine"
    try:
        wait_until(lambda: count_rows(folder) >= 2 or process.poll() is not None, 240, "no 2 rows")
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
        paths = [private, reachable / "runs", folder, token.parent]
        ended = as_other_user(lambda: every_attempt(paths, sockets, places, sorted(family), folder, token, grpc))
        assert process.poll() is None
        assert curves(folder)
    finally:
        process.terminate()
        out, error = process.communicate(timeout=120)
    assert process.returncode == 143, out + error
    assert not private.exists()

    attempts = [(what, error) for what, error in ended if not NO_SERVICE.search(error)]
    with capsys.disabled():
        print(f"\n{len(attempts)} attempts of another user, and {len(ended) - len(attempts)} at services not offered:")
        for what, how in attempts:
            print(f"  {what.replace(str(reachable), '')}: {how.replace(str(reachable), '')[:90]}")
    for kind in ("list", "rename", "put", "connect", "replace", "call", "read the j", "read the e", "end", "write"):
        assert any(what.startswith(kind) for what, _ in attempts), kind
    public = [(what, how) for what, how in attempts if PUBLIC.search(what) and how == "succeeded"]
    assert {what.split(":")[0] for what, _ in public} <= {
        "read the metrics page of DashboardAgent",
        "read the start page of DashboardAgent",
        "read the start page of dashboard.py",
    }
    for what, how in attempts:
        if (what, how) not in public:
            row = fault(f"another user: {kind_of(what)}")
            row.injected()
            assert REFUSED.search(how), f"{what}: {how}"
            row.survived()


def short(title):
    """What a process is called: `gcs_server`, `raylet`, `SlotWorker`."""
    found = re.search(r"ray::(\w+)|/(gcs_server|raylet)\b|/(dashboard\.py)|sweeps/(run\.py)", title)
    return next(filter(None, found.groups())) if found else title[:20]


def kind_of(what):
    """An attempt without the names and numbers that differ between sweeps."""
    what = re.sub(r"process \d+|:\d+|engine \d+", "process", what)
    return re.sub(r"/\S*|(the run's|socket|beside|service of|of) \S+.*", lambda m: (m[1] or "a path") + " ...", what)
