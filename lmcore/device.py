"""From `auto` to a decision: the device, dtype, compile mode and threads of a run, and the facts that decide them.

Decided once, before training, and saved with the run, because curves are bit-reproducible only under the same choice.
Loads without torch, and only `this_machine` imports it, so a driver without torch can decide for its workers.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lmcore.branches import updates_by
from lmcore.compile_work import CompileWork
from lmcore.config import RunSpec, TrainConfig
from lmcore.errors import InputError
from lmcore.params import flops_per_token

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""CPU flags, as Linux spells them, of bfloat16 multiplication. A CPU without them is slower in bfloat16."""
ISAS_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of ONEDNN_MAX_CPU_ISA that disable oneDNN's bfloat16 kernels, which torch uses."""
BFLOAT16_WIDTH = 256
"""Width of a model from which `dtype: auto` multiplies in bfloat16 on a CPU with instructions for it. Casts and slower
attention cost more than the products of narrower models save: in float32 a step of width 128 takes three quarters of
the time, one of width 256 takes 1.4 times as long (row `step` of tests/bench/results/core-cpu.json)."""
NO_WORK = CompileWork(0.0)


class Machine(NamedTuple):
    """Whether the machine that trains has a CUDA device, bfloat16 instructions in its CPU, and an Apple GPU."""

    cuda: bool
    cpu_bfloat16: bool = False
    mps: bool = False


def this_machine() -> Machine:
    """The machine that this process runs on."""
    import torch

    return Machine(torch.cuda.is_available(), cpu_bfloat16(), torch.backends.mps.is_available())


def cpu_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has one of BFLOAT16_FLAGS and oneDNN may use it; False if `cpuinfo` cannot be read."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISAS_WITHOUT_BFLOAT16:
        return False
    return not BFLOAT16_FLAGS.isdisjoint(_cpu_flags(cpuinfo))


@cache
def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """Flags of the first CPU. Cached: the file has a section for every core, and every trial asks."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def resolve(
    train: TrainConfig, machine: Machine, work: CompileWork = NO_WORK, width: int = BFLOAT16_WIDTH
) -> TrainConfig:
    """`train` with every `auto` replaced by what suits `machine`.

    >>> resolve(TrainConfig(), Machine(cuda=False)).dtype
    'float32'

    On a CPU, runs are compiled if that pays for the `work` of one process, and multiply in bfloat16, where it can, if
    the narrowest model has at least a `width` of BFLOAT16_WIDTH. An Apple GPU is used only where
    `train.device` is mps. Raises InputError for a device that is not there.
    """
    if train.device == "cuda" and not machine.cuda:
        raise InputError("train.device: cuda needs a GPU and there is none; use device: auto or device: cpu")
    if train.device == "mps":
        if not machine.mps:
            rule = "mps needs the GPU of a Mac and a torch that can use it, and there is none"
            raise InputError(f"train.device: {rule}; use device: auto or device: cpu")
        threads = 1 if train.threads == "auto" else train.threads
        fixed = {"dtype": "float32", "compile": False, "cuda_graphs": False, "threads": threads}
        return train.model_copy(update=fixed)
    on_cuda = machine.cuda and train.device != "cpu"
    if train.cuda_graphs is True and not on_cuda:
        rule = "true needs a CUDA device, and the run is to train on a CPU"
        raise InputError(f"train.cuda_graphs: {rule}; leave it out, or use device: cuda")
    best_dtype = "bfloat16" if on_cuda or (machine.cpu_bfloat16 and width >= BFLOAT16_WIDTH) else "float32"
    return train.model_copy(
        update={
            "device": "cuda" if on_cuda else "cpu",
            "dtype": best_dtype if train.dtype == "auto" else train.dtype,
            "compile": (on_cuda or work.pays) if train.compile == "auto" else train.compile,
            "cuda_graphs": on_cuda and train.cuda_graphs is not False,
            "threads": 1 if train.threads == "auto" else train.threads,
        }
    )


def resolve_run(run: RunSpec, machine: Machine) -> RunSpec:
    """`run` with its train config resolved for a process that trains nothing else.

    What torch's cache holds has no say: runs that are resolved one after the other must come to the same.
    """
    work = CompileWork(spent_flops(run))
    return run.model_copy(update={"train": resolve(run.train, machine, work, run.model.d_model)})


def training_flops(run: RunSpec) -> float:
    """FLOPs of all updates of a run, without those of its branches: what its model is trained with."""
    return float(flops_per_token(run.model)) * run.tokens_per_step * run.steps


def spent_flops(run: RunSpec, step: int | None = None) -> float:
    """FLOPs of a run and its branches up to the run's update `step`, by default up to its end: what it costs."""
    updates = updates_by(run, run.steps if step is None else step)
    return float(flops_per_token(run.model)) * run.tokens_per_step * updates


def why_compile(asked: TrainConfig, resolved: TrainConfig, work: CompileWork) -> str:
    """Whether runs are compiled, and why, in a few words for the user; `work` is what `resolve` was given."""
    said = "compiled" if resolved.compile else "not compiled"
    if asked.compile != "auto":
        return f"{said}, as train.compile says"
    if resolved.device == "cuda":
        return f"{said}, as auto does on a GPU"
    if resolved.device == "mps":
        return f"{said}, as auto does on an Apple GPU"
    return f"{said}: {work.reason}"
