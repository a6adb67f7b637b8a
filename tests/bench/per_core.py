"""Training steps as a sweep runs them: one process per core with one thread each, all at the same time.

Each process holds every arm, and the arms take turns. All processes run the same arm at once, so each finds the caches
and the memory bus as busy as a sweep's engines do. The rate of an arm is the tokens of all processes over the time from
the first start to the last end.
"""

import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lmcore.config import ModelConfig
from tests.bench.core_arms import llama_step, module_step, nanogpt_step, our_step
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


def serve(pipe: Connection, model: ModelConfig, batch_size: int, nanogpt: Path | None) -> None:
    """Answer `(arm, calls)` with the times of its start and end, until the parent says None."""
    torch.set_num_threads(1)
    made: dict[str, Arm] = {}
    makers = arms_of(model, batch_size, nanogpt)
    while (question := pipe.recv()) is not None:
        name, calls = question
        try:
            if name not in made:
                made[name] = makers[name]()
            began = time.perf_counter()
            for _ in range(calls):
                made[name]()
            pipe.send((began, time.perf_counter(), None))
        except Exception:
            pipe.send((0.0, 0.0, traceback.format_exc()))


class Processes:
    """Processes that run the same arm at the same moment. Their clock is the machine's, so times can be compared."""

    def __init__(self, number: int, model: ModelConfig, batch_size: int, nanogpt: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(number):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, model, batch_size, nanogpt), daemon=True)
            process.start()
            theirs.close()  # so that the death of a process ends the wait for its answer
            self._pipes.append(mine)
            self._processes.append(process)

    def seconds(self, name: str, calls: int) -> float:
        """From the first start to the last end of `calls` steps of every process."""
        for pipe in self._pipes:
            pipe.send((name, calls))
        answers = [pipe.recv() for pipe in self._pipes]
        for _, _, error in answers:
            if error is not None:
                raise RuntimeError(error)
        seconds: float = max(ended for _, ended, _ in answers) - min(began for began, _, _ in answers)
        return seconds

    def close(self) -> None:
        """End them."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def race_per_core(
    model: ModelConfig, batch_size: int, nanogpt: Path | None, processes: int, rounds: int
) -> dict[str, Any]:
    """Tokens/s of every arm, and the ratios of ours to each peer in the same round: median and range."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes, as a sweep's are
    names = list(arms_of(model, batch_size, nanogpt))
    workers = Processes(processes, model, batch_size, nanogpt)
    tokens = processes * batch_size * model.context_length
    rates: dict[str, list[float]] = {name: [] for name in names}
    try:
        calls = {}
        for name in names:
            workers.seconds(name, 3)  # makes the arm, compiles it, warms it up
            calls[name] = max(1, round(SECONDS / workers.seconds(name, 1)))
        for n in range(rounds):
            for name in names[n % len(names) :] + names[: n % len(names)]:
                rates[name].append(tokens * calls[name] / workers.seconds(name, calls[name]))
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
