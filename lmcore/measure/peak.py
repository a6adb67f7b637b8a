"""Peak matrix-multiplication rate and memory bandwidth of this device, to compare achieved rates with."""

import statistics
import time
from collections.abc import Callable

import torch

from lmcore.config import TrainConfig
from lmcore.trainer import cpu_threads

CPU_SIDE, GPU_SIDE = 1024, 8192  # rows and columns of the multiplied matrices
CPU_COPY_BYTES, GPU_COPY_BYTES = 2**28, 2**30  # larger than the caches of all but a few server CPUs
MIN_SECONDS, MIN_REPEATS = 0.3, 5


def matmul_flops_per_s(train: TrainConfig, min_seconds: float = MIN_SECONDS) -> float:
    """Median rate of multiplying two large n x n matrices, in FLOP/s (2 n^3 per product).

    They are repeated for `min_seconds`, and MIN_REPEATS times. `train` gives the device, dtype and number of threads;
    it must be resolved (`lmcore.device.resolve`). Other load on the machine lowers the result.

    >>> peak = matmul_flops_per_s(resolve(TrainConfig(), this_machine()))
    """
    side = CPU_SIDE if train.device == "cpu" else GPU_SIDE
    a = torch.randn(side, side, device=train.device).to(getattr(torch, train.dtype))
    out = torch.empty_like(a)
    return 2 * side**3 / _median_s(lambda: torch.matmul(a, a, out=out), train, min_seconds)


def copy_bytes_per_s(train: TrainConfig) -> float:
    """Median rate of copying a tensor that does not fit in a cache, in bytes read plus written per second.

    `train` as for `matmul_flops_per_s`; its dtype does not matter.
    """
    size = CPU_COPY_BYTES if train.device == "cpu" else GPU_COPY_BYTES
    source = torch.ones(size // 4, device=train.device)
    target = torch.empty_like(source)
    return 2 * size / _median_s(lambda: target.copy_(source), train)


def _median_s(function: Callable[[], object], train: TrainConfig, min_seconds: float = MIN_SECONDS) -> float:
    """Median duration of `function` in seconds, after one warm-up call."""
    waits: dict[str, Callable[[], None]] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    synchronize = waits.get(train.device, lambda: None)
    times: list[float] = []
    with cpu_threads(int(train.threads)):
        function()
        began = time.perf_counter()
        while len(times) < MIN_REPEATS or time.perf_counter() - began < min_seconds:
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times)
