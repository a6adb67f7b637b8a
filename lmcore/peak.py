"""How fast this device multiplies matrices: the yardstick that achieved FLOP/s are held against."""

import statistics
import time

import torch

from lmcore.config import TrainConfig

CPU_SIDE, GPU_SIDE = 1024, 8192
LEAST_S, LEAST_PRODUCTS = 0.3, 5


def matmul_flops_per_s(train: TrainConfig) -> float:
    """Median rate of products of two large square matrices, in FLOP/s (2 n^3 each).

    `train` is resolved (`lmcore.device.resolve`): its device, dtype and number of threads are measured. Whatever else
    the machine does at the time is part of it.
    """
    on_gpu = train.device == "cuda"
    side = GPU_SIDE if on_gpu else CPU_SIDE
    threads = torch.get_num_threads()
    torch.set_num_threads(int(train.threads))
    try:
        a = torch.randn(side, side, device=train.device).to(getattr(torch, train.dtype))
        out = a @ a  # allocates, and warms caches
        rates: list[float] = []
        began = time.perf_counter()
        while len(rates) < LEAST_PRODUCTS or time.perf_counter() - began < LEAST_S:
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            torch.matmul(a, a, out=out)
            if on_gpu:
                torch.cuda.synchronize()
            rates.append(2 * side**3 / (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(rates)
