"""Starting Ray on this machine, or joining a cluster that runs already."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmcore.cgroup import memory_limit
from lmcore.cores import cores
from lmcore.device import cpu_bfloat16
from lmcore.errors import InputError
from sweeps.cluster.auth import require_token
from sweeps.cluster.checkout import python_path, runtime_env
from sweeps.cluster.joining import dashboard_address, join
from sweeps.cluster.lean_start import connect_soon
from sweeps.cluster.local_ray import QUIET, local_ray, why_not_started
from sweeps.cluster.private_folder import RayStartError
from sweeps.cluster.token_check import warning_if_open

if TYPE_CHECKING:  # imports Ray, which reads the authentication mode then
    from sweeps.cluster.nodes import Node
    from sweeps.cluster.ray_cluster import Cluster

START_SECONDS = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180"}
"""How long Ray's servers may take to start, which Ray reads when it is imported; by default 30 and 60 s, which is too
short on a busy machine."""


@contextmanager
def connect(
    address: str | None,
    dashboard: str | None,
    say: Callable[[str], None] = print,
    remove_later: Callable[[Path], None] = lambda _: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator["Cluster"]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one on this machine; shut Ray down at the end.

    A cluster that is started here accepts only processes of this machine that have its token. Its dashboard is to
    listen on the host `dashboard`, once it is started (`sweeps.cluster.late_dashboard`). Its files are in a private
    folder, which is deleted at the end, or by `remove_later` (see `sweeps.cluster.reaper.reaped`) if this process is
    killed. A cluster that is joined gets this process's code; `say` gets a warning if it demands no token.
    `meanwhile` is called in a thread while Ray starts, which leaves the processor idle for half of the time.

    Raises:
        InputError: nothing answers at the address, or this process uses Ray already.
        RayStartError: Ray did not start on this machine.

    Example:
        with connect("head:6379", dashboard=None) as cluster:
            print(cluster.gpus, cluster.engines(spec.train))
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        rule = "a sweep starts or joins Ray itself, and this process has joined a cluster already"
        raise InputError(f"ray: {rule}; call ray.shutdown() first, or run the sweep in another process")
    os.environ["PYTHONPATH"] = python_path()
    # Worker processes of a CPU trial are single-threaded; the trainer sets torch's own number of threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, seconds in START_SECONDS.items():
        os.environ.setdefault(name, seconds)
    address = address or os.environ.get("RAY_ADDRESS")
    stack = ExitStack()
    if address:
        context = join(address, {**QUIET, "runtime_env": runtime_env()})
    else:
        require_token()
        connect_soon()
        context = stack.enter_context(local_ray(dashboard, remove_later, say, meanwhile))
    # Ray reads the authentication mode once, when it is imported.
    import ray

    stack.callback(ray.shutdown)
    with stack:
        from sweeps.cluster.ray_cluster import Cluster

        head, nodes = _contact(joins=bool(address))
        if address and (warning := warning_if_open(head)):
            say(warning)
        if not address:
            # Ray does not know of limits that are set outside of a container's outermost group.
            limit = memory_limit() or nodes[0].memory_bytes
            nodes = [replace(node, cores=cores(), memory_bytes=min(limit, node.memory_bytes)) for node in nodes]
        url = context.dashboard_url if address and dashboard else None
        yield Cluster(
            tuple(nodes),
            dashboard_url=dashboard_address(url, head) if url else None,
            local=not address,
            head=head,
            # The CPUs of other machines are unknown.
            cpu_bfloat16=not address and cpu_bfloat16(),
            mps=not address and sys.platform == "darwin",
        )


def _contact(joins: bool) -> tuple[str, list["Node"]]:
    """The address of the cluster's control service, and the nodes that are alive.

    Raises RayStartError if a Ray that was just started here does not answer.
    """
    import ray

    from sweeps.cluster.nodes import alive_nodes

    try:
        head, nodes = str(ray.get_runtime_context().gcs_address), alive_nodes()
        if not nodes:
            raise ConnectionError("its node has ended")
    except Exception as error:
        if joins:
            raise
        raise RayStartError(why_not_started(error)) from error
    return head, nodes
