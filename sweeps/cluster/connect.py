"""Starting Ray on this machine, or joining a cluster that runs already."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmcore.device import cpu_bfloat16
from sweeps.cluster.auth import require_token
from sweeps.cluster.checkout import python_path
from sweeps.cluster.joining import dashboard_address, join
from sweeps.cluster.ray_cluster import Cluster


@contextmanager
def connect(address: str | None, dashboard: str | None) -> Iterator[Cluster]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one on this machine; shut Ray down at the end.

    A cluster that is started here accepts only processes of this machine that have its token. Its dashboard listens on
    the host `dashboard`; None means no dashboard. Raises InputError if nothing answers at the address.

    Example:
        with connect("head:6379", dashboard=None) as cluster:
            print(cluster.gpus, cluster.engines(spec.train))
    """
    os.environ["PYTHONPATH"] = python_path()
    # Worker processes of a CPU trial are single-threaded; the trainer sets torch's own number of threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        context = join(address, quiet)
        import ray
    else:
        require_token()
        # Ray reads the authentication mode once, when it is imported.
        import ray

        # With address="local" Ray never joins a cluster that somebody else started on this machine.
        context = ray.init(
            address="local",
            include_dashboard=dashboard is not None,
            dashboard_host=dashboard or "127.0.0.1",
            num_cpus=256,  # as many as it is to claim: enough for all trials that anybody would run at a time
            **quiet,
        )
    try:
        # A cluster that is shared with others counts as far as it is free now, our own as a whole.
        counts = ray.available_resources if address else ray.cluster_resources
        resources: dict[str, float] = counts()  # type: ignore[no-untyped-call]
        head: str = ray.get_runtime_context().gcs_address
        url = dashboard and context.dashboard_url
        cpus = int(resources.get("CPU", 0))
        yield Cluster(
            cpus=cpus,
            gpus=int(resources.get("GPU", 0)),
            cores=cpus if address else len(os.sched_getaffinity(0)),
            memory_bytes=int(resources.get("memory", 0)),
            dashboard_url=dashboard_address(url, head) if url else None,
            local=not address,
            head=head,
            # The CPUs of other machines are unknown.
            cpu_bfloat16=not address and cpu_bfloat16(),
        )
    finally:
        ray.shutdown()
