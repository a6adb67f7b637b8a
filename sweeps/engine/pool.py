"""The driver's side of the workers: starts them, asks how many slots pay, and submits trials to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from lmcore.corpus.tokens import Tokens
from lmcore.measure.slot_count import ThroughputSample, average_samples, choose_slots, speedup
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.death_count import forget_deaths
from sweeps.engine.placement import Placement
from sweeps.engine.worker import SlotWorker
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.study_state import TrialHandle

T = TypeVar("T")


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

    Starting and measuring take seconds. Both go on in the workers' processes until `choices` waits for them.

    Args:
        cluster: where to start the workers.
        spec: resolved for the cluster's devices.
        tokens: the data that all trials train on.
        folder: the run's folder.
        most: largest number of trials at a time; no more workers are started.

    >>> pool = WorkerPool(cluster, spec, tokens, folder, most=8)  # doctest: +SKIP
    >>> training, queued = pool.open(pool.choices(), most=8)  # doctest: +SKIP
    >>> worker, size = pool.offer(["xs", "s"])  # doctest: +SKIP
    >>> pool.submit(ledger.ask(size), worker)  # doctest: +SKIP
    """

    def __init__(self, cluster: Cluster, spec: SweepSpec, tokens: Tokens, folder: RunFolder, most: int) -> None:
        number = min(cluster.engines(spec.train), most)
        self._folder = folder
        # Passed to actors as a list: Ray would replace a bare reference by its value.
        self.shared: list[ray.ObjectRef[Any]] = [ray.put(tokens)]
        self._slots = None if spec.search.slots == "auto" else spec.search.slots
        memory_bytes = cluster.memory_bytes // number
        actor: Any = ray.remote(SlotWorker).options(**cluster.engine_options(spec.train))
        self.handles: list[ActorHandle[SlotWorker]] = [
            actor.remote(n, str(folder.path), self._slots, memory_bytes) for n in range(number)
        ]
        # All workers measure the same at the same time: the machine is then as busy as it will be.
        self._runs = {size: spec.run_for(size, {}) for size in spec.size_names}
        self._measuring: dict[str, list[ray.ObjectRef[list[ThroughputSample]]]] = {
            size: [handle.measure.remote(run, list(self.shared)) for handle in self.handles]
            for size, run in self._runs.items()
        }
        self._peaks: list[ray.ObjectRef[float]] = [h.peak.remote(spec.train) for h in self.handles]
        self._placement: Placement | None = None

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

    def open(self, choices: Sequence[SlotChoice], most: int) -> tuple[int, int]:
        """Allow trials from now on; return how many train at a time, and how many are queued for the next free slot."""
        samples = {self._runs[choice.size].static_signature: choice.samples for choice in choices if choice.samples}
        self.shared = [*self.shared, ray.put(samples)]
        self._placement = Placement(len(self.handles), {choice.size: choice.slots for choice in choices})
        training = min(self._placement.capacity, most)
        return training, min(self._placement.queue_capacity, most - training)

    def offer(self, sizes: Sequence[str]) -> tuple[int, str] | None:
        """A worker that takes another trial, and which of `sizes` suits it; None if no worker takes any."""
        worker = self._placed.free_worker()
        return None if worker is None or not sizes else (worker, self._placed.best_size(worker, sizes))

    def submit(self, live: TrialHandle, worker: int) -> None:
        """Submit a trial to a worker, which begins at once, before Tune has a process for the trial's proxy."""
        self._placed.place(live.id, live.size, worker)
        forget_deaths(self._folder.trial(live.id))
        self.handles[worker].submit.remote(live.id, live.name, live.run, self.shared)

    def note_worker(self, trial_id: str, worker: int) -> None:
        """Note which worker a trial's row came from: a trial moves when its worker is gone."""
        self._placed.move(trial_id, worker)

    def release(self, trial_id: str, ended: bool = True) -> None:
        """Free the slot of a trial that has ended, or that continues elsewhere."""
        worker = self._placed.remove(trial_id)
        if worker is not None:
            self.handles[worker].release.remote(trial_id, ended)

    def stop(self, wait_s: float) -> bool:
        """Have every worker end its interval and write checkpoints; False if one was not done after `wait_s`."""
        stopping: list[ray.ObjectRef[None]] = [handle.stop.remote() for handle in self.handles]
        return not ray.wait(stopping, num_returns=len(stopping), timeout=wait_s)[1]

    def close(self) -> None:
        """Kill the workers."""
        for handle in self.handles:
            ray.kill(handle)

    @property
    def _placed(self) -> Placement:
        assert self._placement is not None, "open() comes first"
        return self._placement


def _result(reference: "ray.ObjectRef[T]") -> T | None:
    """The result of a worker's call; None if the worker died or the call raised."""
    try:
        return ray.get(reference)
    except RayError:
        return None
