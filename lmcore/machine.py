"""What the machine offers that `auto` decides by."""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""As Linux calls the instructions that multiply bfloat16; without them a CPU is slower in it than in float32."""
ISAS_WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""What the variable ONEDNN_MAX_CPU_ISA can limit oneDNN to, which multiplies for torch, that has no bfloat16."""


class Machine(NamedTuple):
    """Where a run will train."""

    cuda: bool
    """Whether it finds a CUDA device."""
    cpu_bfloat16: bool = False
    """Whether the CPU multiplies bfloat16 by instructions of its own."""


def this_machine() -> Machine:
    """The one that this process runs on."""
    import torch  # a driver knows its cluster, and needs no torch

    return Machine(torch.cuda.is_available(), cpu_bfloat16())


def cpu_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has one of BFLOAT16_FLAGS and may use it; False where there is no such file."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISAS_WITHOUT:
        return False
    return not BFLOAT16_FLAGS.isdisjoint(_flags(cpuinfo))


@cache
def _flags(cpuinfo: Path) -> frozenset[str]:
    """What the file says of its first CPU. Read once: it has a part for every core, and each trial asks."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
