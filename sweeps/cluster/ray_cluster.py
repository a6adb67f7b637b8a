"""The Ray cluster of a sweep: starting or joining it, sharing out its devices, and naming its processes."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcore.config import TrainConfig
from lmcore.device import Machine, cpu_bfloat16
from lmcore.errors import InputError
from sweeps.cluster.auth import require_token, use_token

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ("site-packages", "dist-packages")
"""Names of ROOT if lmsweep is installed from a wheel rather than used from a checkout."""

TRIAL_RESOURCES = {"cpu": 1.0}
"""A trial's proxy uses no CPU, but with less than one reserved the raylet starts and stops processes endlessly."""


@dataclass(frozen=True)
class Cluster:
    """What a sweep may use of a Ray cluster; see `connect`."""

    cpus: int  # logical CPUs, for engines and trials together
    gpus: int  # each can have one engine
    cores: int  # CPU cores that engines can keep busy
    memory_bytes: int  # memory that Ray has for its workers
    dashboard_url: str | None  # None if the dashboard is off
    local: bool  # whether this process started the cluster
    head: str = ""  # host:port of Ray's control service
    cpu_bfloat16: bool = False  # whether all of its CPUs are known to have bfloat16 instructions

    @property
    def machine(self) -> Machine:
        """The devices that each engine will find."""
        return Machine(self.gpus > 0, self.cpu_bfloat16)

    def engines(self, train: TrainConfig) -> int:
        """Number of engines: one per GPU, or one per `train.threads` cores. `train` must be resolved.

        Raises InputError if there is no room for an engine and a trial.
        """
        threads = int(train.threads)
        devices = self.gpus if train.device == "cuda" else self.cores // threads
        engines = min(devices, self.cpus // (threads + 1))  # at least one trial beside each engine
        if engines < 1:
            rule = f"an engine and a trial must fit on the cluster, but they need {threads + 1} CPUs"
            found = f"{self.cpus} CPUs with {self.cores} cores, and {self.gpus} GPUs"
            raise InputError(f"train.threads: {rule} and there are {found}; lower train.threads")
        return engines

    def room_for_trials(self, train: TrainConfig) -> int:
        """Number of trials that fit beside the engines."""
        return self.cpus - self.engines(train) * int(train.threads)

    def engine_options(self, train: TrainConfig) -> dict[str, Any]:
        """Options of an engine's Ray actor: the CPUs and GPU that it holds, and that Ray restarts it if it dies."""
        gpus = {"num_gpus": 1} if train.device == "cuda" else {}
        return {"num_cpus": int(train.threads), **gpus, "max_restarts": -1}


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
    if address:
        use_token()
    else:
        require_token()
    # Ray reads the authentication mode once, when it is imported.
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            # ray.init would keep trying for many minutes if nothing listens at the address.
            host, colon, port = address.removeprefix("ray://").rpartition(":")
            if colon and port.isdecimal():
                socket.create_connection((host, int(port)), timeout=5).close()
            context = ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            rule = f"must be a running Ray cluster, got {address} ({str(error).strip().splitlines()[0]})"
            remedy = "start one with `ray start --head`, or leave it out (and RAY_ADDRESS unset) to use this machine"
            raise InputError(f"--address: {rule}; {remedy}") from None
    else:
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
        cpus = int(resources.get("CPU", 0))
        yield Cluster(
            cpus=cpus,
            gpus=int(resources.get("GPU", 0)),
            cores=cpus if address else len(os.sched_getaffinity(0)),
            memory_bytes=int(resources.get("memory", 0)),
            dashboard_url=f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None,
            local=not address,
            head=ray.get_runtime_context().gcs_address,
            # The CPUs of other machines are unknown.
            cpu_bfloat16=not address and cpu_bfloat16(),
        )
    finally:
        ray.shutdown()


def python_path() -> str:
    """PYTHONPATH for child processes, so that they import the same lmcore and sweeps as this one.

    An installed lmsweep is found without it, and site-packages must not come before the standard library.
    """
    checkout = [] if ROOT.name in INSTALLED else [str(ROOT)]
    return os.pathsep.join([*checkout, *filter(None, [os.environ.get("PYTHONPATH")])])


def show_in_dashboard(title: str) -> None:
    """Set the title that Ray's dashboard and `ps` show for this process; an actor's own name cannot change."""
    from ray._raylet import setproctitle  # type: ignore[attr-defined]

    setproctitle(f"ray::{title}")
