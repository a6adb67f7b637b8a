"""How fast K slots of a shape train on this device, and how many are worth having: measured, in seconds.

Training is measured uncompiled: compiling would take minutes, and what the slots share (launches, matrix products that
are too small for the device) is much the same. Whatever is allocated here is freed again.
"""

import resource
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.tokens import Tokens
from lmcore.trainer import Trainer

MIN_GAIN = 1.1  # of doubling the slots, in tokens/s
MEMORY_SHARE = 0.8
MAX_SLOTS = 64
LEAST_S = 0.3  # spent on each number of slots, and at least three updates after a first one


class Pace(NamedTuple):
    """What was measured for one number of slots that advance as one program."""

    slots: int
    tokens_per_s: float
    """Of all slots together, evaluation excluded."""
    peak_bytes: int
    """Memory: of the GPU, or of this process."""


def doubling_paces(run: RunSpec, tokens: Tokens, memory_bytes: int, max_slots: int = MAX_SLOTS) -> list[Pace]:
    """Paces at K = 1, 2, 4, ... up to the first K whose gain is below 10 %, or until memory would pass 80 %."""
    paces: list[Pace] = []
    slots = 1
    while slots <= max_slots:
        try:
            paces.append(pace(run, tokens, slots))
        except (RuntimeError, MemoryError) as error:
            if not paces or not is_out_of_memory(error):
                raise
            break
        if len(paces) > 1:
            before, now = paces[-2:]
            per_slot = (now.peak_bytes - before.peak_bytes) / (now.slots - before.slots)
            full = now.peak_bytes + now.slots * per_slot > MEMORY_SHARE * memory_bytes
            if now.tokens_per_s < MIN_GAIN * before.tokens_per_s or full:
                break
        slots *= 2
    return paces


def worthwhile_slots(paces: Sequence[Pace]) -> int:
    """The largest K of doubling paces whose last doubling gained 10 % or more."""
    chosen = paces[0]
    for doubled in paces[1:]:
        if doubled.tokens_per_s < MIN_GAIN * chosen.tokens_per_s:
            break
        chosen = doubled
    return chosen.slots


def pace(run: RunSpec, tokens: Tokens, slots: int) -> Pace:
    """Train `slots` copies of `run` for a moment, as one program."""
    train = run.train.model_copy(
        update={"steps": 2**40, "eval_every": 1, "eval_windows": 1, "checkpoint_every": None, "compile": False}
    )
    probe = run.model_copy(update={"train": train})
    _reset_peak(cuda := torch.cuda.is_available() and train.device != "cpu")
    trainer = Trainer([probe] * slots, tokens)
    trainer.advance(batched=True)  # allocates, and reads the data for the first time
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < LEAST_S:
        rates.append(slots * trainer.advance(batched=True)[0][col.TOKENS_PER_S])
    return Pace(slots, statistics.median(rates), _peak_bytes(cuda))


def _reset_peak(cuda: bool) -> None:
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process, and too high
            Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(cuda: bool) -> int:
    if cuda:
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; on the CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
