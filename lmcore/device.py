"""From `auto` to a decision: device, dtype, compile mode and threads of a run.

Decided once, before training, and written down with the run, because curves are bit-reproducible only under the same
choice. Does not ask any device itself, so that a driver without torch can decide for its workers.

What the machine offers that `auto` decides by.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lmcore.config import RunSpec, TrainConfig
from lmcore.errors import InputError
from lmcore.params import flops_per_token

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


COMPILE_FLOPS = 2e13
"""On a CPU, compiling takes most of a minute and saves about a tenth of training (tests/bench/results/core-cpu.json).

It pays from about ten minutes of training on, which are so many FLOPs."""


def resolve(train: TrainConfig, machine: Machine, flops: float = 0.0) -> TrainConfig:
    """`train` with every `auto` replaced by what suits `machine`.

    `flops` are those of training the whole run, or the longest of several: short ones are not compiled on a CPU.

    Raises:
        InputError: `train.device: cuda` where there is none.
    """
    if train.device == "cuda" and not machine.cuda:
        raise InputError("train.device: cuda needs a GPU and there is none; use device: auto or device: cpu")
    device = ("cuda" if machine.cuda else "cpu") if train.device == "auto" else train.device
    on_cuda = device == "cuda"
    best_dtype = "bfloat16" if on_cuda or machine.cpu_bfloat16 else "float32"
    return train.model_copy(
        update={
            "device": device,
            "dtype": best_dtype if train.dtype == "auto" else train.dtype,
            "compile": (on_cuda or flops >= COMPILE_FLOPS) if train.compile == "auto" else train.compile,
            "cuda_graphs": on_cuda and train.cuda_graphs is not False,
            "threads": 1 if train.threads == "auto" else train.threads,
        }
    )


def resolve_run(run: RunSpec, machine: Machine) -> RunSpec:
    """`run` with its train config resolved."""
    return run.model_copy(update={"train": resolve(run.train, machine, training_flops(run))})


def training_flops(run: RunSpec) -> float:
    """Of all updates of a run."""
    return float(flops_per_token(run.model)) * run.tokens_per_step * run.train.steps


def why_compile(asked: TrainConfig, resolved: TrainConfig, flops: float) -> str:
    """In a few words whether these runs are compiled, and why."""
    said = "compiled" if resolved.compile else "not compiled"
    if asked.compile != "auto":
        return f"{said}, as train.compile says"
    if resolved.device == "cuda":
        return f"{said}, as auto does on a GPU"
    than = "at least" if resolved.compile else "less than"
    return f"{said}, as the longest run has {flops:.1e} FLOPs, {than} {COMPILE_FLOPS:.0e}"
