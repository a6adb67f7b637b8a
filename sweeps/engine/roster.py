"""The engines of a sweep as the driver knows them: where each one runs, and whether it takes trials.

   start            proved             close
---------> starting -------> ready -----------> closing
              |                |                   |
              |  unfit, or its node is lost        |  its trials are saved
              v                v                   v
             gone             gone                gone
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lmcore.config import TrainConfig
from sweeps.cluster.nodes import Node
from sweeps.cluster.ray_cluster import engines_of
from sweeps.engine.worker import SlotWorker

NAME = "lmsweep-engine-"
"""Engines are named actors, so that trial proxies find them, and sweeps that share a cluster see each other."""


@dataclass
class Engine:
    """A worker actor. It belongs to one node for ever: if the node is lost, so is the engine."""

    number: int
    node: Node
    handle: Any
    """Its actor handle."""
    proof: Any
    """Reference to what `SlotWorker.prove` returns."""
    has_room: bool = True
    """Whether its resources were free when it was started; otherwise Ray starts it when they are."""
    state: Literal["starting", "ready", "closing"] = "starting"
    saving: Any = None
    """While it closes: reference to the end of `SlotWorker.stop`."""
    closing_at: float = math.inf
    """When it began to close (time.monotonic)."""

    def proved(self) -> tuple[bool, str | None]:
        """Whether the proof is there, and the fault that it found, if any."""
        if not ray.wait([self.proof], timeout=0)[0]:
            return False, None
        try:
            return True, ray.get(self.proof)
        except ActorDiedError as error:
            return True, f"the engine could not be started ({_last_line(error)}); look at Ray's logs there"
        except RayActorError:  # the process died, and Ray starts it again
            self.proof = self.handle.prove.remote()
            return False, None
        except RayError as error:
            return True, f"the engine could not be started ({_last_line(error)}); install the same packages there"


def start_engine(number: int, node: Node, options: dict[str, Any], has_room: bool, arguments: Sequence[Any]) -> Engine:
    """Start an engine on a node. `arguments` are those of `SlotWorker` after its number."""
    options = options | {"name": f"{NAME}{number}"}
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    actor: Any = ray.remote(SlotWorker).options(**options, scheduling_strategy=strategy)
    handle = actor.remote(number, *arguments)
    return Engine(number, node, handle, handle.prove.remote(), has_room)


def choose_node(
    nodes: Sequence[Node],
    engines: Sequence[Engine],
    train: TrainConfig,
    needed: dict[str, float],
    free: dict[str, dict[str, float]],
) -> tuple[Node, bool] | None:
    """The node for another engine, and whether it has room now; None if all nodes have as many as they can hold.

    Nodes with room come first, then the one with fewest engines. `needed` and `free` (by node) have Ray's names:
    `{"CPU": 1.0, "GPU": 1.0}`.
    """
    here = {node.id: sum(engine.node.id == node.id for engine in engines) for node in nodes}
    # Resources of engines that are starting are not taken yet.
    starting = {
        node.id: sum(e.node.id == node.id and e.state == "starting" and e.has_room for e in engines) for node in nodes
    }
    candidates = [node for node in nodes if here[node.id] < engines_of(node, train)]
    if not candidates:
        return None

    def has_room(node: Node) -> bool:
        times = 1 + starting[node.id]
        return all(free.get(node.id, {}).get(name, 0.0) + 1e-6 >= times * amount for name, amount in needed.items())

    node = min(candidates, key=lambda node: (not has_room(node), here[node.id] / engines_of(node, train)))
    return node, has_room(node)


def sweeps_here() -> int:
    """Number of sweeps that have engines on this cluster, or wait for room for one; at least 1."""
    names: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
    return max(1, len({actor["namespace"] for actor in names if actor["name"].startswith(NAME)}))


class EngineGoneError(Exception):
    """There is no engine of this number any more."""


def engine_handle(number: int) -> Any:
    """The actor handle of an engine of this sweep.

    Raises:
        EngineGoneError: it was retired, or lost with its node.
    """
    try:
        return ray.get_actor(f"{NAME}{number}")
    except ValueError:
        raise EngineGoneError(number) from None


def engine_numbers() -> list[int]:
    """Numbers of this sweep's engines that are not gone."""
    names: list[str] = ray.util.list_named_actors()
    return sorted(int(name.removeprefix(NAME)) for name in names if name.startswith(NAME))


def _last_line(error: BaseException) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()
