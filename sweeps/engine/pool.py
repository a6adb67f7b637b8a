"""The driver's side of the workers: starts them, asks how many slots pay, and submits trials to them.

On a cluster that others run, engines come and go: `tend` starts engines on nodes that join, gives up those of nodes
that are lost, and shares the cluster with other sweeps. It runs in the watchdog's thread, the rest in the main thread.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from lmcore.corpus.tokens import Tokens
from lmcore.errors import InputError
from lmcore.measure.slot_count import ThroughputSample, average_samples, choose_slots, speedup
from sweeps.cluster.membership import Membership
from sweeps.cluster.nodes import free_resources
from sweeps.cluster.ray_cluster import Cluster, engine_options, engines_of
from sweeps.engine.death_count import forget_deaths
from sweeps.engine.placement import Placement
from sweeps.engine.roster import Engine, choose_node, start_engine, sweeps_here
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.study_state import TrialHandle

T = TypeVar("T")
LOOK_EVERY_S = 3.0
"""How often a joined cluster is looked at."""
SAY_EVERY_S = 30.0
CLOSED_WITHIN_S = 60.0
"""An engine that is given to another sweep has so long to end its interval."""


@dataclass(frozen=True)
class SlotChoice:
    """How many slots a worker has for a size, and why.

    >>> str(SlotChoice("xs", 2, [ThroughputSample(1, 1000.0, 1.0, 0), ThroughputSample(2, 1500.0, 1.5, 0)]))
    'xs 2 (tokens/s of slots trained as one: 1.50x with 2)'
    """

    size: str
    slots: int
    samples: list[ThroughputSample]
    """What the workers measured for slots that advance as one program."""

    def __str__(self) -> str:
        gains = [f"{speedup(self.samples, sample.slots):.2f}x with {sample.slots}" for sample in self.samples[1:]]
        return f"{self.size} {self.slots}" + (
            f" (tokens/s of slots trained as one: {', '.join(gains)})" if gains else ""
        )


class WorkerPool:
    """The worker actors, and which trial is on which.

    Starting and measuring take seconds. Both go on in the workers' processes until `wait` and `choices` wait for them.

    Args:
        cluster: where to start the workers.
        spec: resolved for the cluster's devices.
        tokens: the data that all trials train on.
        folder: the run's folder.
        most: largest number of trials at a time; no more workers are started.
        membership: which nodes of the cluster can be used.
        say: called with each line that the user should see.

    >>> pool = WorkerPool(cluster, spec, tokens, folder, 8, membership)  # doctest: +SKIP
    >>> pool.wait()  # doctest: +SKIP
    >>> training, queued = pool.open(pool.choices())  # doctest: +SKIP
    >>> worker, size = pool.offer(["xs", "s"])  # doctest: +SKIP
    >>> pool.submit(ledger.ask(size), worker)  # doctest: +SKIP
    """

    def __init__(
        self,
        cluster: Cluster,
        spec: SweepSpec,
        tokens: Tokens,
        folder: RunFolder,
        most: int,
        membership: Membership,
        say: Callable[[str], None] = print,
    ) -> None:
        self._local = cluster.local
        self._train = spec.train
        self._engine_cpus = cluster.engine_cpus(spec.train)
        self.proxy_cpus = cluster.proxy_cpus(spec.train)
        """Logical CPUs that each trial's proxy is to reserve."""
        self._folder = folder
        self._most = most
        self._membership = membership
        self._say = say
        # Passed to actors as a list: Ray would replace a bare reference by its value.
        self.shared: list[ray.ObjectRef[Any]] = [ray.put(tokens)]
        self._slots = None if spec.search.slots == "auto" else spec.search.slots
        self._runs = {size: spec.run_for(size, {}) for size in spec.size_names}
        self._lock = threading.RLock()
        self._engines: dict[int, Engine] = {}
        self._started = 0
        self._placement: Placement | None = None
        self._look_again_at = 0.0
        self._last_fault = ""
        self._hire()
        # All workers measure the same at the same time: the machine is then as busy as it will be.
        first = [engine for engine in self._engines.values() if engine.has_room]
        self._measuring: dict[str, list[ray.ObjectRef[list[ThroughputSample]]]] = {
            size: [engine.handle.measure.remote(run, list(self.shared)) for engine in first]
            for size, run in self._runs.items()
        }
        self._peaks: list[ray.ObjectRef[float]] = [engine.handle.peak.remote(spec.train) for engine in first]

    @property
    def ready(self) -> dict[int, Any]:
        """Actor handles of the engines that have proved themselves, by number."""
        with self._lock:
            return {n: engine.handle for n, engine in self._engines.items() if engine.state != "starting"}

    @property
    def lost_nodes(self) -> set[str]:
        """Ids of the nodes that do not answer: what runs there must be given up."""
        return self._membership.lost

    def wait(self) -> None:
        """Wait until all engines for which there is room have proved themselves, and one at least.

        Raises:
            InputError: no engine can train.
        """
        say_at = time.monotonic() + 2.0
        while True:
            self.tend()
            with self._lock:
                starting = [engine for engine in self._engines.values() if engine.state == "starting"]
                if not self._engines:
                    raise InputError(f"--address: a node of the cluster must be able to train, but {self._last_fault}")
                if len(starting) < len(self._engines) and not any(engine.has_room for engine in starting):
                    return
            if time.monotonic() > say_at and not any(engine.has_room for engine in starting):
                say_at = time.monotonic() + SAY_EVERY_S
                self._say(f"Waiting for {self._in_use()}")
            time.sleep(0.1)

    def peaks(self) -> list[float | None]:
        """FLOP/s of matrix products on each worker, all measured at the same time; None for a worker that failed."""
        return [_result(peak) for peak in self._peaks]

    def choices(self) -> list[SlotChoice]:
        """How many slots each size gets on every worker. Workers that died while they measured are left out."""
        choices = []
        for size, measuring in self._measuring.items():
            measured = [samples for samples in map(_result, measuring) if samples is not None] or [[]]
            if self._slots is not None:  # every worker gets as many slots as fit on the one with the least memory
                slots = min(choose_slots(samples, self._slots) for samples in measured)
                measured = [samples for samples in measured if choose_slots(samples, self._slots) == slots]
            samples = average_samples(measured)
            choices.append(SlotChoice(size, choose_slots(samples, self._slots), samples))
        return choices

    def open(self, choices: Sequence[SlotChoice]) -> tuple[int, int]:
        """Allow trials from now on; return how many train at a time, and how many are queued for the next free slot."""
        samples = {self._runs[choice.size].static_signature: choice.samples for choice in choices if choice.samples}
        self.shared = [*self.shared, ray.put(samples)]
        with self._lock:
            self._placement = Placement({choice.size: choice.slots for choice in choices})
            for number in self.ready:
                self._placement.add_worker(number)
        return self.capacity

    @property
    def capacity(self) -> tuple[int, int]:
        """How many trials can train at a time now, and how many more can be queued for the next free slot."""
        with self._lock:
            most = self._most_now()
            training = min(self._placed.capacity, most)
            return training, min(self._placed.queue_capacity, most - training)

    def offer(self, sizes: Sequence[str]) -> tuple[int, str] | None:
        """A worker that takes another trial, and which of `sizes` suits it; None if no worker takes any."""
        with self._lock:
            if not sizes or self._placed.trials >= self._most_now():
                return None
            worker = self._placed.free_worker()
            return None if worker is None else (worker, self._placed.best_size(worker, sizes))

    def submit(self, live: TrialHandle, worker: int) -> None:
        """Submit a trial to a worker, which begins at once, before Tune has a process for the trial's proxy."""
        with self._lock:
            self._placed.place(live.id, live.size, worker)
            forget_deaths(self._folder.trial(live.id))
            self._engines[worker].handle.submit.remote(live.id, live.name, live.run, self.shared)

    def note_worker(self, trial_id: str, worker: int) -> None:
        """Note which worker a trial's row came from: a trial moves when its worker is gone."""
        with self._lock:
            self._placed.move(trial_id, worker)

    def release(self, trial_id: str, ended: bool = True) -> None:
        """Free the slot of a trial that has ended, or that continues elsewhere."""
        with self._lock:
            for worker in self._placed.remove(trial_id):
                self._engines[worker].handle.release.remote(trial_id, ended)

    def retire(self, number: int, reason: str) -> None:
        """Give up a worker that cannot train any more; its trials continue on others."""
        with self._lock:
            if number in self._engines:
                self._lose(number, f"{self._engines[number].node.name}: engine {number} is left out: {reason}")

    def tend(self) -> str | None:
        """Let engines come and go. Returns why the sweep must end, if there is no engine left and none may come."""
        with self._lock:
            self._admit()
            self._close()
        if not self._local and time.monotonic() > self._look_again_at:
            self._look_again_at = time.monotonic() + LOOK_EVERY_S
            for line in self._membership.look():
                self._say(line)
            with self._lock:
                alive = {node.id for node in self._membership.nodes}
                for number, engine in tuple(self._engines.items()):
                    if engine.node.id not in alive:
                        self._lose(number, f"{engine.node.name} is lost: the trials of engine {number} go on elsewhere")
                self._share()
                self._hire()
        return None if self._engines else f"no engine is left: {self._last_fault}"

    def stop(self, wait_s: float) -> bool:
        """Have every worker end its interval and write checkpoints; False if one was not done after `wait_s`."""
        stopping: list[ray.ObjectRef[None]] = [handle.stop.remote() for handle in self.ready.values()]
        return not ray.wait(stopping, num_returns=len(stopping), timeout=wait_s)[1] if stopping else True

    def close(self) -> None:
        """Kill the workers."""
        with self._lock:
            for engine in self._engines.values():
                ray.kill(engine.handle)
            self._engines.clear()

    @property
    def _placed(self) -> Placement:
        assert self._placement is not None, "open() comes first"
        return self._placement

    def _most_now(self) -> int:
        """Largest number of trials at a time: as many as were wanted, and as proxies have room."""
        cpus = sum(node.cpus for node in self._membership.nodes) - len(self._engines) * self._engine_cpus
        return min(self._most, max(1, int(cpus / self.proxy_cpus + 1e-6)))

    def _wanted(self) -> int:
        """Number of engines that this sweep may have: all that fit, or its share if other sweeps are here."""
        fitting = sum(engines_of(node, self._train) for node in self._membership.nodes)
        sweeps = 1 if self._local else sweeps_here()
        return min(self._most, math.ceil(fitting / sweeps))

    def _hire(self) -> None:
        """Start engines until there are as many as are wanted."""
        nodes = self._membership.nodes
        wanted = self._wanted()
        if len(self._engines) >= wanted and not any(not e.has_room for e in self._engines.values()):
            return
        free = free_resources()
        needed = {"CPU": self._engine_cpus, **({"GPU": 1.0} if self._train.device == "cuda" else {})}
        while True:
            engines = list(self._engines.values())
            waiting = [engine for engine in engines if engine.state == "starting" and not engine.has_room]
            chosen = choose_node(nodes, engines, self._train, needed, free)
            if chosen is None:
                return
            node, has_room = chosen
            if len(engines) >= wanted:
                if not (waiting and has_room):
                    return
                ray.kill(self._engines.pop(waiting[0].number).handle)  # there is room elsewhere
            memory_bytes = node.memory_bytes // max(1, engines_of(node, self._train))
            arguments = (str(self._folder.path), self._slots, memory_bytes, self._membership.token, self._train.device)
            number, self._started = self._started, self._started + 1
            options = engine_options(self._train, self._engine_cpus)
            self._engines[number] = start_engine(number, node, options, has_room, arguments)

    def _admit(self) -> None:
        """Take engines that have proved themselves; leave out those that have failed to."""
        for number, engine in tuple(self._engines.items()):
            if engine.state != "starting":
                continue
            proved, fault = engine.proved()
            if fault is not None:
                self._lose(number, f"{engine.node.name}: engine {number} is left out: {fault}")
            elif proved:
                engine.state = "ready"
                if self._placement is not None:
                    self._placement.add_worker(number)
                    self._say(f"Engine {number} trains on {engine.node.name} from now on")

    def _share(self) -> None:
        """Close engines of which another sweep should have some."""
        excess = len(self._engines) - self._wanted()
        if excess <= 0:
            return
        for number, engine in tuple(self._engines.items()):
            if excess > 0 and engine.state == "starting":
                ray.kill(self._engines.pop(number).handle)
                excess -= 1
        closing = sum(engine.state == "closing" for engine in self._engines.values())
        ready = [number for number, engine in self._engines.items() if engine.state == "ready"]
        if self._placement is None or len(ready) < 2:
            return
        for number in sorted(ready, key=self._placement.load)[: min(excess - closing, len(ready) - 1)]:
            engine = self._engines[number]
            self._placement.close_worker(number)
            engine.state, engine.saving = "closing", engine.handle.stop.remote()
            engine.started_at = time.monotonic()
            self._say(f"Engine {number} on {engine.node.name} is given to another sweep; its trials go on elsewhere")

    def _close(self) -> None:
        """Kill the closing engines whose trials are saved; their proxies submit the trials to others."""
        for number, engine in tuple(self._engines.items()):
            if engine.state == "closing" and (
                ray.wait([engine.saving], timeout=0)[0] or time.monotonic() > engine.started_at + CLOSED_WITHIN_S
            ):
                self._lose(number, None)

    def _lose(self, number: int, line: str | None) -> None:
        """Forget an engine for good."""
        engine = self._engines.pop(number)
        if self._placement is not None:
            self._placement.remove_worker(number)
        ray.kill(engine.handle)
        if line is not None:
            self._last_fault = line
            self._say(line)

    def _in_use(self) -> str:
        """What engines wait for: `1 CPU; 8 of 8 are in use`."""
        name = "GPU" if self._train.device == "cuda" else "CPU"
        needed = 1 if name == "GPU" else int(self._train.threads)
        nodes = self._membership.nodes
        total = sum(node.gpus if name == "GPU" else node.cpus for node in nodes)
        free = free_resources()
        used = total - sum(free.get(node.id, {}).get(name, 0.0) for node in nodes)
        return f"{needed} {name}{'s' if needed > 1 else ''}; {used:.0f} of {total} are in use"


def _result(reference: "ray.ObjectRef[T]") -> T | None:
    """The result of a worker's call; None if the worker died or the call raised."""
    try:
        return ray.get(reference)
    except RayError:
        return None
