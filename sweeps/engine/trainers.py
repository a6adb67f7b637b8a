"""The trainers of one device, one per shape, and what an engine does with them, all of it in its device thread.

How many slots a shape gets is decided here: what was asked for, or what is worthwhile by measurement, or what memory
has room for once it ran out.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError, write_checkpoint
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.device import resolve_run, this_machine
from lmcore.measure.slot_count import ThroughputSample, choose_slots, speedup
from lmcore.measure.throughput import is_out_of_memory, measure_at, measure_doubling
from lmcore.trainer import Trainer, with_runtime
from sweeps.engine.slot_table import Costs, Signature
from sweeps.rundir.checkpoints import (
    checkpoint_file,
    checkpoint_files,
    drop_old_checkpoints,
    drop_unfinished,
    quarantine,
    step_of,
)

Snapshot = tuple[Any, Any]


class Trainers:
    """An `lmcore.trainer.Trainer` for each shape that trials came in.

    Args:
        slots: per shape; None measures how many are worthwhile.
        memory_bytes: that this process may fill on a CPU; a GPU is its own.
    """

    def __init__(self, slots: int | None, memory_bytes: int) -> None:
        self._tokens: Tokens | None = None
        self._wanted = slots
        self._memory_bytes = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else memory_bytes
        self._most: dict[Signature, int] = {}
        """Slots for which there was memory, where it ran out at more."""
        self._halvings: dict[Signature, int] = {}
        self._tried: dict[Signature, int] = {}
        """Slots that shapes were last opened with."""
        self._paces: dict[Signature, list[ThroughputSample]] = {}
        self._trainers: dict[Signature, Trainer] = {}

    def take(self, tokens: Tokens, samples: Mapping[Signature, list[ThroughputSample]] | None = None) -> None:
        """The data that all trials train on, and what all engines together found of the shapes that they measured."""
        self._tokens = self._tokens or tokens
        self._paces |= samples or {}

    def samples(self, run: RunSpec) -> list[ThroughputSample]:
        """Measured once per shape; none where there is nothing to choose."""
        shape = run.static_signature
        if shape not in self._paces:
            if self._wanted is None:
                self._paces[shape] = measure_doubling(run, self._tokens, self._memory_bytes)
            else:
                self._paces[shape] = self._measure_at(run, self._wanted) if self._wanted > 1 else []
        return self._paces[shape]

    def _measure_at(self, run: RunSpec, slots: int) -> list[ThroughputSample]:
        """Paces of one slot and of `slots`, or of as many as memory has room for."""
        while slots > 1:
            try:
                return measure_at(run, self._tokens, slots)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            slots //= 2
        return []

    def slots(self, run: RunSpec) -> int:
        """How many slots its shape has."""
        slots = choose_slots(self.samples(run), self._wanted)
        return max(
            1, min(slots, self._most.get(run.static_signature, slots)) >> self._halvings.get(run.static_signature, 0)
        )

    def open(self, run: RunSpec) -> tuple[int, Costs]:
        """Make the trainer of its shape: the number of its slots, and what an interval costs."""
        slots = self.slots(run)
        self._tried[run.static_signature] = slots
        self._trainers[run.static_signature] = Trainer([run] + [None] * (slots - 1), self._tokens)
        return slots, self.costs(run)

    def costs(self, run: RunSpec) -> Costs:
        """Of an interval of its shape."""
        samples, slots = self.samples(run), self.slots(run)
        if not samples:
            return Costs(single_s=0.0, batched_s=0.0)
        single_s = run.train.eval_every * run.tokens_per_step / samples[0].tokens_per_s
        return Costs(single_s, slots * single_s / speedup(samples, slots))

    def close(self, shape: Signature) -> None:
        """Give up a shape's trainer and its memory."""
        self._trainers.pop(shape, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def cap_slots(self, shape: Signature, halvings: int) -> None:
        """Open the shape with its slots halved so often from now on."""
        self._halvings[shape] = max(halvings, self._halvings.get(shape, 0))

    def halve(self, shape: Signature) -> bool:
        """Open the shape with half its slots from now on; False if that was one slot, or it was never opened."""
        slots = self._tried.get(shape, 1) // 2
        if slots:
            self._most[shape] = self._tried[shape] = slots
        return bool(slots)

    def fill(self, shape: Signature, slot: int, run: RunSpec, folder: Path) -> tuple[Row | None, list[str]]:
        """Restore the newest checkpoint in the trial's folder that is whole and its own, or begin its run.

        Its last row, and why checkpoints were skipped, a line each.
        """
        trainer = self._trainers[shape]
        wanted = resolve_run(run, this_machine())
        skipped = []
        drop_unfinished(folder)
        for file in reversed(checkpoint_files(folder)):
            try:
                trainer.restore_slot(slot, file)
                restored = trainer.slots[slot]
                assert restored is not None
                if restored.step != step_of(file) or restored.run != with_runtime(wanted, restored.run.train):
                    raise CheckpointError(f"{file}: is a checkpoint of another step or run; delete it")
            except (CheckpointError, ValueError, OSError) as error:
                skipped.append(f"{folder.name}: a checkpoint was skipped ({error})")
                quarantine(file)
                continue
            return restored.last_row, skipped
        trainer.load_slot(slot, run)
        return None, skipped

    def advance(self, shape: Signature, slots: list[int], batched: bool) -> tuple[dict[int, Row], dict[int, Snapshot]]:
        """Train an interval: rows by slot, and snapshots of those that are to be saved."""
        trainer = self._trainers[shape]
        rows = {row[col.SLOT]: row for row in trainer.advance(slots, batched)}
        return rows, {k: trainer.snapshot_slot(k) for k in rows if _save_is_due(trainer, k)}

    def unsaved(self, shape: Signature, slot: int) -> Snapshot | None:
        """A snapshot of a slot that has trained since the last one that was due."""
        trainer = self._trainers[shape]
        here = trainer.slots[slot]
        if here is None or here.step == 0:
            return None
        at_report = here.last_row is not None and here.last_row[col.STEP] == here.step
        return None if at_report and _save_is_due(trainer, slot) else trainer.snapshot_slot(slot)

    @staticmethod
    def save(folder: Path, snapshot: Snapshot) -> None:
        """Write a snapshot as the newest checkpoint of the trial that has this folder; in any thread."""
        write_checkpoint(checkpoint_file(folder, snapshot[1]["step"]), *snapshot)
        drop_old_checkpoints(folder)

    @staticmethod
    def is_out_of_memory(error: Exception) -> bool:
        """Whether less at a time might have gone well."""
        return is_out_of_memory(error)


def _save_is_due(trainer: Trainer, k: int) -> bool:
    slot = trainer.slots[k]
    assert slot is not None
    every = slot.run.train.checkpoint_every or 1
    before = slot.step - slot.run.train.eval_every
    return slot.finished or slot.step // every > before // every
