"""The driver's side of the engines: starts them, asks them how many slots are worthwhile, and sends them trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from lmcore.tokens import Tokens
from sweeps.cluster import Cluster
from sweeps.engine import Engine
from sweeps.folder import RunFolder
from sweeps.ledger import LiveTrial
from sweeps.slots import Placement
from sweeps.spec import SweepSpec


@dataclass(frozen=True)
class SlotChoice:
    """How many slots an engine has for a size, and why."""

    size: str
    slots: int
    paces: list[dict[str, Any]]
    """What was measured: slots that advance as one program, tokens/s of all together, peak bytes."""

    def __str__(self) -> str:
        if not self.paces:
            return f"{self.size} {self.slots}"
        gains = [f"{p['tokens_per_s'] / self.paces[0]['tokens_per_s']:.2f}x with {p['slots']}" for p in self.paces[1:]]
        return f"{self.size} {self.slots} (tokens/s of slots trained as one: {', '.join(gains)})"


class Engines:
    """The engine actors, and which trial is on which.

    Starting them takes seconds, and so does measuring; both go on in their processes while the caller does other
    things, until `choices` is asked for.
    """

    def __init__(self, cluster: Cluster, spec: SweepSpec, tokens: Tokens, folder: RunFolder, most: int) -> None:
        """No more engines than `most` trials at a time need; `spec` is resolved for the cluster's devices."""
        number = min(cluster.engines(spec.train), most)
        self.tokens = [ray.put(tokens)]  # the list travels as it is, where Ray would replace a bare reference
        actor = ray.remote(Engine).options(**cluster.engine_options(spec.train))
        slots = None if spec.search.slots == "auto" else spec.search.slots
        memory_bytes = cluster.memory_bytes // number
        self.handles: list[ActorHandle] = [
            actor.remote(n, str(folder.path), slots, memory_bytes) for n in range(number)
        ]
        # A size each, side by side, so that they are measured on a machine that is as busy as it will be.
        self._measuring = {
            size: self.handles[n % number].measure.remote(spec.run_for(size, {}).model_dump(), self.tokens)
            for n, size in enumerate(spec.size_names)
        }
        self._placement: Placement | None = None

    def choices(self) -> list[SlotChoice]:
        """How many slots each size gets.

        Raises:
            ray.exceptions.RayError: no engine could be started, or a size does not train at all.
        """
        return [SlotChoice(size, *ray.get(measured)) for size, measured in self._measuring.items()]

    def open(self, choices: Sequence[SlotChoice], most: int) -> int:
        """Take trials from now on; how many at a time."""
        self._placement = Placement(len(self.handles), {choice.size: choice.slots for choice in choices})
        return min(self._placement.capacity, most)

    def offer(self, sizes: Sequence[str]) -> tuple[int, str] | None:
        """An engine with a free slot, and which of `sizes` suits it; None where all are taken."""
        assert self._placement is not None
        engine = self._placement.free_engine()
        return None if engine is None or not sizes else (engine, self._placement.best_size(engine, sizes))

    def enter(self, live: LiveTrial, engine: int) -> None:
        """Send a trial to the engine, which begins at once, before Tune has a process for it."""
        assert self._placement is not None
        self._placement.put(live.id, live.size, engine)
        self.handles[engine].enter.remote(live.id, live.name, live.run.model_dump(), self.tokens)

    def leave(self, trial_id: str) -> None:
        """Free the slot of a trial that has ended."""
        assert self._placement is not None
        engine = self._placement.remove(trial_id)
        if engine is not None:
            self.handles[engine].leave.remote(trial_id)

    def close(self) -> None:
        """End the engines' processes."""
        for handle in self.handles:
            ray.kill(handle)
