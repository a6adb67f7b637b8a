"""Ray: starting it or joining it, what devices it has, and letting go of it. Nothing else asks Ray for devices.

What a worker process is called: Ray's dashboard and `ps` show process titles.
"""

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
from sweeps.cluster.auth import secure, use_token

ROOT = Path(__file__).resolve().parents[2]


# Stand-ins of trials each ask for one logical CPU, which they do not use: fractions and zero make the raylet start and
# stop workers without end. A Ray that we start has logical CPUs for as many trials as anybody would run at a time.
LOGICAL_CPUS = 256


@dataclass(frozen=True)
class Cluster:
    """What a sweep may use."""

    cpus: int
    """Logical, for engines and trials together."""
    gpus: int
    cores: int
    """That engines can keep busy."""
    memory_bytes: int
    dashboard_url: str | None
    """None where the dashboard is off."""
    local: bool
    """Whether we started it."""
    head: str = ""
    """host:port of its control service."""
    cpu_bfloat16: bool = False
    """Whether all its CPUs are known to multiply bfloat16."""

    @property
    def machine(self) -> Machine:
        """What any of its engines will find."""
        return Machine(self.gpus > 0, self.cpu_bfloat16)

    def engines(self, train: TrainConfig) -> int:
        """How many engines it has devices for, `train` being resolved: one per GPU, or per core or its threads' cores.

        Raises:
            InputError: not a single one.
        """
        threads = int(train.threads)
        devices = self.gpus if train.device == "cuda" else self.cores // threads
        engines = min(devices, self.cpus // (threads + 1))  # each with a trial at least
        if engines < 1:
            raise InputError(
                f"train.threads: an engine and a trial must fit on the cluster, but they need {threads + 1} CPUs and "
                f"there are {self.cpus} CPUs with {self.cores} cores, and {self.gpus} GPUs; lower train.threads"
            )
        return engines

    def room_for_trials(self, train: TrainConfig) -> int:
        """How many trials fit beside the engines."""
        return self.cpus - self.engines(train) * int(train.threads)

    def engine_options(self, train: TrainConfig) -> dict[str, Any]:
        """Ray's options of an engine actor: what it holds, and that it is started again when it dies."""
        gpus = {"num_gpus": 1} if train.device == "cuda" else {}
        return {"num_cpus": int(train.threads), **gpus, "max_restarts": -1}


TRIAL_RESOURCES = {"cpu": 1.0}


@contextmanager
def connect(address: str | None, dashboard: str | None) -> Iterator[Cluster]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one on this machine, and leave it at the end.

    One that is started is reached from this machine alone, with a token; but for its dashboard, which listens on the
    host `dashboard`, or is not there (None).

    Raises:
        InputError: nothing answers at that address.
    """
    # Workers import the same lmcore and sweeps as the driver, from wherever it was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Worker processes of a CPU trial are single-threaded; the trainer sets torch's own number.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        use_token()
    else:
        secure()
    import ray  # not before: it reads the authentication mode once, as it is imported

    if address:
        try:
            _check_answers(address)
            context = ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"--address: must be a running Ray cluster, got {address} ({reason}); "
                "start one with `ray start --head`, or leave it out (and RAY_ADDRESS unset) to use this machine"
            ) from None
    else:
        context = ray.init(
            address="local",  # never by accident a cluster that somebody else started on this machine
            include_dashboard=dashboard is not None,
            dashboard_host=dashboard or "127.0.0.1",
            num_cpus=LOGICAL_CPUS,
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        # Of a cluster that we share, what is free now; of our own, all of it.
        resources = ray.available_resources() if address else ray.cluster_resources()
        cpus = int(resources.get("CPU", 0))
        yield Cluster(
            cpus=cpus,
            gpus=int(resources.get("GPU", 0)),
            cores=cpus if address else len(os.sched_getaffinity(0)),
            memory_bytes=int(resources.get("memory", 0)),
            dashboard_url=f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None,
            local=not address,
            head=ray.get_runtime_context().gcs_address,
            cpu_bfloat16=not address and cpu_bfloat16(),  # of other machines' CPUs nothing is known
        )
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens there: ray.init goes on trying for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def show_in_dashboard(title: str) -> None:
    """Name this process. An actor's own name is fixed when it is made, and ours serve one trial after the other."""
    from ray._raylet import setproctitle

    setproctitle(f"ray::{title}")
