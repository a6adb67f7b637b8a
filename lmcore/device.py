"""From `auto` to a decision: device, dtype, compile mode and threads of a run.

Decided once, before training, and written down with the run, because curves are bit-reproducible only under the same
choice. Does not ask any device itself, so that a driver without torch can decide for its workers.
"""

from lmcore.config import RunSpec, TrainConfig
from lmcore.errors import InputError
from lmcore.machine import Machine
from lmcore.params import flops_per_token

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
