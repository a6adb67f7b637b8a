"""The training worker: one process per device that trains the slots of many trials, an interval at a time.

`SlotWorker` is an asyncio Ray actor. The driver submits trials to it, and each trial's proxy asks it for row after row
(`sweeps.tune.trainable`). Asking for the row after the newest one is what lets a trial continue. Which trial has which
slot, and what trains next, is decided in `sweeps.engine.slot_table`. Tensors are touched by one thread only
(`sweeps.engine.trainers`); another thread writes checkpoints meanwhile.

The states of a trial here, and who causes each change: D the driver, P the trial's proxy, W the worker.

       submit [D, P]
         |
         v      slot is free [W]            loaded, at step 0 [W]
       queued ------------------> loading -----------------------> ready <-----------+
         ^                           |                               |               |
         |                           | loaded, at a               interval           |
         |                           | checkpoint's row [W]       begins [W]         |
         |                           |                               v               |
         |                           |                            training           | asks for the
         |                           |                               |               | row after the
         |                           |                           row [W]             | newest [P]
         |                           |                               v               |
         |                           +--------------------------> reported ----------+
         |                                                           |
         +-----------------------------------------------------------+
           requeued [W]: nobody asks while others wait; also from any state, when slots are given up to free memory

       any state --> released [D]: it has ended, was stopped, or continues on another worker
       reported --> paused [D]: released once a checkpoint of its newest row is written; it may be submitted again
       any state --> failed [W]: the proxy's next call raises the error; the slot is free
       any state --> gone: this process died; Ray starts it again, and the proxies submit their trials again

Failures stay small:

- An error of the machine (reading, writing, importing, the GPU) is no trial's own: the trial is given back and goes on
  at another worker. A worker that no longer proves itself, or that gives back several trials in a row, is retired.
- An error of one trial fails that trial. If a batched interval fails, the signature's slots are looped from then on.
- Where memory runs out, unused trainers are freed first, then slots are halved, and at last a single slot is retried a
  few times. Trials continue from their checkpoints.
- A trial that nobody asks for (its proxy is gone) is requeued after `UNASKED_S` if it occupies a slot that others need.
- A process that dies or hangs (`sweeps.engine.watchdog`) costs its trials an interval. A batch does not show which of
  its trials killed the process, so each of them trains alone until its next row. Only the trial that trains alone when
  the process dies is charged, and after `MAX_DEATHS` charges it is refused (`sweeps.engine.death_count`). A trial that
  kills every worker thus fails by itself, and its neighbours do not.
"""

import asyncio
import math
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcore.columns import Row
from lmcore.config import RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens, load_tokens
from lmcore.errors import InputError
from lmcore.measure.slot_count import ThroughputSample
from sweeps.cluster.proof import data_fault, device_fault, folder_fault
from sweeps.cluster.titles import device_name
from sweeps.engine.death_count import MAX_DEATHS, deaths
from sweeps.engine.environment_fault import EnvironmentFaultError
from sweeps.engine.training_loop import TrainingLoop
from sweeps.engine.worker_trial import Heartbeat, WorkerTrial
from sweeps.rundir.folder import RunFolder

Shared = list[Any]
"""A reference to the sweep's `Tokens`, of which all workers of a node share one copy; then, once it is known, the
workers' averaged samples by signature."""
FETCH_S = 10.0
"""How long to wait for the tokens from the object store. Ray may ask for the copy of a node that was lost for more
than a minute; they are in the run's folder as well."""


PEAK_S = 0.1
"""How long the peak is measured: every second of the start counts."""


class SlotWorker:
    """Trains trials on this process's device.

    Args:
        number: number of this worker, the column `engine` of its rows.
        folder: the run's folder, which all workers can write to.
        slots: slots per signature; None measures how many pay.
        memory_bytes: memory that this worker may use on a CPU; on a GPU it is all of the GPU's.
        token: what the driver wrote into the run's folder (`sweeps.cluster.proof`); None checks nothing.
        device: train.device, resolved.

    >>> worker = ray.remote(SlotWorker).remote(0, "runs/night", 4, 2**32)  # doctest: +SKIP
    >>> worker.submit.remote("xs-0003", "xs-0003", run, [ray.put(tokens)])  # doctest: +SKIP
    >>> ray.get(worker.row.remote("xs-0003", 0))["val_loss"]  # doctest: +SKIP
    6.31
    """

    def __init__(
        self,
        number: int,
        folder: str,
        slots: int | None,
        memory_bytes: int,
        token: str | None = None,
        device: str = "cpu",
    ) -> None:
        from sweeps.engine.trainers import Trainers  # imports torch, which the driver does not need

        self._number = number
        self._slots = slots
        self._folder = RunFolder(Path(folder))
        self._trainers = Trainers(slots, memory_bytes)
        self._token = token
        self._device = device
        self._proven = token is None
        self._loop = TrainingLoop(number, self._folder, self._trainers, self._fault)

    def __repr__(self) -> str:
        """What Ray's dashboard calls this actor, and its log writes before each line: `Engine(0, cuda:3, 4 slots)`.

        Ray asks for it once, when the actor begins. A number of slots that is to be measured is not known yet.
        """
        slots = "" if self._slots is None else f", {self._slots} slot{'' if self._slots == 1 else 's'}"
        return f"Engine({self._number}, {device_name(self._device)}{slots})"

    def _fault(self) -> str | None:
        if self._token is None:
            return None
        fault = folder_fault(self._folder.path, self._token) or data_fault(self._folder.tokens)
        return fault or device_fault(self._device)

    async def prove(self) -> str | None:
        """Whether this process can train: it sees the run's folder, and torch the device. Returns the fault and its
        remedy in one line, or None."""
        fault = await self._loop.prove()
        self._proven = fault is None
        return fault

    async def measure(self, run: RunSpec, shared: Shared) -> list[ThroughputSample]:
        """Throughput of the run's signature on this device; empty if there is nothing to choose."""
        await self._take(shared)
        try:
            return await self._loop.device.run(self._trainers.samples, run)
        except Exception:  # a run that cannot train says why when its first trial fails
            return []

    async def _take(self, shared: Shared) -> None:
        """Keep what all trials train with."""
        reference, *samples = shared
        tokens = self._trainers.shared_tokens
        if tokens is None:
            try:
                tokens = await asyncio.wait_for(_value(reference), FETCH_S)
            except TimeoutError:
                with suppress(InputError):  # they are not there either
                    tokens = await asyncio.to_thread(load_tokens, self._folder.tokens, mmap=False)
        self._trainers.share(await reference if tokens is None else tokens, *samples)

    async def peak(self, train: TrainConfig) -> float:
        """FLOP/s of matrix products on this device, for the manifest."""
        from lmcore.measure.peak import matmul_flops_per_s

        return await self._loop.device.run(matmul_flops_per_s, train, PEAK_S)

    async def submit(self, trial: str, title: str, run: RunSpec, shared: Shared, worker_deaths: int = 0) -> bool:
        """Queue a trial, to continue from its newest checkpoint if it has one.

        A trial that is here already stays as it is. What is shared comes with each trial, because a worker that was
        restarted has lost it.

        Args:
            worker_deaths: how many workers have died with the trial. If any, it trains alone until its next row. From
                the second on, the slots of its signature are halved each time: a process that the system kills for its
                memory gets no error.

        Returns:
            False if the trial is refused, because it has killed too many workers.

        Raises:
            EnvironmentFaultError: this machine cannot train; submit the trial to another worker.
        """
        if not self._proven or self._loop.unfit:  # this process was started again, or is about to be retired
            fault = await self.prove()
            if fault is not None:
                raise EnvironmentFaultError(fault, engine_is_well=False)
        await self._take(shared)
        if trial in self._loop.trials:
            return True
        here = WorkerTrial(run, title)
        signature = run.static_signature
        charged = deaths(self._folder.trial(trial))
        if charged >= MAX_DEATHS:
            return False
        if worker_deaths:
            self._trainers.cap_slots(signature, worker_deaths - 1)
        self._loop.submit(trial, here, alone=worker_deaths + charged > 0)
        return True

    async def row(self, trial: str, step: int, proxy: Any = None) -> Row | None:
        """Wait for the trial's first row after `step` updates. Asking for it lets the trial train that far.

        Returns None if the trial is not here. `proxy` is the caller's actor handle.

        Raises:
            RuntimeError: the trial failed; the message is the traceback.
            EnvironmentFaultError: this machine failed; the trial is to be submitted to another worker.
        """
        while (here := self._loop.trials.get(trial)) is not None:
            if here.error is not None:
                raise here.error
            here.known_step = max(here.known_step, step)  # a proxy that was restarted knows less
            if here.row is not None and not here.row_is_known:
                return here.row
            here.proxy = proxy
            self._loop.continue_if_known(trial)
            await here.wait()
        return None

    async def release(self, trial: str, ended: bool = True) -> None:
        """Free the slot of a trial that has ended or continues elsewhere. Unknown trials are ignored."""
        self._loop.release(trial, ended)

    async def pause(self, trial: str) -> None:
        """Write a checkpoint of a trial at its newest row, if there is none yet, then free its slot.

        Unknown trials are ignored. The trial may be submitted again, to any worker, and continues from the checkpoint.
        """
        await self._loop.pause(trial)

    async def ping(self) -> None:
        """Return, to show that this process is alive."""

    async def heartbeat(self, hung_after_s: float = math.inf) -> Heartbeat:
        """How this worker is doing; each note is told once.

        A proxy that has a row and does not ask for the next one for `hung_after_s` is killed; Tune starts another one.
        """
        now = time.monotonic()
        for trial, here in self._loop.trials.items():
            unasked_s = here.unasked_s(now)
            if self._loop.awaits_proxy(trial) and here.proxy is not None and unasked_s > hung_after_s:
                self._loop.notes.append(f"the process of {trial} hung for {unasked_s:.0f} s and is started again")
                import ray  # not at the top: tests use this class without Ray

                ray.kill(here.proxy, no_restart=False)
                here.proxy = None
        notes, self._loop.notes = self._loop.notes, []
        threads = (self._loop.device, self._loop.writer)
        busy_since = [thread.busy_since for thread in threads if thread.busy_since is not None]
        return Heartbeat(now - min(busy_since, default=now), notes, self._loop.writer.disk_full, self._loop.unfit)

    async def stop(self) -> None:
        """Finish the interval that is under way, then write a checkpoint of every trial that has a slot."""
        await self._loop.stop()


async def _value(reference: Awaitable[Tokens]) -> Tokens:
    return await reference
