"""The engine: one process per device that trains the slots of many trials, an interval at a time.

A Ray actor. Trials enter, ask for row after row, and leave; asking for the row after the newest one is what lets a
trial go on. Which trial sits where is decided in `sweeps.engine.slot_table`, on this process's event loop; tensors are
touched by one device thread alone (`sweeps.engine.trainers`), and another writes checkpoints while it trains on.

What goes wrong stays small. Where memory runs out, trainers that nobody uses are dropped, then the slots are halved,
then a single slot is tried again, and trials continue from their checkpoints; an error of one trial fails that trial.
An engine that dies or hangs (`sweeps.engine.watchdog`) is started again by Ray, and its trials enter anew
(`sweeps.tune.trainable`).
"""

import asyncio
import math
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec, TrainConfig
from lmcore.measure.slot_count import ThroughputSample
from sweeps.cluster.ray_cluster import show_in_dashboard
from sweeps.engine.checkpoint_writer import CheckpointWriter
from sweeps.engine.slot_table import Costs, Signature, SlotTable, Work
from sweeps.engine.worker_trial import YOUR_TURN, Heartbeat, WorkerTrial
from sweeps.rundir.checkpoints import drop_checkpoints
from sweeps.rundir.folder import RunFolder

MEMORY_TRIES = 3
"""How often a trial may run out of memory with a trainer of one slot to itself."""
MEMORY_PAUSE_S = 2.0
"""Before the next try: whoever else took the memory may give it back."""
FORSAKEN_S = 10.0
"""Without anybody who asks for its row, before a trial has to make room for one that is asked for."""
Shared = list[Any]
"""References into the object store: the sweep's data, read-only arrays that all engines of a node share, and the
samples by shape that the engines agreed on (not yet there while they measure)."""


class SlotWorker:
    """Trains trials on this process's device.

    Args:
        number: of this engine, as rows name it.
        folder: the run's folder, which all engines can write to.
        slots: per shape; None measures how many are worthwhile.
        memory_bytes: that this engine may fill on a CPU; a GPU is its own.
    """

    def __init__(self, number: int, folder: str, slots: int | None, memory_bytes: int) -> None:
        from sweeps.engine.trainers import Trainers  # and torch, in the worker, not in the driver that names this class

        self._number = number
        self._folder = RunFolder(Path(folder))
        self._trainers = Trainers(slots, memory_bytes)
        self._table = SlotTable()
        self._trials: dict[str, WorkerTrial] = {}
        self._one_by_one: set[Signature] = set()
        """Shapes whose batched program failed."""
        self._suspects: set[str] = set()
        """Trials whose engine died, and that have no row since: one of them may be the reason."""
        self._device = ThreadPoolExecutor(1, "device")
        self._writer = CheckpointWriter(self._folder)
        self._changed = asyncio.Event()
        self._stopping = False
        self._busy_since: float | None = None
        self._notes: list[str] = []
        self._driving: asyncio.Task[None] | None = None
        self._saving: set[asyncio.Task[None]] = set()
        """Rows and checkpoints under way, those of trials that have left as well."""

    async def measure(self, run: dict[str, Any], shared: Shared) -> list[ThroughputSample]:
        """Paces of the shape of `run` here; none where there is nothing to choose."""
        self._trainers.take(await shared[0])
        try:
            return await self._on_device(self._trainers.samples, RunSpec.model_validate(run))
        except Exception:  # what does not train at all says why when its first trial fails of it
            return []

    async def peak(self, train: dict[str, Any]) -> float:
        """FLOP/s of matrix products here, for the manifest."""
        from lmcore.measure.peak import matmul_flops_per_s

        return await self._on_device(matmul_flops_per_s, TrainConfig.model_validate(train))

    async def enter(self, trial: str, title: str, run: dict[str, Any], shared: Shared, deaths: int = 0) -> None:
        """Take a trial in, to continue from its newest checkpoint if it has one.

        A trial that is here already stays as it is. What is shared comes with each trial, because an engine that was
        started again has none of it, and Ray warns of references among what it is started with.

        Args:
            deaths: how many engines have died with the trial so far. It may have been the reason: until its first row
                it trains alone, and only after its stand-in has heard so. From the second death on there are half as
                many slots for each: nobody tells a process that memory ran out when the system kills it for that.
        """
        self._trainers.take(*[await part for part in shared])
        if deaths and trial not in self._trials:
            self._suspects.add(trial)
            self._trainers.cap_slots(RunSpec.model_validate(run).static_signature, deaths - 1)
        if self._driving is None or self._driving.done():
            self._driving = asyncio.create_task(self._drive())
            self._driving.add_done_callback(self._broke)
        if trial not in self._trials:
            self._trials[trial] = WorkerTrial(RunSpec.model_validate(run), title)
            self._table.enter(trial, self._trials[trial].run.static_signature)
            self._changed.set()

    async def row(self, trial: str, step: int, told: bool = False, proxy: Any = None) -> Row | str | None:
        """The first row after `step` updates, once there is one; None if the trial is not here.

        A suspect's stand-in hears YOUR_TURN first, and asks again with `told`. `proxy` is the handle of who asks.

        Raises:
            RuntimeError: the trial failed; the message is the traceback.
        """
        while (here := self._trials.get(trial)) is not None:
            step = here.known_step = max(here.known_step, step)  # a stand-in that was started again knows less
            if here.error is not None:
                raise here.error
            if here.row is not None and here.row[col.STEP] > step:
                return here.row
            if here.called and not here.told:
                if not told:
                    return YOUR_TURN
                here.told = True
                self._changed.set()
            here.proxy = proxy
            self._go_on_if_known(trial)
            here.news.clear()
            here.asking += 1
            try:
                await here.news.wait()
            finally:
                here.asking -= 1
                here.asked_at = time.monotonic()
        return None

    async def leave(self, trial: str, ended: bool = True) -> None:
        """Give the slot of a trial that has ended, or goes on elsewhere, to the next one.

        A trial that is not here has none to give.
        """
        self._table.leave(trial)
        self._suspects.discard(trial)
        gone = self._trials.pop(trial, None)
        if gone is not None:
            gone.unwanted = ended
            gone.news.set()
            self._changed.set()

    async def ping(self) -> None:
        """Answer, as long as this process answers anything."""

    async def heartbeat(self, hung_after_s: float = math.inf) -> Heartbeat:
        """How it goes; each note is told once.

        A stand-in that does not fetch its row for `hung_after_s` is ended; Tune starts another one.
        """
        now = time.monotonic()
        for trial, here in self._trials.items():
            waits = trial in self._table and self._table.state(trial) == "reported" and not here.asking
            if waits and here.proxy is not None and now - here.asked_at > hung_after_s:
                self._notes.append(f"the process of {trial} hung for {now - here.asked_at:.0f} s and is started again")
                import ray  # loaded in every worker; whoever only names this class need not have it

                ray.kill(here.proxy, no_restart=False)
                here.proxy = None
        notes, self._notes = self._notes, []
        busy_since = [since for since in (self._busy_since, self._writer.busy_since) if since is not None]
        return Heartbeat(now - min(busy_since, default=now), notes, self._writer.full)

    async def stop(self) -> None:
        """Train no further than the interval that is under way, and leave a checkpoint of every trial as it is then."""
        self._stopping = True
        self._changed.set()
        self._writer.stopping = True
        if self._driving is not None:
            await asyncio.wait([self._driving])
        await asyncio.gather(*self._saving)
        for shape in self._table.shapes:
            for trial in self._table.seated(shape):
                await self._save_now(trial)

    async def _drive(self) -> None:
        """Train what is ready, until told to stop."""
        while not self._stopping:
            self._changed.clear()
            self._show()
            if shape_and_trial := self._table.shape_in_need():
                await self._open(*shape_and_trial)
            elif trial_and_slot := self._table.seat_next():
                await self._load(*trial_and_slot)
            elif forsaken := self._forsaken():
                await self._unseat(forsaken)
            elif suspect := self._suspect():
                await self._try(suspect)
            else:
                work = self._table.next_work(time.monotonic())
                if isinstance(work, Work):
                    await self._train(work)
                else:
                    if work is None and any(self._table.waiting(shape) for shape in self._table.shapes):
                        work = FORSAKEN_S / 2
                    try:
                        await asyncio.wait_for(self._changed.wait(), work)
                    except TimeoutError:
                        continue

    def _broke(self, driving: asyncio.Task[None]) -> None:
        """An error of the engine itself: whoever waits for a row is told rather than left waiting."""
        error = None if driving.cancelled() else driving.exception()
        if error is not None:
            for trial in tuple(self._trials):
                self._fail(trial, error)

    async def _open(self, shape: Signature, first: str) -> None:
        """Make the slots of a shape that a trial waits for."""
        run = self._trials[first].run
        try:
            slots, costs = await self._on_device(self._trainers.open, run)
        except Exception as error:
            await self._recover(shape, (first,), error)
            return
        self._table.add_group(shape, slots, Costs(0.0, 0.0) if shape in self._one_by_one else costs)

    async def _load(self, trial: str, slot: int) -> None:
        """Begin or continue a trial in a slot that is free."""
        run = self._trials[trial].run
        folder = self._folder.trial(trial)
        try:
            last_row, skipped = await self._on_device(self._trainers.fill, run.static_signature, slot, run, folder)
        except Exception as error:
            await self._recover(run.static_signature, (trial,), error)
            return
        self._notes += skipped
        if trial not in self._table:
            return
        if last_row is None:
            self._table.ready(trial, time.monotonic())
        else:
            now = time.time()
            self._report(trial, last_row | {col.WIDTH: 1, col.BEGAN_AT: now, col.REPORTED_AT: now})

    def _suspect(self) -> str | None:
        """A suspect that could train now, and whose stand-in is there to hear of it."""
        for shape in self._table.shapes:
            for trial in self._table.seated(shape):
                ready = trial in self._suspects and self._table.state(trial) == "ready"
                here = self._trials[trial]
                if ready and (here.asking or here.told or time.monotonic() - here.asked_at < FORSAKEN_S):
                    return trial
        return None

    async def _try(self, suspect: str) -> None:
        """Train a suspect alone, so that a death is its own; before, have its stand-in hear of it, which counts."""
        here = self._trials[suspect]
        if here.told:
            await self._train(self._table.alone(suspect))
        else:
            here.called = True
            here.news.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), FORSAKEN_S)

    def _forsaken(self) -> str | None:
        """A trial whose row nobody fetches while others, who are asked for, wait for its slot.

        The processes of some stand-ins may have no place any more, on a cluster that has lost a node: those that have
        one must not wait for those that have none.
        """
        now = time.monotonic()
        for shape in self._table.shapes:
            if any(self._trials[trial].asking for trial in self._table.waiting(shape)):
                for trial in self._table.seated(shape):
                    here = self._trials[trial]
                    left_alone = not here.asking and now - here.asked_at > FORSAKEN_S
                    if left_alone and self._table.state(trial) == "reported":
                        return trial
        return None

    async def _unseat(self, trial: str) -> None:
        """Send a trial back to the line, to go on from the checkpoint that it leaves."""
        here = self._trials[trial]
        if here.saving is not None:
            await here.saving
        if trial in self._table:  # it may have ended meanwhile
            await self._save_now(trial)
        if trial in self._table:
            self._table.unseat(trial)

    async def _save_now(self, trial: str) -> None:
        """Write a checkpoint of a trial in a slot, unless it has one of its newest row."""
        shape = self._trials[trial].run.static_signature
        snapshot = await self._on_device(self._trainers.unsaved, shape, self._table.slot(trial))
        if snapshot is not None:
            await self._writer.write(self._trainers.save, self._folder.trial(trial), snapshot)

    async def _train(self, work: Work) -> None:
        """Train an interval; reporting its rows and writing checkpoints goes on beside the next one."""
        trials = {self._table.slot(trial): trial for trial in work.trials}
        began_at = time.time()
        try:
            rows, snapshots = await self._on_device(self._trainers.advance, work.shape, list(trials), work.batched)
        except Exception as error:
            await self._recover(work.shape, work.trials, error)
            return
        times = {col.BEGAN_AT: began_at, col.REPORTED_AT: time.time()}
        width = self._table.slots(work.shape) if work.batched else 1
        self._table.rests(work.shape, time.monotonic())
        for slot, trial in trials.items():
            if trial not in self._table:
                continue  # it left while it trained
            if slot in rows:
                row = rows[slot] | {col.WIDTH: width} | times
                here = self._trials[trial]
                self._suspects.discard(trial)
                here.saving = asyncio.create_task(self._report_and_save(trial, row, snapshots.get(slot), here.saving))
                self._saving.add(here.saving)  # a task that nothing refers to may be collected
                here.saving.add_done_callback(self._saving.discard)
            else:  # the others ran up to their report, this one is not at its own yet
                self._table.ready(trial, time.monotonic())

    async def _report_and_save(self, trial: str, row: Row, snapshot: Any, earlier: asyncio.Task[None] | None) -> None:
        """A row waits for the checkpoint of the row before; the last one for its own, because a complete trial has it.

        So no more than one interval is trained again if this process dies, and the driver decides while a checkpoint
        is being written.
        """
        if earlier is not None:
            await earlier
        here = self._trials.get(trial)
        if here is None:
            return
        last = row[col.STEP] >= here.run.train.steps
        if not last:
            self._report(trial, row)
        if snapshot is not None:
            folder = self._folder.trial(trial)
            try:
                await self._writer.write(self._trainers.save, folder, snapshot)
                if here.unwanted:  # it ended meanwhile
                    await self._writer.write(drop_checkpoints, folder)
            except Exception as error:
                self._fail(trial, error)
                return
        if last:
            self._report(trial, row)

    def _report(self, trial: str, row: Row) -> None:
        if trial not in self._table:
            return
        here = self._trials[trial]
        place = {col.ENGINE: self._number, col.SLOT: self._table.slot(trial), col.RETRIES: here.out_of_memory}
        here.row = row | place
        self._table.reported(trial)
        self._go_on_if_known(trial)
        here.news.set()

    def _go_on_if_known(self, trial: str) -> None:
        """Let a trial go on whose newest row the driver has and has not stopped it for."""
        here = self._trials[trial]
        known = here.row is not None and here.row[col.STEP] <= here.known_step
        if known and trial in self._table and self._table.state(trial) == "reported":
            self._table.ready(trial, time.monotonic())
            self._changed.set()

    def _fail(self, trial: str, error: BaseException) -> None:
        """Free the trial's slot; its next question is answered with its error."""
        self._table.leave(trial)
        self._changed.set()
        here = self._trials.get(trial)
        if here is not None:
            # The traceback as text: the object would hold on to tensors, and Ray's own would hide where it came from.
            here.error = RuntimeError("".join(traceback.format_exception(error)).rstrip())
            here.news.set()

    async def _recover(self, shape: Signature, trials: Sequence[str], error: Exception) -> None:
        """After an error in `trials`, whose slots hold nothing of use now: begin them anew, or fail the only one."""
        to_close = [shape]
        if self._trainers.is_out_of_memory(error):
            if idle := [other for other in self._table.idle_shapes if other != shape]:
                to_close += idle
            else:
                candidates = [shape, *(other for other in self._table.shapes if other != shape)]
                halved = next((some for some in candidates if self._trainers.halve(some)), None)
                if halved is None:
                    here = self._trials.get(trials[0])
                    if here is None or here.out_of_memory + 1 >= MEMORY_TRIES:
                        self._fail(trials[0], error)
                    else:
                        here.out_of_memory += 1
                        await asyncio.sleep(MEMORY_PAUSE_S)
                else:
                    to_close.append(halved)
                    self._notes.append(f"engine {self._number}: out of memory, going on with half the slots")
        elif len(trials) > 1:
            self._one_by_one.add(shape)
        else:
            self._fail(trials[0], error)
            return
        error.__traceback__ = None  # it holds on to the memory that is to be freed
        for some in to_close:
            await self._close(some)

    async def _close(self, shape: Signature) -> None:
        """Give up a shape's slots; its trials wait in line, and continue from their checkpoints."""
        if shape in self._table.shapes:
            # First of all those checkpoints that are being written: they are the newest.
            saving = [self._trials[trial].saving for trial in self._table.seated(shape)]
            await asyncio.gather(*(task for task in saving if task is not None))
            self._table.remove_group(shape)
        await self._on_device(self._trainers.close, shape)

    def _show(self) -> None:
        titles = [self._trials[trial].title for trial in self._table.trials if self._table.slot(trial) is not None]
        show_in_dashboard(f"engine {self._number}: {', '.join(titles) or 'idle'}")

    async def _on_device(self, function: Callable[..., Any], *arguments: Any) -> Any:
        def timed() -> Any:
            self._busy_since = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self._busy_since = None

        return await asyncio.get_running_loop().run_in_executor(self._device, timed)
