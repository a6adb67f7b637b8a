"""Ray: starting it or joining it, what devices it has, and letting go of it. Nothing else asks Ray for devices."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmcore.config import TrainConfig
from lmcore.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cluster:
    """What a sweep may use."""

    cpus: int
    gpus: int
    dashboard_url: str | None
    """None where the dashboard is off."""
    local: bool
    """Whether we started it."""

    def trial_resources(self, train: TrainConfig) -> dict[str, float]:
        """What one trial holds, `train` being resolved: its threads' cores, and a GPU where it trains on one."""
        gpus = {"gpu": 1.0} if train.device == "cuda" else {}
        return {"cpu": float(train.threads), **gpus}

    def room_for(self, train: TrainConfig) -> int:
        """How many trials fit at the same time.

        Raises:
            InputError: not a single one.
        """
        resources = self.trial_resources(train)
        room = min(self.cpus // int(resources["cpu"]), self.gpus if "gpu" in resources else self.cpus)
        if room < 1:
            raise InputError(
                f"train.threads: a trial must fit on the cluster, but it needs {resources} and there are {self.cpus} "
                f"CPUs and {self.gpus} GPUs; lower train.threads"
            )
        return room


@contextmanager
def connect(address: str | None, dashboard: bool) -> Iterator[Cluster]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one on this machine, and leave it at the end.

    Raises:
        InputError: nothing answers at that address.
    """
    # Workers import the same lmcore and sweeps as the driver, from wherever it was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Worker processes of a CPU trial are single-threaded; the trainer sets torch's own number.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _use_token()
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
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        resources = ray.cluster_resources()
        yield Cluster(
            cpus=int(resources.get("CPU", 0)),
            gpus=int(resources.get("GPU", 0)),
            dashboard_url=f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None,
            local=not address,
        )
    finally:
        ray.shutdown()


def _use_token() -> None:
    """Present this machine's token where there is one: `ray start` then demands it, and ray.init(address) has none."""
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH"), "~/.ray/auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or any(p and Path(p).expanduser().is_file() for p in places):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens there: ray.init goes on trying for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
