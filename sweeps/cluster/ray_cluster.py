"""What a sweep may use of a Ray cluster, and how that is shared by engines and trials."""

from dataclasses import dataclass
from typing import Any

from lmcore.config import TrainConfig
from lmcore.device import Machine
from lmcore.errors import InputError

TRIAL_RESOURCES = {"cpu": 1.0}
"""A trial's proxy uses no CPU, but with less than one reserved the raylet starts and stops processes endlessly."""


@dataclass(frozen=True)
class Cluster:
    """What a sweep may use of a Ray cluster; see `sweeps.cluster.connect`."""

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
