"""The measured peak is what a matrix product of this process takes, and leaves torch as it was."""

import time

import torch

from lmcore.config import TrainConfig
from lmcore.device import resolve
from lmcore.peak import CPU_SIDE, matmul_flops_per_s


def test_the_peak_is_the_rate_of_a_large_product():
    threads = torch.get_num_threads()
    train = resolve(TrainConfig(device="cpu"), cuda=False)
    peak = matmul_flops_per_s(train)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    a = torch.randn(CPU_SIDE, CPU_SIDE)
    fastest = min(timed(lambda: a @ a) for _ in range(5))
    torch.set_num_threads(threads)
    assert 0.1 < peak / (2 * CPU_SIDE**3 / fastest) < 3  # a neighbour may take the core meanwhile


def timed(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
