"""The trainers of one device, one per static signature, and everything that a worker does with tensors.

All of it runs in the worker's device thread. This is also where the number of slots of a signature is decided: as many
as were asked for, or as pay by measurement, and fewer once memory has run out.
"""

import gc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcore import columns as col
from lmcore.checkpoint import CheckpointError, write_checkpoint
from lmcore.columns import Row
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.device import resolve_run, this_machine
from lmcore.measure.slot_count import ThroughputSample, choose_slots, speedup
from lmcore.measure.throughput import is_out_of_memory, measure_at, measure_doubling, measure_single
from lmcore.reports import previous_report, tokens_between_reports
from lmcore.trainer import Trainer, with_runtime
from sweeps.engine.device_memory import device_bytes
from sweeps.engine.slot_table import Costs, Signature
from sweeps.rundir.checkpoints import (
    checkpoint_file,
    checkpoint_files,
    drop_old_checkpoints,
    drop_unfinished,
    quarantine,
    step_of,
)

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""A slot's tensors and its JSON, as `Trainer.snapshot_slot` returns them."""


class Trainers:
    """An `lmcore.trainer.Trainer` for each static signature.

    Args:
        slots: slots per signature; None measures how many pay.
        memory_bytes: memory that this process may use on a CPU; on a GPU it is all of the GPU's.

    >>> trainers = Trainers(slots=2, memory_bytes=2**32)  # doctest: +SKIP
    >>> trainers.share(tokens)  # doctest: +SKIP
    >>> trainers.open(run)  # doctest: +SKIP
    (2, Costs(single_s=0.8, batched_s=1.0))
    >>> trainers.load(run.static_signature, 0, run, trial_folder)  # doctest: +SKIP
    >>> rows, snapshots = trainers.advance(run.static_signature, [0], batched=False)  # doctest: +SKIP
    """

    def __init__(self, slots: int | None, memory_bytes: int) -> None:
        self.shared_tokens: Tokens | None = None
        """What all trials train on; None until `share`."""
        self._wanted = slots
        self._memory_bytes = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else memory_bytes
        self._trainers: dict[Signature, Trainer] = {}
        self._samples: dict[Signature, list[ThroughputSample]] = {}
        self._opened: dict[Signature, int] = {}
        """Slots that a signature was last opened with."""
        self._fitting: dict[Signature, int] = {}
        """Slots that fit, for signatures that ran out of memory with more."""
        self._halvings: dict[Signature, int] = {}
        """How often to halve the slots of signatures whose workers keep dying."""
        self._looped: set[Signature] = set()
        """Signatures whose batched program failed."""

    def share(self, tokens: Tokens, samples: Mapping[Signature, list[ThroughputSample]] | None = None) -> None:
        """Take the data that all trials train on, and the averages of what all workers measured."""
        self.shared_tokens = self.shared_tokens or tokens
        self._samples |= samples or {}

    @property
    def _tokens(self) -> Tokens:
        assert self.shared_tokens is not None, "share() comes first"
        return self.shared_tokens

    def samples(self, run: RunSpec) -> list[ThroughputSample]:
        """Throughput by number of slots, measured once per signature; empty if there is nothing to choose."""
        signature = run.static_signature
        if signature not in self._samples:
            if self._wanted is None:
                self._samples[signature] = measure_doubling(run, self._tokens, self._memory_bytes)
            else:
                self._samples[signature] = self._measure_at(run, self._wanted)
        return self._samples[signature]

    def _measure_at(self, run: RunSpec, slots: int) -> list[ThroughputSample]:
        """Throughput of one slot and of `slots`, or of as many as fit into memory."""
        if slots == 1 and run.train.compile and run.train.device == "cpu":  # to be compared with that of the trials
            return [measure_single(run, self._tokens)]
        while slots > 1:
            try:
                return measure_at(run, self._tokens, slots)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            slots //= 2
        return []

    def slots(self, run: RunSpec) -> int:
        """Number of slots of the run's signature."""
        slots = choose_slots(self.samples(run), self._wanted)
        fitting = min(slots, self._fitting.get(run.static_signature, slots))
        return max(1, fitting >> self._halvings.get(run.static_signature, 0))

    def costs(self, run: RunSpec) -> Costs:
        """What an interval of the run's signature costs; zeros if nothing was measured or batching does not work."""
        samples, slots = self.samples(run), self.slots(run)
        if not samples or run.static_signature in self._looped:
            return Costs(single_s=0.0, batched_s=0.0)
        single_s = tokens_between_reports(run) / samples[0].tokens_per_s
        return Costs(single_s, slots * single_s / speedup(samples, slots))

    def open(self, run: RunSpec) -> tuple[int, Costs]:
        """Make the trainer of the run's signature; return its number of slots and the costs of an interval."""
        slots = self.slots(run)
        self._opened[run.static_signature] = slots
        self._trainers[run.static_signature] = Trainer([run] + [None] * (slots - 1), self._tokens)
        return slots, self.costs(run)

    def close(self, signature: Signature) -> None:
        """Free a signature's trainer and its memory."""
        self._trainers.pop(signature, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def cap_slots(self, signature: Signature, halvings: int) -> None:
        """From the next `open` on, halve the signature's slots at least so often."""
        self._halvings[signature] = max(halvings, self._halvings.get(signature, 0))

    def halve_one(self, signatures: Iterable[Signature]) -> Signature | None:
        """From the next `open` on, halve the slots of the first signature that has more than one; return which."""
        for signature in signatures:
            slots = self._opened.get(signature, 1) // 2
            if slots:
                self._fitting[signature] = self._opened[signature] = slots
                return signature
        return None

    def never_batch(self, signature: Signature) -> None:
        """From the next `open` on, train the signature's slots one after the other."""
        self._looped.add(signature)

    def load(self, signature: Signature, slot: int, run: RunSpec, folder: Path) -> tuple[Row | None, list[str]]:
        """Restore the newest valid checkpoint of this run in the trial's folder, or start from step 0.

        Returns its last row, if any, and why checkpoints were skipped, a line each.
        """
        trainer = self._trainers[signature]
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

    def advance(
        self, signature: Signature, slots: list[int], batched: bool
    ) -> tuple[dict[int, Row], dict[int, Snapshot]]:
        """Train until the next report; return rows by slot, and snapshots of the slots whose checkpoint is due.

        The row of a branch comes with the next row of its run, and there may be none yet where a branch is trained.
        """
        trainer = self._trainers[signature]
        # Copies, because checkpoints keep the trainer's rows.
        advanced, held = trainer.advance(slots, batched), device_bytes()
        own = [row for row in advanced if row[col.BRANCH] is None]
        rows: dict[int, Row] = {row[col.SLOT]: {**row, col.DEVICE_BYTES: held} for row in own}
        return rows, {k: trainer.snapshot_slot(k) for k in rows if _checkpoint_is_due(trainer, k)}

    def unsaved(self, signature: Signature, slot: int) -> Snapshot | None:
        """A snapshot of the slot; None if it has not trained since its last checkpoint was due."""
        trainer = self._trainers[signature]
        here = trainer.slots[slot]
        if here is None or (here.step == 0 and here.branch is None):
            return None
        at_report = not here.has_branched and here.last_row is not None and here.last_row[col.STEP] == here.step
        return None if at_report and _checkpoint_is_due(trainer, slot) else trainer.snapshot_slot(slot)

    @staticmethod
    def save(folder: Path, snapshot: Snapshot) -> None:
        """Write a snapshot as the trial's newest checkpoint and delete all but the newest two. Any thread may do it."""
        tensors, state = snapshot
        write_checkpoint(checkpoint_file(folder, state["step"]), tensors, state)
        drop_old_checkpoints(folder)

    @staticmethod
    def is_out_of_memory(error: Exception) -> bool:
        """Whether fewer slots might have fitted."""
        return is_out_of_memory(error)


def _checkpoint_is_due(trainer: Trainer, k: int) -> bool:
    """Whether slot k has finished or has passed a multiple of `train.checkpoint_every` since its last report."""
    slot = trainer.slots[k]
    assert slot is not None
    every = slot.run.train.checkpoint_every or 1
    before = previous_report(slot.run, slot.step)
    return slot.finished or slot.step // every > before // every
