"""CPU cores and memory that this process may use, which in a container or a batch job is not what the machine has."""

import math
import os
import platform
from pathlib import Path

from lmcore.cgroup import PROC, cpu_quota, memory_left

MEMINFO = Path("/proc/meminfo")


def cores(proc: Path = PROC) -> int:
    """CPU cores that this process may use: the smaller of its affinity and its control groups' quota, at least 1.

    A fractional quota is rounded down. macOS has neither, so all of its cores count.

    >>> cores()  # in `taskset -c 0-3`, or in `docker run --cpus 4.5`  # doctest: +SKIP
    4
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(proc)
    return affinity if quota is None else max(1, min(affinity, math.floor(quota + 1e-9)))


def processor() -> str | None:
    """The processor's name. On Linux from /proc/cpuinfo, because platform.processor() is often empty there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def available_memory(meminfo: Path = MEMINFO, proc: Path = PROC) -> int | None:
    """Bytes of memory that this process can still take, on the machine and in its control groups; None if unknown.

    On macOS, which does not say what is free, it is the memory of the machine.
    """
    left = memory_left(proc)
    try:
        lines = meminfo.read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return left
    return free if left is None else min(free, left)
