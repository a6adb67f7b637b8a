"""Joining a Ray cluster that runs already: what would fail there is refused in one line, within seconds.

`ray.init` alone retries for 20 to 60 seconds, prints a line for each try, and ends without saying whether the address,
the token or the machine is wrong.
"""

import os
import re
import shlex
import socket
import time
from typing import Any

from lmcore.errors import InputError
from sweeps.cluster.auth import find_token, set_auth_mode
from sweeps.cluster.token_check import admits

START_ONE = "start one with `ray start --head`, or leave --address out (and RAY_ADDRESS unset) to use this machine"
ANSWER_S = 5.0
"""How long a cluster may take to answer."""
FIRST_NODE_S = 30.0
"""How long a cluster that is just being started may never have had a node: its control service is there first."""


def check_address(address: str | None) -> None:
    """Raise InputError unless `address` (or RAY_ADDRESS) is HOST:PORT or `auto`, or there is none.

    >>> check_address("head:6379")
    >>> check_address("ray://head:10001")
    Traceback (most recent call last):
    lmcore.errors.InputError: --address: a sweep cannot run over Ray Client (got ray://head:10001); ...
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address or address == "auto":
        return
    if address.startswith("ray://"):
        remedy = "submit the sweep with `ray job submit`, or run it on a node of the cluster with --address HOST:6379"
        raise InputError(f"--address: a sweep cannot run over Ray Client (got {address}); {remedy}")
    if address == "local":
        raise InputError(
            "--address: must be the HOST:PORT of a cluster (got local); leave it out (and RAY_ADDRESS unset) to use "
            "this machine"
        )
    host, colon, port = address.rpartition(":")
    # An IPv6 address stands in brackets.
    if not (colon and re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) and port.isdecimal() and int(port) < 2**16):
        remedy = "give the address that `ray start --head` printed, with port 6379 unless it was changed"
        raise InputError(f"--address: must be HOST:PORT or auto (got {address}); {remedy}")


def join(address: str, options: dict[str, Any]) -> Any:
    """Join the cluster at `address`, with `options` of `ray.init`; returns what `ray.init` returns.

    Sets RAY_AUTH_MODE to what the cluster demands.

    Raises:
        InputError: there is no cluster, it refuses this machine's token, this machine is not one of its nodes, or it
            runs another version of Ray or Python.
    """
    check_address(address)
    if address != "auto":
        _authenticate(address)
    # Ray reads the authentication mode when it is imported.
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    try:
        if address == "auto":
            address = str(canonicalize_bootstrap_address(address))
            _authenticate(address)
        _check_node(str(canonicalize_bootstrap_address(address)))
        return ray.init(address=address, **options)
    except InputError:
        raise
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and errors of its own
        ray.shutdown()
        raise InputError(_one_line(address, error)) from None


def _one_line(address: str, error: Exception) -> str:
    text = str(error).strip()
    if text.startswith("Version mismatch"):
        versions = re.findall(r"(Ray|Python): (\S+)", text)
        theirs, ours = ([f"{name} {version}" for name, version in part] for part in (versions[:2], versions[2:]))
        rule = f"the cluster and this machine must run the same versions (got {', '.join(theirs)} on the cluster at "
        return f"--address: {rule}{address} and {', '.join(ours)} here); install the same on every node"
    reason = text.splitlines()[0] if text else type(error).__name__
    return f"--address: must be a running Ray cluster (got {address}: {reason}); {START_ONE}"


def _authenticate(address: str) -> None:
    """Set the authentication mode that the cluster demands. Raises InputError if it does not let this process in."""
    _reach(address)
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode not in ("", "disabled", "token") or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # the user has set up more than a token: Ray decides
    if _lets_in(address, None):
        if mode == "token":
            rule = f"the cluster at {address} must demand a token (got one that anybody can run code on)"
            remedy = "start it again with RAY_AUTH_MODE=token, or unset RAY_AUTH_MODE here to join it as it is"
            raise InputError(f"--address: {rule}; {remedy}")
        # Its workers present no token, so this process must not demand one of them.
        set_auth_mode("disabled")
        return
    demand = f"--address: the cluster at {address} demands a token"
    if mode == "disabled":
        raise InputError(f"{demand} (got RAY_AUTH_MODE=disabled); unset RAY_AUTH_MODE")
    token, source = find_token()
    copy = "copy the file ~/.ray/auth_token of its head node to the same place here, or set RAY_AUTH_TOKEN"
    if token is None:
        raise InputError(f"{demand} (got none: there is no {source}); {copy}")
    if not _lets_in(address, token):
        raise InputError(f"{demand}, and it is not this machine's (got the one of {source}); {copy}")
    set_auth_mode("token")


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise InputError(f"--address: must be a running Ray cluster (got {address}: {reason}); {START_ONE}") from None


def _lets_in(address: str, token: str | None) -> bool:
    """Whether the control service of a cluster answers a call with this token, or without any."""
    try:
        return admits(address, token)
    except ConnectionError:
        rule = f"must be the port of a cluster's control service (got {address}, where something else answers)"
        raise InputError(f"--address: {rule}; it is 6379 unless `ray start --head` was given another") from None


def _check_node(address: str) -> None:
    """Raise InputError if no node of the cluster runs on this machine: a driver needs one beside it."""
    from ray._private.services import find_node_ids
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    deadline = time.monotonic() + FIRST_NODE_S
    while not (nodes := GcsClient(address=address).get_all_node_info(timeout=ANSWER_S)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    alive = {node.hex() for node, info in nodes.items() if info.state == info.ALIVE}
    if alive.isdisjoint(find_node_ids()):  # type: ignore[no-untyped-call]
        rule = f"this machine must be a node of the cluster at {address} (got {len(alive)} others)"
        remedy = f"run `ray start --address={shlex.quote(address)}` here, or submit the sweep with `ray job submit`"
        raise InputError(f"--address: {rule}; {remedy}")


def dashboard_address(url: str, head: str) -> str:
    """How to open the dashboard of a joined cluster from here.

    Args:
        url: HOST:PORT as the head node knows it.
        head: HOST:PORT of Ray's control service.

    >>> dashboard_address("10.0.0.7:8265", "10.0.0.7:6379")
    'http://10.0.0.7:8265'
    >>> dashboard_address("127.0.0.1:8265", "10.0.0.7:6379")
    'http://127.0.0.1:8265 after `ssh -N -L 8265:127.0.0.1:8265 10.0.0.7`'
    """
    host, _, port = url.rpartition(":")
    head_host = head.rpartition(":")[0]
    if host not in ("127.0.0.1", "localhost", "[::1]", "::1") or _is_here(head_host):
        return f"http://{url}"
    return f"http://127.0.0.1:{port} after `{shlex.join(['ssh', '-N', '-L', f'{port}:{url}', head_host])}`"


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
