"""Starts Ray on this machine with the processes that a sweep needs, and no others.

`ray.init` also starts a monitor that scales clusters up and down, a process that prints what workers print, and a
dashboard server, even if no dashboard is wanted. It waits for some of them, and so does `ray.shutdown`: 2 s at the
start and 1 s at the end. Ray has no options for this, so these functions replace methods of its `Node`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CONNECTING = {
    "RAY_raylet_client_connect_timeout_milliseconds": "100",
    "RAY_raylet_client_num_connect_attempts": "150",
}
"""How long Ray's node waits before it tries again to connect to its object store, which begins at the same time, and
how often it tries. By default it sleeps for 1 s after the first try."""
UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")


@contextmanager
def lean_start() -> Iterator[None]:
    """A block in which `ray.init` starts neither the cluster's monitor, nor the log monitor, nor the dashboard server.

    The dashboard can be started later: `sweeps.cluster.late_dashboard`.

    Example:
        with lean_start():
            ray.init(address="local", log_to_driver=False)
    """
    from ray._private.node import Node

    given = {name: getattr(Node, name) for name in UNUSED if hasattr(Node, name)}
    for name in given:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in given.items():
            setattr(Node, name, method)


def connect_soon() -> None:
    """Have a Ray that this process starts connect its parts soon. Ray reads it when it is imported."""
    for name, value in CONNECTING.items():
        os.environ.setdefault(name, value)


def _start_nothing(node: Any, *arguments: Any, **keywords: Any) -> None:
    """Takes the place of a method of Ray's node that starts a process."""
