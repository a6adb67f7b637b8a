"""Training steps as a sweep runs them: one process per core with one thread each, all at the same time.

Each process holds every arm, and the arms take turns. All processes run the same arm at once, so each finds the caches
and the memory bus as busy as a sweep's engines do. The rate of an arm is the tokens of all processes over the time from
the first start to the last end.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lmcore.config import ModelConfig
from tests.bench.core_arms import llama_step, module_step, nanogpt_step, our_step
from tests.bench.processes import Processes
from tests.bench.race import Arm

OURS = ("ours", "ours compiled")
SECONDS = 2.0  # of an arm in a round


def arms_of(model: ModelConfig, batch_size: int, nanogpt: Path | None) -> dict[str, Callable[[], Arm]]:
    """How to make each arm, by its name; without a checkout of nanoGPT there is none of it."""
    arms: dict[str, Callable[[], Arm]] = {}
    for compiled, suffix in ((False, ""), (True, " compiled")):
        arms[f"ours{suffix}"] = lambda c=compiled: our_step(model, batch_size, c, "cpu", threads=1)  # type: ignore[misc]
        arms[f"nn.Module{suffix}"] = lambda c=compiled: module_step(model, batch_size, c, "cpu")  # type: ignore[misc]
        arms[f"Llama{suffix}"] = lambda c=compiled: llama_step(model, batch_size, c, "cpu")  # type: ignore[misc]
        if nanogpt is not None:
            arms[f"nanoGPT{suffix}"] = lambda c=compiled: nanogpt_step(nanogpt, model, batch_size, c, "cpu")  # type: ignore[misc]
    return arms


class Arms:
    """The arms of one process, made when they are asked for."""

    def __init__(self, model: ModelConfig, batch_size: int, nanogpt: Path | None) -> None:
        torch.set_num_threads(1)
        self._makers = arms_of(model, batch_size, nanogpt)
        self._made: dict[str, Arm] = {}

    def run(self, name: str, calls: int) -> tuple[float, float]:
        """When `calls` steps of an arm began and ended."""
        if name not in self._made:
            self._made[name] = self._makers[name]()
        began = time.perf_counter()
        for _ in range(calls):
            self._made[name]()
        return began, time.perf_counter()


def _seconds(workers: Processes, processes: int, name: str, calls: int) -> float:
    """From the first start to the last end of `calls` steps of every process."""
    times = workers.ask("run", [name] * processes, calls)
    seconds: float = max(ended for _, ended in times) - min(began for began, _ in times)
    return seconds


def race_per_core(
    model: ModelConfig, batch_size: int, nanogpt: Path | None, processes: int, rounds: int
) -> dict[str, Any]:
    """Tokens/s of every arm, and the ratios of ours to each peer in the same round: median and range."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes, as a sweep's are
    names = list(arms_of(model, batch_size, nanogpt))
    workers = Processes(processes, Arms, model, batch_size, nanogpt)
    tokens = processes * batch_size * model.context_length
    rates: dict[str, list[float]] = {name: [] for name in names}
    try:
        calls = {}
        for name in names:
            _seconds(workers, processes, name, 3)  # makes the arm, compiles it, warms it up
            calls[name] = max(1, round(SECONDS / _seconds(workers, processes, name, 1)))
        for n in range(rounds):
            for name in names[n % len(names) :] + names[: n % len(names)]:
                rates[name].append(tokens * calls[name] / _seconds(workers, processes, name, calls[name]))
    finally:
        workers.close()
    ratios = {ours: {peer: ratio(rates[ours], rates[peer]) for peer in names if peer not in OURS} for ours in OURS}
    return {
        "processes": processes,
        "tokens_per_s": {name: round(statistics.median(one)) for name, one in rates.items()},
        "ratios": ratios,
    }


def ratio(mine: list[float], theirs: list[float]) -> dict[str, Any]:
    """Median and range over rounds."""
    found = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {"ratio": round(statistics.median(found), 3), "ratio_range": [round(min(found), 3), round(max(found), 3)]}
