"""What a sweep may use of a Ray cluster, and how that is shared by engines and trials."""

import math
from dataclasses import dataclass
from typing import Any

from lmcore.config import TrainConfig
from lmcore.device import Machine
from lmcore.errors import InputError
from sweeps.cluster.nodes import Node

LEFT_BY_ENGINE = 0.03
"""CPUs that an engine of a joined cluster leaves to trial proxies, which use next to none: so every core can have an
engine. It is too little for anything that others run."""
PROXIES_PER_ENGINE = 16
"""Proxies that are to have room for each engine."""
LEAST_SHARE, LARGEST_SHARE = 0.001, 0.1
"""CPUs that a proxy of a joined cluster reserves. A larger share spreads them: one node must not have all of them, as a
proxy takes 130 MB of memory."""


@dataclass(frozen=True)
class Cluster:
    """What a sweep may use of a Ray cluster; see `sweeps.cluster.connect`."""

    nodes: tuple[Node, ...]
    dashboard_url: str | None = None  # of a cluster that was joined; None if it has none, or it is not wanted
    local: bool = True  # whether this process started the cluster
    head: str = ""  # host:port of Ray's control service
    cpu_bfloat16: bool = False  # whether all of its CPUs are known to have bfloat16 instructions
    mps: bool = False  # whether it is this Mac, whose GPU is then known to torch

    @property
    def cpus(self) -> int:
        """Logical CPUs of all nodes, for engines and trials together."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all nodes; each can have one engine."""
        return sum(node.gpus for node in self.nodes)

    @property
    def cores(self) -> int:
        """CPU cores of all nodes that engines can keep busy."""
        return sum(node.cores for node in self.nodes)

    @property
    def machine(self) -> Machine:
        """The devices that each engine will find."""
        return Machine(self.gpus > 0, self.cpu_bfloat16, self.mps)

    def engines(self, train: TrainConfig) -> int:
        """Number of engines: one per GPU (a Mac has one), or one per `train.threads` cores. `train` must be resolved.

        Raises InputError if there is no room for one on any node.
        """
        engines = sum(engines_of(node, train) for node in self.nodes)
        if engines < 1:
            needed = f"{int(train.threads)} CPUs{' and a GPU' if train.device == 'cuda' else ''}"
            rule = f"an engine must fit on one node of the cluster, but it needs {needed}"
            found = ", ".join(f"{node.host} has {node.cores} CPUs and {node.gpus} GPUs" for node in self.nodes)
            raise InputError(f"train.threads: {rule} and {found}; lower train.threads, or add a node")
        return engines

    def engine_cpus(self, train: TrainConfig) -> float:
        """Logical CPUs that an engine reserves."""
        return int(train.threads) - (0.0 if self.local else LEFT_BY_ENGINE)

    def proxy_cpus(self, train: TrainConfig) -> float:
        """Logical CPUs that a trial's proxy reserves. A local cluster claims more CPUs than anybody needs."""
        if self.local:
            return 1.0
        engines = self.engines(train)
        spare = self.cpus - engines * self.engine_cpus(train)
        share = math.floor(1000 * spare / (engines * PROXIES_PER_ENGINE)) / 1000
        return min(max(share, LEAST_SHARE), LARGEST_SHARE)


def engines_of(node: Node, train: TrainConfig) -> int:
    """Number of engines that have room on a node. `train` must be resolved."""
    threads = int(train.threads)
    if train.device == "mps":  # Ray does not count it
        return min(1, node.cores // threads)
    return min(node.gpus, node.cpus // threads) if train.device == "cuda" else node.cores // threads


def engine_options(train: TrainConfig, cpus: float) -> dict[str, Any]:
    """Options of an engine's Ray actor: the CPUs and GPU that it holds, and that Ray restarts it if it dies."""
    gpus = {"num_gpus": 1} if train.device == "cuda" else {}
    return {"num_cpus": cpus, **gpus, "max_restarts": -1}
