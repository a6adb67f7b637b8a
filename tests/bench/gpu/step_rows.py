"""Rows `step`: an update of one run, against compiled nanoGPT and against the roofline bound of this device."""

from pathlib import Path
from typing import Any, NamedTuple

from lmcore.config import RunSpec, TrainConfig
from lmcore.measure.peak import copy_bytes_per_s, matmul_flops_per_s
from lmcore.params import count_parameters, flops_per_token
from lmcore.profile.roofline import update_operations
from tests.bench.core_arms import dtype_on, nanogpt_step, repeated, step_trainer, trainer_step, weights_made_once
from tests.bench.gpu.cases import Cases, Timed
from tests.bench.race import Arm, compared, race

THREADS = 1


class Ceilings(NamedTuple):
    """What the device can do, as measured."""

    flops_per_s: float
    bytes_per_s: float


def ceilings(device: str) -> Ceilings:
    """Rate of a large matrix product in the dtype of training, and bandwidth of a large copy, read plus written."""
    train = _train(device)
    return Ceilings(matmul_flops_per_s(train), copy_bytes_per_s(train))


def step_arms(timed: Timed, device: str, nanogpt: Path | None, quick: bool) -> dict[str, Arm]:
    """Arms of `timed.updates` updates each. nanoGPT is compiled, but in quick runs."""
    model, batch_size, updates = timed

    def ours(compiled: bool) -> Arm:
        return trainer_step(step_trainer(model, batch_size, compiled, device, THREADS), updates)

    with weights_made_once():
        arms = {"ours": ours(False), "ours compiled": ours(True)}
    if nanogpt is not None:
        name = "nanoGPT" if quick else "nanoGPT compiled"
        arms[name] = repeated(nanogpt_step(nanogpt, model, batch_size, not quick, device), updates)
    return arms


def step_row(
    timed: Timed, cases: Cases, device: str, nanogpt: Path | None, limits: Ceilings, quick: bool, until: float
) -> dict[str, Any]:
    """Milliseconds of an update by arm, ratio to nanoGPT's best, share of the bound and of the peak."""
    arms = step_arms(timed, device, nanogpt, quick)
    times = race(arms, cases.rounds, device, cases.turn_s, until)
    per_update = {name: [seconds / timed.updates for seconds in rounds] for name, rounds in times.items()}
    ours = tuple(name for name in arms if name.startswith("ours"))
    peers = tuple(name for name in arms if name not in ours)
    found = compared(per_update, ours, peers or ours)
    if not peers:
        found |= {"peer": None, "ratio": None, "ratio_range": None}
    update_s = found["ms"][found["ours"]] / 1e3
    run = RunSpec(model=timed.model, train=_train(device).model_copy(update={"batch_size": timed.batch_size}))
    bound_s = sum(operation.bound_s(*limits) for operation in update_operations(run, slots=1))
    flops_per_s = flops_per_token(timed.model) * run.tokens_per_step / update_s
    return found | {
        "parameters": int(count_parameters(timed.model)),
        "tied": timed.model.tie_embeddings,
        "batch_size": timed.batch_size,
        "rounds": len(next(iter(times.values()))),
        "tokens_per_s": round(run.tokens_per_step / update_s),
        "flops_per_s": round(flops_per_s),
        "share_of_peak": round(flops_per_s / limits.flops_per_s, 4),
        "bound_ms": round(1e3 * bound_s, 4),
        "share_of_bound": round(bound_s / update_s, 4),
    }


def _train(device: str) -> TrainConfig:
    """Resolved as the arms' runs are."""
    train = TrainConfig(threads=THREADS, compile=False)
    return train.model_copy(update={"device": device, "dtype": dtype_on(device), "cuda_graphs": device == "cuda"})
