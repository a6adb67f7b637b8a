"""The nodes of a Ray cluster: what each one has, what of it is free, and whether it answers."""

import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node


@dataclass(frozen=True)
class Node:
    """A host on which `ray start` runs. A host that leaves and joins again is another node.

    >>> Node("3c4f", "gpu-7", "10.0.0.7", 41001, cpus=8, gpus=1, cores=8, memory_bytes=2**34).name
    'gpu-7 (10.0.0.7)'
    """

    id: str
    host: str
    address: str
    port: int
    """The port of its raylet, which listens as long as the node lives."""
    cpus: int
    """Logical CPUs, for engines and trial proxies together."""
    gpus: int
    cores: int
    """CPU cores that engines can keep busy."""
    memory_bytes: int
    """Memory that Ray has for its workers."""

    @property
    def name(self) -> str:
        """Host and address, for messages."""
        return f"{self.host} ({self.address})"

    def answers(self, timeout_s: float) -> bool:
        """Whether its raylet accepts a connection from this process."""
        return accepts_connections(self.address, self.port, timeout_s)


def alive_nodes() -> list[Node]:
    """The nodes that Ray counts as alive, in the order in which they joined."""
    nodes = []
    for entry in ray.nodes():  # type: ignore[no-untyped-call]
        if not entry["Alive"]:
            continue
        resources: dict[str, float] = entry["Resources"]
        cpus = int(resources.get("CPU", 0))
        nodes.append(
            Node(
                id=entry["NodeID"],
                host=entry["NodeManagerHostname"],
                address=entry["NodeManagerAddress"],
                port=entry["NodeManagerPort"],
                cpus=cpus,
                gpus=int(resources.get("GPU", 0)),
                cores=cpus,
                memory_bytes=int(resources.get("memory", 0)),
            )
        )
    return nodes


def free_resources() -> dict[str, dict[str, float]]:
    """What is not in use now, by node: `{"3c4f...": {"CPU": 3.0, "GPU": 1.0}}`."""
    free: dict[str, dict[str, Any]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return free


def accepts_connections(host: str, port: int, timeout_s: float) -> bool:
    """Whether something listens at host:port."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True
