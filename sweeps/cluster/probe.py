"""Asks a node of a joined cluster for proof, before any engine is started there and anything is spent.

The probe is a Ray task that needs no resources, so that it also runs on a node that is busy.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lmcore.memory import estimate_memory
from sweeps.cluster.nodes import Node
from sweeps.cluster.proof import code_digest, device_fault, folder_fault, space_fault, write_token
from sweeps.spec.cost import costliest
from sweeps.spec.sweep_spec import SweepSpec

PROBED_WITHIN_S = 120.0
"""Longer than a node takes to unpack the code and to import torch."""


@dataclass(frozen=True)
class Demands:
    """What a node must have.

    >>> Demands("/home/ann/runs/night", "8f1c", "cpu", 10**8, 10**9, code_digest())  # doctest: +SKIP
    """

    folder: str
    token: str
    device: str
    """train.device; with auto, a node that has GPUs must have them in torch."""
    disk_bytes: int
    memory_bytes: int
    code: str


def demands(spec: SweepSpec, folder: Path) -> Demands:
    """What `spec` needs at least on a node: room for one trial of its largest size, and for its two checkpoints."""
    states = [estimate_memory(costliest(spec, size)) for size in spec.size_names]
    disk_bytes = 2 * max(estimate.state for estimate in states)
    memory_bytes = max(estimate.total for estimate in states) if spec.train.device != "cuda" else 0
    return Demands(str(folder), write_token(folder), spec.train.device, disk_bytes, memory_bytes, code_digest())


class Probe:
    """A probe of one node, which was started; `fault` is there once it is done.

    >>> probe = Probe(node, demands)  # doctest: +SKIP
    >>> probe.wait()  # doctest: +SKIP
    'Ray counts 1 GPU and torch 0; install torch and a driver that see the GPU, or start Ray there with --num-gpus=0'
    """

    def __init__(self, node: Node, wanted: Demands) -> None:
        self.node = node
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task: Any = ray.remote(prove_node).options(num_cpus=0, max_retries=1, scheduling_strategy=strategy)
        self._answer = task.remote(wanted, node.gpus)

    @property
    def done(self) -> bool:
        """Whether the answer is there."""
        return bool(ray.wait([self._answer], timeout=0)[0])

    def wait(self, timeout_s: float = PROBED_WITHIN_S) -> str | None:
        """The fault and its remedy in one line, or None for a node that is as it should be."""
        try:
            fault: str | None = ray.get(self._answer, timeout=timeout_s)
            return fault
        except GetTimeoutError:
            ray.cancel(self._answer, force=True)
            return f"it did not answer in {timeout_s:.0f} s; look at Ray's logs there"
        except RayError as error:
            line = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            return f"lmsweep cannot be loaded there ({line}); install the same packages as on this machine"


def prove_node(wanted: Demands, gpus: int) -> str | None:
    """Runs on the node."""
    if code_digest() != wanted.code:
        return "its lmsweep differs from the driver's; install the same version there"
    folder = Path(wanted.folder)
    fault = folder_fault(folder, wanted.token) or space_fault(folder, wanted.disk_bytes, wanted.memory_bytes)
    if fault is None and gpus and wanted.device != "cpu":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides GPUs from a task that reserves none
        fault = device_fault("cuda", gpus)
    return fault
