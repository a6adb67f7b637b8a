"""The engines of a sweep: which there are, on which nodes, and how they come and go.

On this machine alone the engines stay the same. On a cluster that others started, engines start on nodes that join, are
given up with nodes that are lost, and are shared with other sweeps.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray

from lmcore.config import TrainConfig
from sweeps.cluster.membership import Membership
from sweeps.cluster.nodes import free_resources
from sweeps.cluster.ray_cluster import Cluster, engine_options, engines_of
from sweeps.engine.roster import Engine, choose_node, start_engine, sweeps_here

LOOK_EVERY_S = 3.0
"""How often a joined cluster is looked at."""
CLOSED_WITHIN_S = 60.0
"""An engine that is given to another sweep has so long to end its interval."""
JOINED_WITHIN_S = 600.0
"""A sweep whose nodes are all lost waits so long for another one."""


class Changes(NamedTuple):
    """Numbers of engines: what has changed since `Fleet.tend` was last called."""

    came: list[int]
    closing: list[int]
    gone: list[int]


class Fleet:
    """The engines. Calls must not overlap, apart from `look`.

    Args:
        cluster: where to start them.
        train: resolved for the cluster's devices.
        most: largest number of engines.
        membership: which nodes of the cluster can be used.
        folder: the run's folder.
        slots: slots per signature that each engine is told to have; None lets them choose.
        say: called with each line that the user should see.

    >>> fleet = Fleet(cluster, spec.train, 8, membership, "/home/ann/runs/night", None, print)  # doctest: +SKIP
    >>> fleet.look()  # doctest: +SKIP
    >>> fleet.tend(load=lambda number: 0).came  # doctest: +SKIP
    [0, 1]
    """

    def __init__(
        self,
        cluster: Cluster,
        train: TrainConfig,
        most: int,
        membership: Membership,
        folder: str,
        slots: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._local = cluster.local
        self._train = train
        self._most = most
        self._membership = membership
        self._folder, self._slots = folder, slots
        self._say = say
        self._engine_cpus = cluster.engine_cpus(train)
        self.engines: dict[int, Engine] = {}
        """By number. Numbers are not used again."""
        self.last_fault = ""
        """Why the last engine was left out that could not train."""
        self._started = 0
        self._look_again_at = 0.0
        self._looked = False
        self._empty_since: float | None = None
        self._gone: list[int] = []
        self._hire()

    @property
    def spare_cpus(self) -> float:
        """Logical CPUs that trial proxies can have."""
        return sum(node.cpus for node in self._membership.nodes) - len(self.engines) * self._engine_cpus

    def look(self) -> None:
        """Look for nodes that have come or gone, every few seconds. It takes a second for each that does not answer."""
        if not self._local and time.monotonic() > self._look_again_at:
            for line in self._membership.look():
                self._say(line)
            self._look_again_at = time.monotonic() + LOOK_EVERY_S
            self._looked = True

    def tend(self, load: Callable[[int], int]) -> Changes:
        """Let engines come and go. `load` returns the number of trials on an engine."""
        came, closing = self._admit(), []
        self._close()
        if self._looked:
            self._looked = False
            alive = {node.id for node in self._membership.nodes}
            for number, engine in tuple(self.engines.items()):
                if engine.node.id not in alive:
                    self._lose(number, f"{engine.node.name} is lost: the trials of engine {number} go on elsewhere")
                    self.last_fault = ""
            closing = self._share(load)
            self._hire()
        gone, self._gone = self._gone, []
        return Changes(came, closing, gone)

    def leave_out(self, number: int, fault: str) -> None:
        """Give up an engine that cannot train, and say why."""
        if number in self.engines:
            self.last_fault = f"{self.engines[number].node.name}: engine {number} is left out: {fault}"
            self._lose(number, self.last_fault)

    def why_over(self) -> str | None:
        """Why the sweep must end. Other nodes may join where nodes were lost, but waiting cannot mend unfit engines."""
        now = time.monotonic()
        if self.engines:
            self._empty_since = None
            return None
        if self._empty_since is None:
            self._empty_since = now
            if not self.last_fault:
                self._say(f"No node is left; waiting for one to join, up to {JOINED_WITHIN_S / 60:.0f} minutes")
        if self.last_fault or now - self._empty_since > JOINED_WITHIN_S:
            return f"no engine is left: {self.last_fault or 'no node has joined'}"
        return None

    def in_use(self) -> str:
        """What engines wait for: `1 CPU; 8 of 8 are in use`."""
        name = "GPU" if self._train.device == "cuda" else "CPU"
        needed = 1 if name == "GPU" else int(self._train.threads)
        nodes = self._membership.nodes
        total = sum(node.gpus if name == "GPU" else node.cpus for node in nodes)
        free = free_resources()
        used = total - sum(free.get(node.id, {}).get(name, 0.0) for node in nodes)
        return f"{needed} {name}{'s' if needed > 1 else ''}; {used:.0f} of {total} are in use"

    def _wanted(self) -> int:
        """Number of engines that this sweep may have: all that fit, or its share if other sweeps are here."""
        fitting = sum(engines_of(node, self._train) for node in self._membership.nodes)
        sweeps = 1 if self._local else sweeps_here()
        return min(self._most, math.ceil(fitting / sweeps))

    def _hire(self) -> None:
        """Start engines until there are as many as are wanted. One that waits for room goes where there is some."""
        wanted = self._wanted()
        if len(self.engines) >= wanted and not self._without_room():
            return
        free = free_resources()
        needed = {"CPU": self._engine_cpus, **({"GPU": 1.0} if self._train.device == "cuda" else {})}
        while True:
            engines = list(self.engines.values())
            chosen = choose_node(self._membership.nodes, engines, self._train, needed, free)
            if chosen is None:
                return
            node, has_room = chosen
            if len(engines) >= wanted:
                waiting = self._without_room()
                if not waiting or not has_room:
                    return
                self._lose(waiting[0].number, None)
            memory_bytes = node.memory_bytes // max(1, engines_of(node, self._train))
            arguments = (self._folder, self._slots, memory_bytes, self._membership.token, self._train.device)
            options = engine_options(self._train, self._engine_cpus)
            number, self._started = self._started, self._started + 1
            self.engines[number] = start_engine(number, node, options, has_room, arguments)

    def _without_room(self) -> Sequence[Engine]:
        return [engine for engine in self.engines.values() if engine.state == "starting" and not engine.has_room]

    def _admit(self) -> list[int]:
        """Take engines that have proved themselves; leave out those that have failed to."""
        came = []
        for number, engine in tuple(self.engines.items()):
            if engine.state != "starting":
                continue
            proved, fault = engine.proved()
            if fault is not None:
                self.leave_out(number, fault)
            elif proved:
                engine.state = "ready"
                came.append(number)
        return came

    def _share(self, load: Callable[[int], int]) -> list[int]:
        """Close engines of which another sweep should have some; those that wait for room go first."""
        excess = len(self.engines) - self._wanted()
        for engine in self._without_room()[: max(0, excess)]:
            self._lose(engine.number, None)
            excess -= 1
        excess -= sum(engine.state == "closing" for engine in self.engines.values())
        ready = sorted((n for n, engine in self.engines.items() if engine.state == "ready"), key=load)
        closing = ready[: max(0, min(excess, len(ready) - 1))]
        for number in closing:
            engine = self.engines[number]
            engine.state, engine.saving, engine.closing_at = "closing", engine.handle.stop.remote(), time.monotonic()
            self._say(f"Engine {number} on {engine.node.name} is given to another sweep; its trials go on elsewhere")
        return closing

    def _close(self) -> None:
        """Kill the closing engines whose trials are saved; their proxies submit the trials to others."""
        for number, engine in tuple(self.engines.items()):
            late = time.monotonic() > engine.closing_at + CLOSED_WITHIN_S
            if engine.state == "closing" and (late or ray.wait([engine.saving], timeout=0)[0]):
                self._lose(number, None)

    def _lose(self, number: int, line: str | None) -> None:
        """Forget an engine for good."""
        engine: Any = self.engines.pop(number)
        self._gone.append(number)
        ray.kill(engine.handle)
        if line is not None:
            self._say(line)
