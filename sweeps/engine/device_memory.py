"""How much memory this process holds on its device."""

import os
from pathlib import Path

import torch


def device_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Bytes that PyTorch has reserved on the GPU, or without one the resident memory of this process; 0 if unknown.

    >>> device_bytes() > 0  # on Linux  # doctest: +SKIP
    True
    """
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0
