"""Rows `refill`: how long a slot takes from the end of one run to the first update of the next one.

Nothing else happens on the trainer meanwhile, so its neighbours wait as long, less their own update.
"""

import statistics
import time
from typing import Any

import torch

from lmcore.params import count_parameters
from tests.bench.core_arms import step_trainer, trainer_step, weights_made_once
from tests.bench.gpu.cases import Cases, Timed
from tests.bench.race import Arm

REPEATS = 7


def refill_row(timed: Timed, cases: Cases, device: str, until: float) -> dict[str, Any]:
    """Milliseconds, medians: of `Trainer.load_slot`, of it and the first update, and of an update without it.

    Also the least that an update of one slot takes while its neighbours pause, which no CUDA graph serves.
    """
    slots = cases.refill_slots
    with weights_made_once():
        trainer = step_trainer(timed.model, timed.batch_size, False, device, threads=1, slots=slots)
    first = trainer.slots[0]
    assert first is not None
    for _ in range(3):
        trainer_step(trainer)()
    loads: list[float] = []
    refills: list[float] = []
    updates: list[float] = []
    for repeat in range(REPEATS):
        if repeat > 1 and time.perf_counter() > until:
            break
        updates.append(_seconds_of_update(trainer_step(trainer), device))
        run = first.run.model_copy(update={"train": first.run.train.model_copy(update={"seed": 1 + repeat})})
        _wait(device)
        began = time.perf_counter()
        trainer.load_slot(repeat % slots, run)
        _wait(device)
        loads.append(time.perf_counter() - began)
        refills.append(loads[-1] + _seconds_of_update(trainer_step(trainer), device))
    load_s, refill_s, update_s = map(statistics.median, (loads, refills, updates))
    looped = [_seconds_of_update(lambda: trainer._update({0: first}, 1, batched=False), device) for _ in range(5)]
    return {
        "parameters": int(count_parameters(timed.model)),
        "slots": slots,
        "load_ms": round(1e3 * load_s, 3),
        "to_first_update_ms": round(1e3 * refill_s, 3),
        "update_ms": round(1e3 * update_s, 3),
        "neighbours_wait_ms": round(1e3 * (refill_s - update_s), 3),
        "one_slot_of_them_ms": round(1e3 * min(looped), 3),
        "repeats": len(loads),
    }


def _seconds_of_update(arm: Arm, device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    arm()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
