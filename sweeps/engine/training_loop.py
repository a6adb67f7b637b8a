"""What a training worker does by itself: load trials into slots, train intervals, report rows, write checkpoints.

`sweeps.engine.worker` explains the states of a trial and how failures are handled; `sweeps.engine.slot_table` decides
what comes next. Everything here runs on the worker's event loop, apart from the device thread and the writer thread.
"""

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from lmcore import columns as col
from lmcore.columns import Row
from sweeps.cluster.titles import show_in_dashboard
from sweeps.engine.checkpoint_writer import CheckpointWriter
from sweeps.engine.death_count import death_charged
from sweeps.engine.environment_fault import (
    MAX_FAULTS,
    EnvironmentFaultError,
    is_device_error,
    is_environment_error,
)
from sweeps.engine.slot_table import Signature, SlotTable, Work
from sweeps.engine.timed_thread import TimedThread
from sweeps.engine.worker_trial import WorkerTrial
from sweeps.rundir.checkpoints import drop_checkpoints
from sweeps.rundir.folder import RunFolder

if TYPE_CHECKING:  # imports torch, which the driver does not need
    from sweeps.engine.trainers import Snapshot, Trainers

MEMORY_TRIES = 3
"""A trial fails when it has run out of memory so often with nothing left to free."""
MEMORY_PAUSE_S = 2.0
"""Pause before such a retry: another process may free memory."""
UNASKED_S = 10.0
"""A trial whose proxy does not ask for so long makes room for one that is asked for."""


class TrainingLoop:
    """The trials of one worker and the task that trains them.

    Args:
        number: the worker's number.
        folder: the run's folder.
        trainers: used in the device thread only.
        fault: says what is wrong with this machine (`sweeps.cluster.proof`); None if nothing is.

    >>> loop = TrainingLoop(0, folder, trainers)  # doctest: +SKIP
    >>> loop.submit("xs-0003", WorkerTrial(run, "xs-0003"), alone=False)  # doctest: +SKIP
    """

    def __init__(
        self, number: int, folder: RunFolder, trainers: "Trainers", fault: Callable[[], str | None] = lambda: None
    ) -> None:
        self.trials: dict[str, WorkerTrial] = {}
        self.notes: list[str] = []
        """News for the user that the next heartbeat takes along."""
        self.unfit: str | None = None
        """Why this machine can train no trials, and the remedy."""
        self.device = TimedThread("device")
        self.writer = CheckpointWriter(folder)
        self._number = number
        self._folder = folder
        self._trainers = trainers
        self._fault = fault
        self._faults_in_a_row = 0
        self._table = SlotTable()
        self._changed = asyncio.Event()
        self._stopping = False
        self._checkpoint_s: float | None = None
        """Seconds that the newest checkpoint took to write."""
        self._task: asyncio.Task[None] | None = None
        self._saving: set[asyncio.Task[None]] = set()
        """Rows and checkpoints on their way, and trials being given back; asyncio keeps no reference to a task."""

    def submit(self, trial: str, here: WorkerTrial, alone: bool) -> None:
        """Queue a trial and start the loop if it is not running."""
        self.trials[trial] = here
        self._table.submit(trial, here.run.static_signature, alone)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._task_ended)

    def release(self, trial: str, ended: bool) -> None:
        """Forget a trial and free its slot. Unknown trials are ignored."""
        self._table.release(trial)
        here = self.trials.pop(trial, None)
        if here is not None:
            here.ended = ended
            here.changed.set()
            self._changed.set()

    async def pause(self, trial: str) -> None:
        """Release a trial once a checkpoint of its newest row is written. Unknown trials are ignored.

        If it cannot be written, the trial will repeat the updates since an older one, with the same numbers.
        """
        here = self.trials.get(trial)
        if here is None:
            return
        try:
            if here.saving is not None:
                await here.saving
            if self._table.slot(trial) is not None and here.row is not None and here.row[col.STEP] > here.saved_step:
                await self._save(trial)
        except Exception as error:
            self.notes.append(f"{trial}: no checkpoint could be written when it was paused ({error})")
        if self.trials.get(trial) is here:
            self.release(trial, ended=False)

    def awaits_proxy(self, trial: str) -> bool:
        """Whether the trial continues as soon as its proxy asks."""
        return trial in self._table and self._table.state(trial) == "reported"

    def continue_if_known(self, trial: str) -> None:
        """Mark a trial ready if the driver has its newest row and has not stopped it.

        After its last row a trial only waits for its release.
        """
        here = self.trials[trial]
        if self.awaits_proxy(trial) and here.row_is_known and not here.finished:
            self._table.mark_ready(trial, time.monotonic())
            self._changed.set()

    async def stop(self) -> None:
        """Finish the interval that is under way, then write a checkpoint of every trial that has a slot."""
        self._stopping = self.writer.stopping = True
        self._changed.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await asyncio.gather(*self._saving)
        for signature in self._table.signatures:
            for trial in self._table.assigned(signature):
                await self._save(trial)

    async def _run(self) -> None:
        while not self._stopping:
            self._changed.clear()
            self._show_title()
            if wanted := self._table.signature_without_slots():
                await self._open(*wanted)
            elif assigned := self._table.assign_next():
                await self._load(*assigned)
            elif unasked := self._unasked():
                await self._requeue(unasked)
            else:
                work = self._table.next_work(time.monotonic())
                if isinstance(work, Work):
                    await self._train(work)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(UNASKED_S / 2 if work is None else work):
                            await self._changed.wait()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """After a bug in this class, fail the trials instead of leaving their proxies waiting."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for trial in tuple(self.trials):
                self._fail(trial, error)

    async def _open(self, signature: Signature, first: str) -> None:
        """Make the slots of a signature, for its first trial in the queue."""
        try:
            slots, costs = await self.device.run(self._trainers.open, self.trials[first].run)
        except Exception as error:
            await self._recover(signature, (first,), error)
        else:
            self._table.add_group(signature, slots, costs)

    async def _load(self, trial: str, slot: int) -> None:
        """Load a trial into the slot that it was assigned."""
        run = self.trials[trial].run
        folder = self._folder.trial(trial)
        try:
            row, skipped = await self.device.run(self._trainers.load, run.static_signature, slot, run, folder)
        except Exception as error:
            await self._recover(run.static_signature, (trial,), error)
            return
        self.notes += skipped
        if self._table.slot(trial) != slot:
            return  # released while it was loaded
        if row is None:
            self._table.mark_ready(trial, time.monotonic())
        else:
            now = time.time()
            self._report(trial, {**row, col.WIDTH: 1, col.BEGAN_AT: now, col.REPORTED_AT: now})

    async def _train(self, work: Work) -> None:
        """Train an interval; its rows are reported and its checkpoints written beside the next one."""
        slots = {slot: trial for trial in work.trials if (slot := self._table.slot(trial)) is not None}
        began_at = time.time()
        try:
            rows, snapshots = await self.device.run(self._advance, work, list(slots))
        except Exception as error:
            await self._recover(work.signature, work.trials, error)
            return
        reported_at = time.time()
        width = self._table.slots(work.signature) if work.batched else 1
        self._table.end_interval(work, time.monotonic())
        for slot, trial in slots.items():
            if self._table.slot(trial) != slot:
                continue  # released while it trained
            here = self.trials[trial]
            if slot not in rows:  # the interval ended at the report of another slot, or at an event of a branch
                here.unreported_s += max(0.0, reported_at - began_at)
                self._table.mark_ready(trial, time.monotonic())
                continue
            times = {col.BEGAN_AT: began_at - here.unreported_s, col.REPORTED_AT: reported_at}
            here.unreported_s = 0.0
            row: Row = {**rows[slot], col.WIDTH: width, **times}  # type: ignore[typeddict-item]
            here.saving = asyncio.create_task(self._report_and_save(trial, row, snapshots.get(slot), here.saving))
            self._saving.add(here.saving)
            here.saving.add_done_callback(self._saving.discard)

    def _advance(self, work: Work, slots: list[int]) -> "tuple[dict[int, Row], dict[int, Snapshot]]":
        folder = self._folder.trial(work.trials[0])
        with death_charged(folder, self._number) if work.alone else nullcontext():
            return self._trainers.advance(work.signature, slots, work.batched)

    async def _report_and_save(
        self, trial: str, row: Row, snapshot: "Snapshot | None", previous: asyncio.Task[None] | None
    ) -> None:
        """Report a row once the previous row's checkpoint is written, then write its own.

        So the driver decides while a checkpoint is being written, and a death costs no more than one interval. The
        last row waits for its own checkpoint as well: a complete trial has one.
        """
        if previous is not None:
            await previous
        here = self.trials.get(trial)
        if here is None:
            return
        last = row[col.STEP] >= here.run.steps
        if not last:
            self._report(trial, row)
        if snapshot is not None:
            folder, began = self._folder.trial(trial), time.monotonic()
            try:
                await self.writer.write(self._trainers.save, folder, snapshot)
                self._checkpoint_s = time.monotonic() - began
                here.saved_step = row[col.STEP]
                if here.ended:
                    await self.writer.write(drop_checkpoints, folder)
            except Exception as error:
                self._fail(trial, error)
                return
        self._faults_in_a_row = 0
        if last:
            self._report(trial, row)

    def _report(self, trial: str, row: Row) -> None:
        slot = self._table.slot(trial)
        if slot is None:
            return  # released, or its slot was given up
        here = self.trials[trial]
        here.row = {**row, col.ENGINE: self._number, col.SLOT: slot, col.RETRIES: here.out_of_memory}
        here.row[col.CHECKPOINT_S] = self._checkpoint_s
        self._table.mark_reported(trial)
        self.continue_if_known(trial)
        here.changed.set()

    def _unasked(self) -> str | None:
        """A trial that has a slot and that nobody asks for, while a trial that is asked for waits for one.

        On a cluster that has lost a node, some proxies may have no place to run; the others must not wait for them.
        """
        now = time.monotonic()
        for signature in self._table.signatures:
            if any(self.trials[trial].asking for trial in self._table.queued(signature)):
                for trial in self._table.assigned(signature):
                    if self.awaits_proxy(trial) and self.trials[trial].unasked_s(now) > UNASKED_S:
                        return trial
        return None

    async def _requeue(self, trial: str) -> None:
        """Move a trial from its slot to the end of the queue; it will continue from a checkpoint."""
        if (saving := self.trials[trial].saving) is not None:
            await saving
        try:
            if trial in self._table:  # it may have been released or failed meanwhile
                await self._save(trial)
        except Exception as error:
            self._fail(trial, error)
        if trial in self._table:
            self._table.requeue(trial)

    async def _save(self, trial: str) -> None:
        """Write a checkpoint of a trial that has a slot, unless its newest checkpoint is up to date."""
        slot = self._table.slot(trial)
        assert slot is not None, f"{trial} has no slot"
        snapshot = await self.device.run(self._trainers.unsaved, self.trials[trial].run.static_signature, slot)
        if snapshot is not None:
            await self.writer.write(self._trainers.save, self._folder.trial(trial), snapshot)

    async def prove(self) -> str | None:
        """What is wrong with this machine, and the remedy; None if nothing is."""
        fault = await self.device.run(self._fault)
        self.unfit = self.unfit or fault
        return self.unfit

    def _fail(self, trial: str, error: BaseException) -> None:
        """Free the trial's slot and have its proxy's next call raise the error."""
        self._table.release(trial)
        self._changed.set()
        here = self.trials.get(trial)
        if here is not None and is_environment_error(error):
            task = asyncio.create_task(self._give_back(trial, here, error))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)
        elif here is not None:
            # As text: the exception object would keep tensors alive, and Ray would hide where it was raised.
            here.error = RuntimeError("".join(traceback.format_exception(error)).rstrip())
            here.changed.set()

    async def _give_back(self, trial: str, here: WorkerTrial, error: BaseException) -> None:
        """Have the trial's proxy submit it elsewhere, after this machine has proved itself once more or failed to."""
        self._faults_in_a_row += 1
        what = f"{trial}: {type(error).__name__}: {error}"
        fault = await self.prove()
        if fault is None and self._faults_in_a_row >= MAX_FAULTS:
            self.unfit = f"{MAX_FAULTS} trials in a row failed there, the last one with {what}; look at that machine"
        here.error = EnvironmentFaultError(self.unfit or what, engine_is_well=self.unfit is None)
        here.changed.set()

    def _die(self, error: BaseException) -> None:
        """End this process, of which Ray starts another one: it can no longer use its GPU."""
        print(f"engine {self._number} starts again: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    async def _recover(self, signature: Signature, trials: Sequence[str], error: Exception) -> None:
        """After an error that made the signature's slots useless: fail the only trial, or start anew with less."""
        give_up = [signature]
        if is_environment_error(error):
            for trial in trials:
                self._fail(trial, error)
            if len(trials) == 1:
                return
        elif is_device_error(error) and not self._trainers.is_out_of_memory(error):
            self._die(error)
        elif self._trainers.is_out_of_memory(error):
            give_up += await self._free_memory(signature, trials[0], error)
        elif len(trials) > 1:
            self._trainers.never_batch(signature)
        else:
            self._fail(trials[0], error)
            return
        error.__traceback__ = None  # its frames keep the memory alive that is to be freed
        for each in give_up:
            await self._close(each)

    async def _free_memory(self, signature: Signature, trial: str, error: Exception) -> list[Signature]:
        """Choose more slots to give up: unused ones, else those of a signature to halve. Without any, retry or fail."""
        others = [other for other in self._table.signatures if other != signature]
        if unused := [other for other in others if other in self._table.unused_signatures]:
            return unused
        halved = self._trainers.halve_one([signature, *others])
        if halved is not None:
            self.notes.append(f"engine {self._number}: out of memory, going on with half the slots")
            return [halved]
        here = self.trials.get(trial)
        if here is None or here.out_of_memory + 1 >= MEMORY_TRIES:
            self._fail(trial, error)
        else:
            here.out_of_memory += 1
            await asyncio.sleep(MEMORY_PAUSE_S)
        return []

    async def _close(self, signature: Signature) -> None:
        """Give up a signature's slots; its trials are queued and continue from their checkpoints."""
        if signature in self._table.signatures:
            saving = [self.trials[trial].saving for trial in self._table.assigned(signature)]
            await asyncio.gather(*(task for task in saving if task is not None))
            self._table.remove_group(signature)
        await self.device.run(self._trainers.close, signature)

    def _show_title(self) -> None:
        titles = [self.trials[trial].title for trial in self._table.trials if self._table.slot(trial) is not None]
        show_in_dashboard(f"engine {self._number}: {', '.join(titles) or 'idle'}")
