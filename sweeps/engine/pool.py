"""The driver's side of the workers: asks how many slots pay, and submits trials to them.

`tend` runs in the watchdog's thread, the rest in the main thread. Which engines there are is `sweeps.engine.fleet`.
"""

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
from lmcore.params import flops_per_token
from sweeps.cluster.membership import Membership
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.death_count import forget_deaths
from sweeps.engine.fleet import Fleet
from sweeps.engine.placement import Placement
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.trial_handle import TrialHandle

T = TypeVar("T")
SAY_EVERY_S = 30.0
PAUSED_WITHIN_S = 10.0
"""How long a trial that is promoted waits for its checkpoint to be written; then it continues from an older one."""


@dataclass(frozen=True)
class SlotChoice:
    """How many slots a worker has for a size, and why.

    >>> str(SlotChoice("xs", 2, [ThroughputSample(1, 1000.0, 1.0, 0), ThroughputSample(2, 1500.0, 1.5, 0)]))
    'xs 2 (1.50x the tokens/s of 1)'
    """

    size: str
    slots: int
    samples: list[ThroughputSample]
    """What the workers measured for slots that advance as one program."""

    def __str__(self) -> str:
        if self.slots == 1 or not self.samples[1:]:
            return f"{self.size} {self.slots}"
        return f"{self.size} {self.slots} ({speedup(self.samples, self.slots):.2f}x the tokens/s of 1)"

    @property
    def tokens_per_s(self) -> float | None:
        """Training throughput of all slots of one worker together, as measured; None if nothing was."""
        measured = [sample.tokens_per_s for sample in self.samples if sample.slots <= self.slots]
        return measured[-1] if measured else None


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
        self._folder = folder
        self._most = most
        self._say = say
        self._membership = membership
        self.proxy_cpus = cluster.proxy_cpus(spec.train)
        """Logical CPUs that each trial's proxy is to reserve."""
        # Passed to actors as a list: Ray would replace a bare reference by its value.
        self.shared: list[Any] = [ray.put(tokens.for_other_processes())]
        self._slots = None if spec.search.slots == "auto" else spec.search.slots
        self.runs = {size: spec.run_for(size, {}) for size in spec.size_names}
        """By size, the run with which the slots are measured."""
        self._lock = threading.RLock()
        self._pausing: dict[str, ray.ObjectRef[None]] = {}  # by trial: the end of `SlotWorker.pause`
        self._placement: Placement | None = None
        self._fleet = Fleet(cluster, spec.train, most, membership, str(folder.path), self._slots, say)
        # All workers measure the same at the same time: the machine is then as busy as it will be.
        first = [engine for engine in self._fleet.engines.values() if engine.has_room]
        self._measuring: dict[str, list[ray.ObjectRef[list[ThroughputSample]]]] = {
            size: [engine.handle.measure.remote(run, list(self.shared)) for engine in first]
            for size, run in self.runs.items()
        }
        self._peaks: list[ray.ObjectRef[float]] = [engine.handle.peak.remote(spec.train) for engine in first]

    @property
    def lost_nodes(self) -> set[str]:
        """Ids of the nodes that do not answer: what runs there must be given up."""
        return self._membership.lost

    @property
    def avoided_nodes(self) -> set[str]:
        """Ids of the nodes that no trial proxy should be started on."""
        return self._membership.avoided

    @property
    def ready(self) -> dict[int, Any]:
        """Actor handles of the engines that have proved themselves, by number."""
        with self._lock:
            return {n: engine.handle for n, engine in self._fleet.engines.items() if engine.state != "starting"}

    def wait(self) -> None:
        """Wait until all engines for which there is room have proved themselves, and one at least.

        Raises:
            InputError: no engine can train.
        """
        say_at = time.monotonic() + 2.0
        while True:
            self.tend()
            engines = self._fleet.engines.values()
            if not engines:
                raise InputError(f"--address: an engine must be able to train, but {self._fleet.last_fault}")
            starting = [engine for engine in engines if engine.state == "starting"]
            if not any(engine.has_room for engine in starting):
                if len(starting) < len(engines):
                    return
                if time.monotonic() > say_at:
                    say_at = time.monotonic() + SAY_EVERY_S
                    self._say(f"Waiting for {self._fleet.in_use()}")
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

    def expected_flops_per_s(self, choices: Sequence[SlotChoice]) -> float | None:
        """Training FLOP/s of all workers together, as measured: the mean over the sizes; None if one was not."""
        speeds = []
        for choice in choices:
            if choice.tokens_per_s is None:
                return None
            speeds.append(choice.tokens_per_s * flops_per_token(self.runs[choice.size].model))
        training, _ = self.capacity
        workers = min(len(self.ready), training)
        return workers * sum(speeds) / len(speeds)

    def open(self, choices: Sequence[SlotChoice]) -> tuple[int, int]:
        """Allow trials from now on; return how many train at a time, and how many are queued for the next free slot."""
        samples = {self.runs[choice.size].static_signature: choice.samples for choice in choices if choice.samples}
        self.shared = [*self.shared, samples]
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
        if (pausing := self._pausing.pop(live.id, None)) is not None:  # it was paused a moment ago
            ray.wait([pausing], timeout=PAUSED_WITHIN_S)
        with self._lock:
            self._placed.place(live.id, live.size, worker)
            forget_deaths(self._folder.trial(live.id))
            if worker in self._fleet.engines:  # otherwise the proxy submits it to another one
                self._fleet.engines[worker].handle.submit.remote(live.id, live.name, live.run, self.shared)

    def note_worker(self, trial_id: str, worker: int) -> None:
        """Note which worker a trial's row came from: a trial moves when its worker is gone."""
        with self._lock:
            self._placed.move(trial_id, worker)

    def release(self, trial_id: str, ended: bool = True) -> None:
        """Free the slot of a trial that has ended, or that continues elsewhere."""
        if ended and (pausing := self._pausing.pop(trial_id, None)) is not None:
            ray.wait([pausing], timeout=PAUSED_WITHIN_S)  # or its checkpoint would be written after it was deleted
        with self._lock:
            for worker in self._placed.remove(trial_id):
                self._fleet.engines[worker].handle.release.remote(trial_id, ended)

    def pause(self, trial_id: str) -> None:
        """Free the slot of a trial that is paused, once its checkpoint is written."""
        with self._lock:
            self._pausing = {trial: pausing for trial, pausing in self._pausing.items() if not _is_done(pausing)}
            for worker in self._placed.remove(trial_id):
                self._pausing[trial_id] = self._fleet.engines[worker].handle.pause.remote(trial_id)

    def retire(self, number: int, reason: str) -> None:
        """Give up a worker that cannot train any more; its trials continue on others."""
        with self._lock:
            self._fleet.leave_out(number, reason)

    def tend(self) -> str | None:
        """Let engines come and go. Returns why the sweep must end, if there is no engine left and none may come."""
        self._fleet.look()
        with self._lock:
            placement = self._placement
            changes = self._fleet.tend(placement.load if placement is not None else lambda number: 0)
            if placement is not None:
                for number in changes.came:
                    placement.add_worker(number)
                    self._say(f"Engine {number} trains on {self._fleet.engines[number].node.name} from now on")
                for number in changes.closing:
                    placement.close_worker(number)
                for number in changes.gone:
                    placement.remove_worker(number)
            return self._fleet.why_over()

    def stop(self, wait_s: float) -> bool:
        """Have every worker end its interval and write checkpoints; False if one was not done after `wait_s`."""
        stopping: list[ray.ObjectRef[None]] = [handle.stop.remote() for handle in self.ready.values()]
        return not stopping or not ray.wait(stopping, num_returns=len(stopping), timeout=wait_s)[1]

    def close(self) -> None:
        """Kill the workers."""
        with self._lock:
            for engine in self._fleet.engines.values():
                ray.kill(engine.handle)

    @property
    def _placed(self) -> Placement:
        assert self._placement is not None, "open() comes first"
        return self._placement

    def _most_now(self) -> int:
        """Largest number of trials at a time: as many as were wanted, and as proxies have room."""
        return min(self._most, max(1, int(self._fleet.spare_cpus / self.proxy_cpus + 1e-6)))


def _is_done(reference: "ray.ObjectRef[None]") -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _result(reference: "ray.ObjectRef[T]") -> T | None:
    """The result of a worker's call; None if the worker died or the call raised."""
    try:
        return ray.get(reference)
    except RayError:
        return None
