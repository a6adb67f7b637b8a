"""No stranger reaches a sweep, nothing it reads is executed, its name stays inside runs/, no secret is written."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from sweeping import (
    ROOT,
    SETTINGS,
    count_rows,
    curves,
    descendants,
    processes,
    resume_command,
    run,
    start,
    sweep_command,
    wait_until,
)

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.cluster import auth
from sweeps.provenance.resume import resumed_spec
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_spec
from sweeps.spec.settings import mask_password, strip_password
from sweeps.spec.sweep_spec import dump_yaml

CANARIES = {"WANDB_API_KEY": "canary0" * 5 + "12345", "RAY_AUTH_TOKEN": "canary1" * 9 + "1"}
QUICK = ROOT / "configs" / "quick.yaml"
PASSWORD = "canary2-of-the-database"
ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)))
"""


def listening(pids):
    """Local address and port of every TCP socket on which one of these processes listens, from /proc (Linux)."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(entry))
            except OSError:  # closed meanwhile
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                host, port = fields[1].split(":")
                found.append((host, int(port, 16)))
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture
def short():
    """A temporary folder whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.ray
def test_a_sweep_listens_on_loopback_refuses_strangers_and_writes_no_secret(tiny, short, fault):
    home = tiny / "home"
    home.mkdir()
    url = f"sqlite:///file:{tiny}/studies.db?uri=true&password={PASSWORD}"  # SQLite ignores the last
    space = "space: {optim.lr: {low: 1e-3, high: 1e-2, log: true}}"
    (tiny / "sweep.yaml").write_text(f"search: {{storage: '{url}'}}\n{space}\n")
    canary = fault("canary keys in the environment and a storage URL")
    stranger = fault("stranger who has no token, or another")
    environment = {**CANARIES, "RAY_TMPDIR": str(short), "HOME": str(home)}
    flags = ("--wandb", "offline", "--dashboard-host", "127.0.0.1")
    settings = SETTINGS | {"train.steps": "400"}
    options = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    command = sweep_command("quiet")
    base = [*command[:4], "--config", "sweep.yaml", "--trials=6", "--search=random", "--scheduler=none", "--slots=2"]
    process = start([*base, *options, *flags], tiny, **environment)
    folder = tiny / "runs" / "quiet"
    titles = []
    over = threading.Event()

    def watch():
        while not over.wait(0.2):
            titles.extend(title for _, _, title in processes().values())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_until(lambda: count_rows(folder) >= 3 or process.poll() is not None, 240, "no 3 rows")
        family = descendants(process.pid)
        places = listening(family)
        assert len(places) >= 5
        assert {host for host, _ in places} <= LOOPBACK
        gcs = next(pid for pid in family if "gcs_server" in processes()[pid][2])
        stranger.injected(2)
        for token in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {}):
            own = token or {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": CANARIES["RAY_AUTH_TOKEN"]}
            # Only one of the control service's ports speaks this protocol.
            answers = [ask(port, own) for _, port in listening({gcs})]
            assert any(answer.returncode == 0 for answer in answers) == (not token)
            assert token == {} or any("Authentication" in answer.stderr for answer in answers)
        stranger.survived(2)
        # Ray's files are deleted at the end.
        assert list(short.glob("lmsweep-*/r/session_2*/logs/raylet.out"))
        assert [secret for secret in (*CANARIES.values(), PASSWORD) if holders(short, secret)] == []
    finally:
        out, error = process.communicate(timeout=200)
        over.set()
        watcher.join()
    assert process.returncode == 0, out + error
    for name, secret in {**CANARIES, "password": PASSWORD}.items():
        canary.injected()
        for place in (folder, short, home):
            assert holders(place, secret) == [], name
        assert not [title for title in titles if secret in title], name
        assert secret not in out + error, name
        canary.survived()
    assert resumed_spec(RunFolder(folder), [f"search.storage={url}"]).search.storage == url
    assert list(short.iterdir()) == []


def holders(folder, secret):
    """The files in which the text stands."""
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def ask(port, environment):
    return subprocess.run(
        [sys.executable, "-c", ASK, f"127.0.0.1:{port}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """An environment without a token or any setting of Ray's authentication. Returns the token's path."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", auth.LOOPBACK_ONLY):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what the test sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


@pytest.mark.smoke
def test_the_token_is_readable_by_its_owner_alone_and_one_that_all_can_read_is_closed(clean, monkeypatch):
    auth.require_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(clean.stat().st_mode) == 0o600
    token = clean.read_text()
    assert len(token) == 64
    clean.chmod(0o644)
    auth.require_token()
    assert stat.S_IMODE(clean.stat().st_mode) == 0o600
    assert clean.read_text() == token
    elsewhere = clean.with_name("another")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(elsewhere))
    auth.require_token()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600


@pytest.mark.smoke
def test_a_ray_that_is_started_here_demands_a_token_whatever_the_environment_says(clean, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    auth.require_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert clean.is_file()
    clean.write_text("")  # as one that was killed would have left it
    auth.require_token()
    assert len(clean.read_text()) == 64
    assert [path.name for path in clean.parent.iterdir()] == [clean.name]


@pytest.mark.smoke
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_a_dashboard_for_other_machines_is_refused_without_a_token(host, tiny, fault):
    opened = fault("dashboard for other machines without a token")
    opened.injected()
    refused = run(sweep_command("open", "--dashboard-host", host), tiny, check=2, RAY_AUTH_MODE="disabled")
    assert refused.stderr == (
        f"--dashboard-host: a dashboard that other machines can reach must demand a token (got {host} with "
        "RAY_AUTH_MODE=disabled); unset RAY_AUTH_MODE, or leave the host out\n"
    )
    assert not (tiny / "runs").exists()
    opened.survived()


@pytest.mark.smoke
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_dashboard_for_this_machine_needs_none(host, clean, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    auth.check_dashboard_host(host)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}]\n" for n in range(40))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("what", "text", "said"),
    [
        (
            "!!python/object as config",
            "name: !!python/object/apply:os.system ['touch fired']\n",
            "tags are not allowed",
        ),
        ("!!python/name as config", "name: !!python/name:os.system\n", "tags are not allowed"),
        ("alias bomb as config", BOMB, "aliases are not allowed"),
        ("config of 8 MiB", "notes: [" + "x, " * 3_000_000 + "x]\n", "a config may hold 1 MiB"),
        ("deep nesting as config", "notes: " + "[" * 100_000 + "\n", ""),
    ],
)
def test_a_config_that_executes_or_explodes_is_refused(what, text, said, tiny, fault):
    bad = fault(what)
    bad.injected()
    (tiny / "bad.yaml").write_text(text)
    refused = run([*sweep_command("bad"), "--config", "bad.yaml"], tiny, timeout=20, check=2)
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert len(refused.stderr) < 400
    assert not (tiny / "fired").exists()
    bad.survived()


@pytest.mark.smoke
def test_a_name_that_leads_outside_runs_is_refused(tiny, fault):
    names = fault("../ and the like as names")
    for name in ("../x", "../../x", "/tmp/x", "a/b", "..", ".", "", "a\\b", "x\n", "~", ".hidden"):
        names.injected()
        with pytest.raises(InputError, match="name"):
            load_spec(QUICK, name=name)
        names.survived()
    refused = run(sweep_command("../x"), tiny, check=2)
    assert refused.stderr.startswith("--name: ")
    assert refused.stderr.count("\n") == 1
    assert sorted(path.name for path in tiny.iterdir()) == ["tokens.npy"]


@pytest.mark.ray
def test_a_sweep_is_resumed_through_a_symbolic_link_to_its_folder(control, tmp_path):
    shutil.copytree(control.folder, tmp_path / "elsewhere", symlinks=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    run(resume_command("link", "--trials=7"), tmp_path, check=0)
    new = curves(tmp_path / "elsewhere")
    assert {trial: new.pop(trial) for trial in control.curves} == control.curves
    assert [rows[-1][col.STATUS] for rows in new.values()] == [col.COMPLETE]
    assert (tmp_path / "runs" / "link").is_symlink()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("url", "shown", "kept"),
    [
        (
            "postgresql+psycopg://ann:s3cret@db.example/lm",
            "postgresql+psycopg://ann:***@db.example/lm",
            "postgresql+psycopg://ann@db.example/lm",
        ),
        (
            "postgresql://db.example/lm?user=ann&password=s3cret",
            "postgresql://db.example/lm?password=***&user=ann",
            "postgresql://db.example/lm?user=ann",
        ),
        ("sqlite:////data/study.db", "sqlite:////data/study.db", "sqlite:////data/study.db"),
    ],
)
def test_a_password_in_the_storages_url_is_neither_shown_nor_kept_and_given_again_on_resume(url, shown, kept, tmp_path):
    assert mask_password(url) == shown
    assert strip_password(url) == kept
    spec = load_spec(QUICK, [f"search.storage={kept}"]).absolute()
    folder = RunFolder(tmp_path)
    folder.sweep_yaml.write_text(dump_yaml(spec))
    with pytest.raises(InputError, match=r"--storage: .*sweep.yaml names a database"):
        resumed_spec(folder, [])
    assert resumed_spec(folder, [], storage=kept).search.storage == kept
    assert resumed_spec(folder, [], storage=url).search.storage == url
    assert resumed_spec(folder, [f"search.storage={url}"]).search.storage == url
    with pytest.raises(InputError, match=r"search\.storage: must stay"):
        resumed_spec(folder, [f"search.storage={url.replace('lm', 'other').replace('study', 'other')}"])
