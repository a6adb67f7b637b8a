"""`lmsweep cluster-token` makes one token that only its owner reads, and finds out what a running cluster demands."""

import shlex
import socket
import stat
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from sweeps.cluster.auth import find_token
from sweeps.cluster.token_check import ASK, admits, warning_if_open
from sweeps.cluster_token import main

TOKEN = "f" * 64


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_token_is_made_once_for_its_owner_alone_and_each_node_gets_a_command(home, capsys):
    assert main(["node2", "n 3"]) == 0
    out = capsys.readouterr().out
    path = home / ".ray" / "auth_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert out.startswith(f"{path} now holds a new token, and only you can read it.\n")
    copy = f"'umask 077; mkdir -p ~/.ray; cat > ~/.ray/auth_token' < {shlex.quote(str(path))}\n"
    assert f"  ssh node2 {copy}  ssh 'n 3' {copy}" in out
    assert f"  RAY_AUTH_MODE=token ray start --address={socket.gethostname()}:6379\n" in out
    assert token not in out
    path.chmod(0o644)
    assert main([]) == 0
    assert capsys.readouterr().out.startswith(f"{path} holds the token, and")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (token, 0o600)


@pytest.fixture
def serving():
    """Starts a server that answers as a control service with a token does, or without one; returns its address."""
    servers = []

    def start(token):
        def answer(_, context):
            given = dict(context.invocation_metadata()).get("authorization")
            if token is not None and given != f"Bearer {token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
            return b""

        service, method = ASK.strip("/").split("/")
        server = grpc.server(ThreadPoolExecutor(1))
        handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def test_a_cluster_that_demands_our_token_is_told_from_one_that_demands_another_or_none(home, serving, capsys):
    ours, others, open_one = serving(TOKEN), serving("0" * 64), serving(None)
    assert main(["--check", ours]) == 1
    path = home / ".ray" / "auth_token"
    none = f"was shown none: there is none in {path}; copy the head's ~/.ray/auth_token here\n"
    assert capsys.readouterr() == (f"{ours} demands a token\n", f"{ours} {none}")
    path.parent.mkdir()
    path.write_text(TOKEN + "\n")
    assert main(["--check", ours]) == 0
    assert capsys.readouterr() == (f"{ours} demands a token\n{ours} accepts the token in {path}\n", "")
    assert main(["--check", others]) == 1
    assert capsys.readouterr().err.startswith(f"{others} refuses the token in {path}; copy")
    assert main(["--check", open_one]) == 1
    assert capsys.readouterr().err.startswith(f"{open_one} is open: whoever reaches it can run code on it; stop it")
    assert admits(open_one, TOKEN)


def test_whoever_joins_an_open_cluster_is_warned_and_nobody_else(serving):
    address = serving(None)
    assert warning_if_open(address) == (
        f"Warning: {address} demands no token, so whoever reaches it can run code on it; start clusters with "
        "RAY_AUTH_MODE=token (see lmsweep cluster-token)"
    )
    assert warning_if_open(serving(TOKEN)) == ""
    assert warning_if_open("127.0.0.1:1") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--check", "node1"],
            "--check: must be HOST:PORT of a cluster's head (got node1); write for example node1:6379",
        ),
        (["--check", "ray://a:1", "b"], "--check: must come alone (got b as well); leave one out"),
        (
            ["--check", "127.0.0.1:1"],
            "--check: must be the head of a running Ray cluster, got 127.0.0.1:1 (Connection refused)",
        ),
    ],
)
def test_a_wrong_address_is_one_line_with_exit_code_2(home, words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


@pytest.mark.ray
def test_a_real_cluster_that_demands_a_token_answers_ours_and_nobody_elses(cluster, tmp_path):
    token, _ = find_token()
    assert admits(cluster.head, token)
    assert not admits(cluster.head, None)
    assert not admits(cluster.head, "0" * 64)
    assert warning_if_open(cluster.head) == ""
