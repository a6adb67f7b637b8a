"""Studies in a shared database have one owner and one writer, and a server that restarts costs nothing but time."""

import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from lmcore.errors import InputError
from sweeps.rundir.disk_full import UnwritableError
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study import study_storage
from sweeps.study.claims import check_claims, claim_studies, release_claims
from sweeps.study.storage import open_storage
from sweeps.study.study_storage import ClaimLostError
from sweeps.sweep import open_studies
from tests.databases import PASSWORD, start_server

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"optim.lr": FloatDistribution(1e-4, 1e-1, log=True)}


@pytest.fixture(scope="module")
def servers():
    """Servers by name, started when first asked for."""
    started = {}
    yield lambda name: started.get(name) or started.setdefault(name, start_server(name))
    for server in started.values():
        server.close()


@pytest.fixture(params=["SQLite", "PostgreSQL", "MariaDB"])
def url(request, servers, tmp_path):
    """The address of a database that sweeps share, with its password."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path}/shared.db"
    return servers(request.param).with_password()


@pytest.fixture(params=["PostgreSQL", "MariaDB"])
def server(request, servers):
    """A server that the test may stop; it runs again afterwards."""
    return servers(request.param)


@pytest.fixture
def name():
    """A sweep's name that no other test has used in the same database."""
    return f"n{secrets.token_hex(4)}"


def new_folder(path):
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    return folder


def spec(name, url, sizes=("xs", "s")):
    search = {"method": "random", "trials": 4, "scheduler": "none", "storage": url}
    listed = [{"name": size} for size in sizes]
    space = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    return SweepSpec.model_validate({"name": name, "search": search, "sizes": listed, "space": space})


def names_in(url, name):
    return sorted(study for study in optuna.get_all_study_names(url) if study.startswith(f"{name}/"))


def test_of_two_sweeps_of_one_name_that_start_together_one_gets_all_studies(url, name, tmp_path):
    for number, other_sizes in enumerate([("xs", "s"), ("m", "xs"), ("s", "l"), ("l", "xs", "s")]):
        both = threading.Barrier(2)

        def begin(place, sizes, number=number, both=both):
            folder = new_folder(tmp_path / place / str(number))
            both.wait()
            try:
                return open_studies(spec(f"{name}-{number}", url, sizes), folder, {}, resume=False)
            except InputError as error:
                return str(error)

        with ThreadPoolExecutor(2) as threads:
            ended = [threads.submit(begin, *args) for args in (("a", ("xs", "s")), ("b", other_sizes))]
            ended = [future.result() for future in ended]
        (refused,) = (end for end in ended if isinstance(end, str))
        (storage,) = (end for end in ended if not isinstance(end, str))
        sizes = ("xs", "s") if storage is ended[0] else other_sizes
        assert names_in(url, f"{name}-{number}") == sorted(f"{name}-{number}/{size}" for size in sizes)
        assert "every sweep needs studies of its own" in refused
        assert "\n" not in refused
        assert PASSWORD not in refused


def test_a_driver_that_was_killed_between_two_studies_goes_on_and_another_is_refused(url, name, tmp_path):
    folder = new_folder(tmp_path / "a")
    program = f"""
import os, signal
from pathlib import Path
from sweeps.rundir.folder import RunFolder
from sweeps.study.claims import claim_studies
from sweeps.study.storage import open_storage
storage = open_storage({url!r}, RunFolder(Path({str(folder.path)!r})))
claim_studies(storage, ["{name}/xs"], resume=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert names_in(url, name) == [f"{name}/xs"]
    with pytest.raises(InputError, match=f"{name}/xs already, for {folder.path} on {socket.gethostname()}"):
        open_studies(spec(name, url), new_folder(tmp_path / "b"), {}, resume=False)
    open_studies(spec(name, url), folder, {}, resume=False)
    assert names_in(url, name) == [f"{name}/s", f"{name}/xs"]


def test_a_copy_is_refused_beside_its_original_and_a_moved_folder_is_not(url, name, tmp_path):
    original, copy = tmp_path / "a", tmp_path / "b"
    open_studies(spec(name, url), new_folder(original), {}, resume=False)
    shutil.copytree(original, copy)
    with pytest.raises(InputError, match=f"this is a copy of {original}, which has them; resume that one") as refusal:
        open_studies(spec(name, url), RunFolder(copy), {}, resume=True)
    assert PASSWORD not in str(refusal.value)
    open_studies(spec(name, url), RunFolder(original), {}, resume=True)
    shutil.rmtree(copy)
    original.rename(copy)
    open_studies(spec(name, url), RunFolder(copy), {}, resume=True)
    (copy / ".owner").unlink()  # a folder made anew, or a copy of what is not hidden
    with pytest.raises(InputError, match=f"belong to another sweep, for {copy} on"):
        open_studies(spec(name, url), RunFolder(copy), {}, resume=True)


def test_a_driver_whose_studies_another_one_has_taken_over_writes_nothing_more(url, name, tmp_path):
    folder = new_folder(tmp_path / "a")
    first = open_studies(spec(name, url), folder, {}, resume=False)
    study = optuna.load_study(study_name=f"{name}/xs", storage=first)
    running, _ = study.ask(SPACE), study.enqueue_trial({})
    open_studies(spec(name, url), folder, {}, resume=True)  # as if on a machine that does not see the first one's lock
    for write in (lambda: study.tell(running, 1.0), lambda: study.ask(SPACE), lambda: study.enqueue_trial({})):
        with pytest.raises(ClaimLostError) as stop:
            write()
        assert not stop.value.resumable
        assert f"a driver that was started in {folder.path} on" in stop.value.line(folder.path)
    states = [trial.state for trial in optuna.load_study(study_name=f"{name}/xs", storage=url).trials]
    assert states == [TrialState.RUNNING, TrialState.WAITING]


def test_studies_of_an_older_version_are_resumed_and_refused_to_a_new_sweep(url, name, tmp_path):
    for size in ("xs", "s"):
        optuna.create_study(study_name=f"{name}/{size}", storage=url)
    folder = new_folder(tmp_path / "a")
    with pytest.raises(InputError, match=r"has .* already; choose another --name"):
        open_studies(spec(name, url), folder, {}, resume=False)
    open_studies(spec(name, url), folder, {}, resume=True)
    with pytest.raises(InputError, match="belong to another sweep"):
        open_studies(spec(name, url), new_folder(tmp_path / "b"), {}, resume=True)


def test_a_sweep_that_did_not_begin_leaves_no_studies(url, name, tmp_path):
    storage = open_studies(spec(name, url), new_folder(tmp_path / "a"), {}, resume=False)
    assert len(names_in(url, name)) == 2
    release_claims(storage)
    assert names_in(url, name) == []


WRITE = re.compile(rb"INSERT INTO|UPDATE \w+ SET")


class Proxy:
    """Stands between a client and a server; `swallow` makes it lose the answer to the next commit of a write."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.swallow = 0
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            dropped = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, dropped, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, dropped, False), daemon=True).start()

    def _forward(self, source, target, dropped, from_client):
        wrote = False
        try:
            while data := source.recv(65536):
                wrote |= from_client and WRITE.search(data) is not None
                if from_client and b"COMMIT" in data and wrote and self.swallow:
                    self.swallow -= 1
                    dropped.set()
                if not from_client and dropped.is_set():
                    self.swallowed += 1
                    break  # the server has committed, and nobody hears of it
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.close()


def test_what_was_committed_and_not_acknowledged_is_done_once(server, name, tmp_path, monkeypatch):
    monkeypatch.setattr(study_storage, "PAUSE_S", 0.05)
    proxy = Proxy(server.port)
    try:
        url = server.with_password().replace(str(server.port), str(proxy.port))
        storage = open_storage(url, new_folder(tmp_path / "a"))

        def unheard(operation):
            proxy.swallow, before = 1, proxy.swallowed
            result = operation()
            assert proxy.swallowed == before + 1
            return result

        unheard(lambda: claim_studies(storage, [f"{name}/main"], resume=False))
        study = optuna.load_study(study_name=f"{name}/main", storage=storage)
        unheard(lambda: study.set_user_attr("result", {"leader": None}))
        asked = unheard(lambda: study.ask())
        unheard(lambda: study.enqueue_trial({"optim.lr": 0.01}, user_attrs={"of": "x"}))
        popped = unheard(lambda: study.ask())
        lr = unheard(lambda: asked.suggest_float("optim.lr", 1e-4, 1e-1, log=True))
        unheard(lambda: popped.suggest_float("optim.lr", 1e-4, 1e-1, log=True))
        unheard(lambda: asked.set_user_attr("status", "complete"))
        unheard(lambda: asked.report(2.0, 10))
        unheard(lambda: study.tell(asked, 1.5))
        unheard(lambda: study.tell(popped, state=TrialState.FAIL))
    finally:
        proxy.close()
    one, two = optuna.load_study(study_name=f"{name}/main", storage=server.with_password()).trials
    assert (one.number, one.state, one.value) == (0, TrialState.COMPLETE, 1.5)
    assert (one.params, one.user_attrs, one.intermediate_values) == (
        {"optim.lr": lr},
        {"status": "complete"},
        {10: 2.0},
    )
    assert (two.number, two.state, two.params) == (1, TrialState.FAIL, {"optim.lr": 0.01})
    assert two.user_attrs == {"of": "x"}


def test_a_server_that_restarts_three_times_is_waited_for_and_loses_no_trial(server, name, tmp_path, monkeypatch):
    monkeypatch.setattr(study_storage, "PAUSE_S", 0.2)
    said = []
    storage = open_storage(server.with_password(), new_folder(tmp_path / "a"), said.append)
    claim_studies(storage, [f"{name}/main"], resume=False)
    study = optuna.load_study(study_name=f"{name}/main", storage=storage)
    over = threading.Event()
    told = {}

    def wait_for_more(those, than):
        end = time.monotonic() + 60
        while len(those) <= than and time.monotonic() < end:
            time.sleep(0.05)

    def restart():
        for number in range(3):
            wait_for_more(told, than=len(told))  # without a trial in between, two restarts look like one
            server.stop()
            wait_for_more(said, than=number)
            server.start()
        over.set()

    restarting = threading.Thread(target=restart)
    restarting.start()
    while not over.is_set() or len(told) < 20:
        trial = study.ask(SPACE)
        for step in (1, 2):
            trial.report(1.0 / step, step)
        told[trial.number] = trial.params
        study.tell(trial, 0.5)
    restarting.join()
    trials = optuna.load_study(study_name=f"{name}/main", storage=server.with_password()).trials
    assert [trial.number for trial in trials] == list(range(len(told)))
    assert {trial.number: trial.params for trial in trials} == told
    assert all((t.state, t.intermediate_values) == (TrialState.COMPLETE, {1: 1.0, 2: 0.5}) for t in trials)
    assert len(said) == 3, said
    assert all(line.startswith("waiting for the database (") and PASSWORD not in line for line in said)


def test_a_server_that_stays_away_ends_the_sweep_in_one_line(server, name, tmp_path):
    storage = open_storage(server.with_password(), new_folder(tmp_path / "a"), lambda line: None)
    claim_studies(storage, [f"{name}/main"], resume=False)
    study = optuna.load_study(study_name=f"{name}/main", storage=storage)
    storage.patience_s = 2.0
    server.stop()
    try:
        with pytest.raises(UnwritableError) as stop:
            study.ask(SPACE)
    finally:
        server.start()
    line = stop.value.line(tmp_path)
    assert "the database has not answered for 2 s: " in line
    assert "\n" not in line
    assert PASSWORD not in line
    assert stop.value.resumable


def test_a_wrong_password_is_one_line_at_once_that_does_not_show_it(server, tmp_path):
    folder, began = new_folder(tmp_path / "a"), time.monotonic()
    wrong = "wr{on}g"
    for url in (server.with_password(wrong), f"{server.url}?password={wrong}"):
        with pytest.raises(InputError) as refusal:
            open_storage(url, folder)
        assert "search.storage: must be a database that Optuna can open" in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert "wr{" not in str(refusal.value)
    assert time.monotonic() - began < 10


def test_a_password_outside_the_address_is_found(servers, tmp_path, monkeypatch):
    folder = new_folder(tmp_path / "a")
    postgresql, secret_file = servers("PostgreSQL"), tmp_path / "pgpass"
    with pytest.raises(InputError):
        open_storage(postgresql.url, folder)
    secret_file.write_text(f"127.0.0.1:{postgresql.port}:*:*:{PASSWORD}\n")
    secret_file.chmod(0o600)
    for name, value in (("PGPASSWORD", PASSWORD), ("PGPASSFILE", str(secret_file))):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            open_storage(postgresql.url, folder)
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\npassword={PASSWORD}\n")
    open_storage(f"{servers('MariaDB').url}?read_default_file={options}", folder)


def test_a_driver_that_is_not_installed_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg.*; pip install 'lmsweep\[postgresql\]'$"):
        open_storage("postgresql+psycopg://ann@host/db", new_folder(tmp_path / "a"))


def test_studies_in_the_runs_folder_are_claimed_by_its_lock_alone(tmp_path):
    folder = new_folder(tmp_path / "a")
    storage = open_storage(None, folder)
    claim_studies(storage, ["xs"], resume=False)
    assert storage.get_all_studies() == []
    optuna.create_study(study_name="xs", storage=storage)
    check_claims(storage, ["xs"], resume=True)
    with pytest.raises(InputError, match="has xs already"):
        check_claims(storage, ["xs"], resume=False)
    assert not (folder.path / ".owner").exists()
