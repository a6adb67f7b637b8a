"""The driver's side of the engines: starts them, asks them how many slots are worthwhile, and sends them trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from lmcore.corpus.tokens import Tokens
from lmcore.measure.slot_count import ThroughputSample, average_samples, choose_slots, speedup
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.slot_table import Placement
from sweeps.engine.worker import SlotWorker
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import TrialHandle


@dataclass(frozen=True)
class SlotChoice:
    """How many slots an engine has for a size, and why."""

    size: str
    slots: int
    samples: list[ThroughputSample]
    """What the engines measured of slots that advance as one program."""

    def __str__(self) -> str:
        gains = [f"{speedup(self.samples, sample.slots):.2f}x with {sample.slots}" for sample in self.samples[1:]]
        return f"{self.size} {self.slots}" + (
            f" (tokens/s of slots trained as one: {', '.join(gains)})" if gains else ""
        )


class WorkerPool:
    """The engine actors, and which trial is on which.

    Starting them takes seconds, and so does measuring; both go on in their processes while the caller does other
    things, until `choices` is asked for.
    """

    def __init__(self, cluster: Cluster, spec: SweepSpec, tokens: Tokens, folder: RunFolder, most: int) -> None:
        """No more engines than `most` trials at a time need; `spec` is resolved for the cluster's devices."""
        number = min(cluster.engines(spec.train), most)
        self.shared = [ray.put(tokens)]  # the list travels as it is, where Ray would replace a bare reference
        actor = ray.remote(SlotWorker).options(**cluster.engine_options(spec.train))
        self._slots = None if spec.search.slots == "auto" else spec.search.slots
        memory_bytes = cluster.memory_bytes // number
        self.handles: list[ActorHandle] = [
            actor.remote(n, str(folder.path), self._slots, memory_bytes) for n in range(number)
        ]
        # All engines measure the same at the same time: the machine is then as busy as it will be.
        self._runs = {size: spec.run_for(size, {}) for size in spec.size_names}
        self._measuring = {
            size: [handle.measure.remote(run.model_dump(), list(self.shared)) for handle in self.handles]
            for size, run in self._runs.items()
        }
        self._peaks = [handle.peak.remote(spec.train.model_dump()) for handle in self.handles]
        self._placement: Placement | None = None

    def peaks(self) -> list[float | None]:
        """FLOP/s of matrix products on each engine, measured on all at the same time; None of one that failed."""
        return [_answer(peak) for peak in self._peaks]

    def choices(self) -> list[SlotChoice]:
        """How many slots each size gets, on every engine; one that dies while it measures has no say."""
        choices = []
        for size, measuring in self._measuring.items():
            measured = [list(samples) for samples in map(_answer, measuring) if samples is not None] or [[]]
            if self._slots is not None:  # where an engine had memory for fewer, that many it is on all of them
                slots = min(choose_slots(samples, self._slots) for samples in measured)
                measured = [samples for samples in measured if choose_slots(samples, self._slots) == slots]
            samples = average_samples(measured)
            choices.append(SlotChoice(size, choose_slots(samples, self._slots), samples))
        return choices

    def open(self, choices: Sequence[SlotChoice], most: int) -> tuple[int, int]:
        """Take trials from now on: how many train at a time, and how many are in line for the next free slot."""
        samples = {self._runs[choice.size].static_signature: choice.samples for choice in choices if choice.samples}
        self.shared = [*self.shared, ray.put(samples)]
        self._placement = Placement(len(self.handles), {choice.size: choice.slots for choice in choices})
        training = min(self._placement.capacity, most)
        return training, min(self._placement.in_line, most - training)

    def offer(self, sizes: Sequence[str]) -> tuple[int, str] | None:
        """An engine with room for a trial, and which of `sizes` suits it; None where no engine has any."""
        assert self._placement is not None
        engine = self._placement.free_engine()
        return None if engine is None or not sizes else (engine, self._placement.best_size(engine, sizes))

    def enter(self, live: TrialHandle, engine: int) -> None:
        """Send a trial to the engine, which begins at once, before Tune has a process for it."""
        assert self._placement is not None
        self._placement.put(live.id, live.size, engine)
        self.handles[engine].enter.remote(live.id, live.name, live.run.model_dump(), self.shared)

    def is_on(self, trial_id: str, engine: int) -> None:
        """Note where a trial's row came from: it goes to another engine when its own is gone."""
        assert self._placement is not None
        self._placement.move(trial_id, engine)

    def leave(self, trial_id: str, ended: bool = True) -> None:
        """Free the slot of a trial that has ended, or is to begin anew elsewhere."""
        assert self._placement is not None
        engine = self._placement.remove(trial_id)
        if engine is not None:
            self.handles[engine].leave.remote(trial_id, ended)

    def stop(self, wait_s: float) -> bool:
        """Have every engine end its interval and write checkpoints; False where one was not done after `wait_s`."""
        stopping = [handle.stop.remote() for handle in self.handles]
        return not ray.wait(stopping, num_returns=len(stopping), timeout=wait_s)[1]

    def close(self) -> None:
        """End the engines' processes."""
        for handle in self.handles:
            ray.kill(handle)


def _answer(asked: ray.ObjectRef) -> Any:
    """What an engine said; None where it died or could not say."""
    try:
        return ray.get(asked)
    except RayError:
        return None
