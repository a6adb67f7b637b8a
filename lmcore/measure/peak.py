"""How fast this device multiplies matrices and copies memory: the yardsticks that achieved rates are held against."""

import statistics
import time
from collections.abc import Callable

import torch

from lmcore.config import TrainConfig

CPU_SIDE, GPU_SIDE = 1024, 8192
CPU_COPY_BYTES, GPU_COPY_BYTES = 2**28, 2**30
"""Sizes of the copied tensor: far beyond caches, of which only a few server CPUs have as much."""
LEAST_S, LEAST_TIMES = 0.3, 5


def matmul_flops_per_s(train: TrainConfig) -> float:
    """Median rate of products of two large square matrices, in FLOP/s (2 n^3 each).

    `train` is resolved (`lmcore.device.resolve`): its device, dtype and number of threads are measured. Whatever else
    the machine does at the time is part of it.
    """
    side = GPU_SIDE if train.device == "cuda" else CPU_SIDE
    a = torch.randn(side, side, device=train.device).to(getattr(torch, train.dtype))
    out = torch.empty_like(a)
    return 2 * side**3 / _median_s(lambda: torch.matmul(a, a, out=out), train)


def copy_bytes_per_s(train: TrainConfig) -> float:
    """Median rate of copying a tensor that no cache holds, in bytes read plus bytes written per second.

    `train` as for `matmul_flops_per_s`; its dtype does not matter.
    """
    size = GPU_COPY_BYTES if train.device == "cuda" else CPU_COPY_BYTES
    source = torch.ones(size // 4, device=train.device)
    target = torch.empty_like(source)
    return 2 * size / _median_s(lambda: target.copy_(source), train)


def _median_s(work: Callable[[], object], train: TrainConfig) -> float:
    """Median seconds of `work`, after a first time that allocates and warms caches."""
    wait: Callable[[], None] = torch.cuda.synchronize if train.device == "cuda" else lambda: None
    threads = torch.get_num_threads()
    torch.set_num_threads(int(train.threads))
    try:
        work()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < LEAST_TIMES or time.perf_counter() - began < LEAST_S:
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times)
