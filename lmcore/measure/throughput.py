"""Measures how fast K slots of a shape train on this device, in seconds.

Numbers of slots are compared by updates in turn, so that whatever else the machine does meets both. Training is
measured uncompiled: compiling would take minutes, and what the slots share (launches, matrix products that are too
small for the device) is much the same. Whatever is allocated here is freed again.
"""

import resource
import statistics
import time
from contextlib import suppress
from pathlib import Path

import torch

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.measure.slot_count import MIN_GAIN, ThroughputSample
from lmcore.trainer import Trainer

MEMORY_SHARE = 0.8
MAX_SLOTS = 64
LEAST_S, LEAST_PAIRS = 1.0, 3  # spent on each comparison


class _Probe:
    """Copies of a run that train as one program, an update at a time."""

    def __init__(self, run: RunSpec, tokens: Tokens, slots: int) -> None:
        train = run.train.model_copy(
            update={"steps": 2**40, "eval_every": 1, "eval_windows": 1, "checkpoint_every": None, "compile": False}
        )
        self.slots = slots
        memory = _GpuMemory() if torch.cuda.is_available() and train.device != "cpu" else _HostMemory()
        self._trainer = Trainer([run.model_copy(update={"train": train})] * slots, tokens)
        self.tokens_per_s()  # allocates, and reads the data for the first time
        self.bytes = memory.peak() - memory.before
        """That it took at most, beside what was taken already."""

    def tokens_per_s(self) -> float:
        """Of one more update of all slots together."""
        return self.slots * float(self._trainer.advance(batched=True)[0][col.TOKENS_PER_S])


def measure_doubling(
    run: RunSpec, tokens: Tokens, memory_bytes: int, max_slots: int = MAX_SLOTS
) -> list[ThroughputSample]:
    """Paces at K = 1, 2, 4, ... up to the first K whose gain is below 10 %, or until memory would pass 80 %."""
    used = _used_bytes(run)
    few = _Probe(run, tokens, 1)
    samples = [ThroughputSample(1, few.tokens_per_s(), 1.0, used + few.bytes)]
    while 2 * few.slots <= max_slots:
        try:
            many = _Probe(run, tokens, 2 * few.slots)
            samples = [*samples[:-1], *_compare(few, many, samples[-1], used)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        full = used + 2 * many.bytes > MEMORY_SHARE * memory_bytes
        if samples[-1].gain < MIN_GAIN or full:
            break
        few = many
    return samples


def measure_at(run: RunSpec, tokens: Tokens, slots: int) -> list[ThroughputSample]:
    """Paces of one slot and of `slots`.

    Raises:
        RuntimeError, MemoryError: among others, where memory runs out (`is_out_of_memory`).
    """
    used = _used_bytes(run)
    one = _Probe(run, tokens, 1)
    return _compare(one, _Probe(run, tokens, slots), ThroughputSample(1, 0.0, 1.0, used + one.bytes), used)


def _compare(few: _Probe, many: _Probe, before: ThroughputSample, used: int) -> list[ThroughputSample]:
    """The sample of `few`, which was `before`, and that of `many`."""
    rates: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(rates) < LEAST_PAIRS or time.perf_counter() - began < LEAST_S:
        rates.append((few.tokens_per_s(), many.tokens_per_s()))
    slower, faster = (statistics.median(rate) for rate in zip(*rates, strict=True))
    gain = statistics.median(b / a for a, b in rates)
    return [before._replace(tokens_per_s=slower), ThroughputSample(many.slots, faster, gain, used + many.bytes)]


def _used_bytes(run: RunSpec) -> int:
    """Memory that is in use before anything is measured."""
    return (_GpuMemory() if torch.cuda.is_available() and run.train.device != "cpu" else _HostMemory()).before


class _GpuMemory:
    """Allocated bytes of the current GPU."""

    def __init__(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.before: int = torch.cuda.memory_allocated()

    def peak(self) -> int:
        """Since this object was made."""
        return int(torch.cuda.max_memory_allocated())


class _HostMemory:
    """Resident bytes of this process."""

    def __init__(self) -> None:
        self.before = 0
        with suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process, and too high
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status_bytes("VmRSS")

    def peak(self) -> int:
        """Since this object was made."""
        with suppress(OSError):
            return _status_bytes("VmHWM")
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; on the CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
