"""Benchmarks K = 1, 2, 4, ... copies of a run that train as one batched program, within seconds.

Two slot counts are compared by alternating their updates, so that other load on the machine affects both. The model is
not compiled: compiling would take minutes, and what slots share (kernel launches, matrix products too small to fill the
device) is much the same without it. All memory is freed again. Choosing K is in `lmcore.measure.slot_count`.
"""

import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.corpus.tokens import Tokens
from lmcore.measure.slot_count import MIN_GAIN, ThroughputSample
from lmcore.trainer import Trainer

MEMORY_SHARE = 0.8  # of the device's memory may be used
MAX_SLOTS = 64
MIN_SECONDS, MIN_UPDATES = 1.0, 3
ALONE_S = 0.05
"""An update on a CPU that takes this long is spent in arithmetic. Doubling the slots saves what does not depend on
their number, about 4 ms an update, so it gains less than 5 %: MIN_GAIN needs an update of less than 25 ms. (It gained
16 % at 16 ms, 4 % at 76 ms and nothing at 313 ms: tests/bench/results/packing-cpu.json.)"""


def measure_doubling(
    run: RunSpec, tokens: Tokens, memory_bytes: int, max_slots: int = MAX_SLOTS
) -> list[ThroughputSample]:
    """Benchmark K = 1, 2, 4, ... up to the first K that gains less than MIN_GAIN, or that memory does not allow.
    The device has `memory_bytes`, of which at most MEMORY_SHARE is used. A second slot is not tried on a CPU where
    an update of one takes ALONE_S: that would cost seconds, and its outcome is known.

    >>> samples = measure_doubling(run, tokens, memory_bytes=16 * 2**30)
    >>> slots = choose_slots(samples, wanted=None)
    """
    used = _MemoryMeter(run).start_bytes
    few = _Probe(run, tokens, 1)
    samples = [ThroughputSample(1, few.tokens_per_s(), 1.0, used + few.bytes)]
    if _on_cpu(run) and few.tokens_of_update / samples[0].tokens_per_s >= ALONE_S:
        return samples
    while 2 * few.slots <= max_slots:
        try:
            many = _Probe(run, tokens, 2 * few.slots)
            samples[-1:] = _compare(few, many, samples[-1], used)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        next_would_not_fit = used + 2 * many.bytes > MEMORY_SHARE * memory_bytes
        if samples[-1].gain < MIN_GAIN or next_would_not_fit:
            break
        few = many
    return samples


def measure_at(run: RunSpec, tokens: Tokens, slots: int) -> list[ThroughputSample]:
    """Benchmark one slot and `slots` slots. Raises RuntimeError or MemoryError if memory runs out."""
    used = _MemoryMeter(run).start_bytes
    one = _Probe(run, tokens, 1)
    return _compare(one, _Probe(run, tokens, slots), ThroughputSample(1, 0.0, 1.0, used + one.bytes), used)


def measure_single(run: RunSpec, tokens: Tokens) -> ThroughputSample:
    """Benchmark one slot: the median over MIN_SECONDS and at least MIN_UPDATES updates."""
    used = _MemoryMeter(run).start_bytes
    probe = _Probe(run, tokens, 1)
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < MIN_UPDATES or time.perf_counter() - began < MIN_SECONDS:
        rates.append(probe.tokens_per_s())
    return ThroughputSample(1, statistics.median(rates), 1.0, used + probe.bytes)


def measure_one(run: RunSpec, tokens: Tokens) -> float:
    """Tokens per second of `measure_single`."""
    return measure_single(run, tokens).tokens_per_s


def _on_cpu(run: RunSpec) -> bool:
    return run.train.device == "cpu" or (run.train.device == "auto" and not torch.cuda.is_available())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host ran out of memory; on the CPU torch raises a plain RuntimeError.

    Errors that were raised while that one was handled count too: if memory runs out in the capture of a CUDA graph, the
    capture ends with an error of its own.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


class _Probe:
    """Copies of a run that train as one program, one update at a time; `bytes` is their peak memory."""

    def __init__(self, run: RunSpec, tokens: Tokens, slots: int) -> None:
        reports = {"eval_every": 1, "eval_tokens": None, "eval_windows": 1, "checkpoint_every": None, "branches": None}
        train = run.in_steps().train.model_copy(update={"steps": 2**40, "compile": False, **reports})
        self.slots = slots
        self.tokens_of_update = run.tokens_per_step
        """Of one slot."""
        memory = _MemoryMeter(run)
        self._trainer = Trainer([run.model_copy(update={"train": train})] * slots, tokens)
        self.tokens_per_s()  # warm-up: allocates memory and reads the data for the first time
        self.bytes = memory.peak_bytes() - memory.start_bytes

    def tokens_per_s(self) -> float:
        """Throughput of all slots together in one more update."""
        return self.slots * float(self._trainer.advance(batched=True)[0][col.TOKENS_PER_S])


def _compare(few: _Probe, many: _Probe, few_sample: ThroughputSample, used: int) -> list[ThroughputSample]:
    """Samples of both probes: `few_sample` with its throughput measured again, and a new one for `many`."""
    rates: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(rates) < MIN_UPDATES or time.perf_counter() - began < MIN_SECONDS:
        rates.append((few.tokens_per_s(), many.tokens_per_s()))
    few_rate, many_rate = (statistics.median(rate) for rate in zip(*rates, strict=True))
    gain = statistics.median(b / a for a, b in rates)
    many_sample = ThroughputSample(many.slots, many_rate, gain, used + many.bytes)
    return [few_sample._replace(tokens_per_s=few_rate), many_sample]


class _MemoryMeter:
    """Memory at its creation, and the peak since: of the current GPU if the run trains on one, else of this process.

    An Apple GPU does not tell a peak: what torch has reserved on it, and keeps, is one.
    """

    def __init__(self, run: RunSpec) -> None:
        self._on_mps = run.train.device == "mps"
        self._on_gpu = torch.cuda.is_available() and run.train.device in ("auto", "cuda")
        self.start_bytes = 0
        if self._on_mps:
            torch.mps.empty_cache()
            self.start_bytes = torch.mps.driver_allocated_memory()
        elif self._on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.start_bytes = torch.cuda.memory_allocated()
        else:
            with suppress(OSError):  # only Linux can reset the peak; elsewhere it is that of the process's whole life
                Path("/proc/self/clear_refs").write_text("5")
                self.start_bytes = _status_bytes("VmRSS")

    def peak_bytes(self) -> int:
        if self._on_mps:
            return int(torch.mps.driver_allocated_memory())
        if self._on_gpu:
            return int(torch.cuda.max_memory_allocated())
        with suppress(OSError):
            return _status_bytes("VmHWM")
        return _largest_bytes()


def _largest_bytes() -> int:
    """Most memory that this process ever had; 0 if unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))
