"""Measured peaks agree with a directly timed matrix product and copy, and torch's thread count is restored."""

import time

import torch

import lmcore.measure.peak
from lmcore.config import TrainConfig
from lmcore.device import Machine, resolve
from lmcore.measure.peak import CPU_SIDE, copy_bytes_per_s, matmul_flops_per_s


def test_the_peak_is_the_rate_of_a_large_product():
    threads = torch.get_num_threads()
    train = resolve(TrainConfig(device="cpu"), Machine(cuda=False))
    peak = matmul_flops_per_s(train)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    a = torch.randn(CPU_SIDE, CPU_SIDE)
    fastest = min(timed(lambda: a @ a) for _ in range(5))
    torch.set_num_threads(threads)
    assert 0.1 < peak / (2 * CPU_SIDE**3 / fastest) < 3  # other processes may take the core meanwhile


def timed(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def test_the_bandwidth_counts_reading_and_writing_a_large_tensor(monkeypatch):
    monkeypatch.setattr(lmcore.measure.peak, "CPU_COPY_BYTES", 2**27)
    bandwidth = copy_bytes_per_s(resolve(TrainConfig(device="cpu"), Machine(cuda=False)))
    source = torch.ones(2**25)
    target = torch.ones(2**25)
    fastest = min(timed(lambda: target.copy_(source)) for _ in range(5))
    assert 0.1 < bandwidth / (2 * 2**27 / fastest) < 3
