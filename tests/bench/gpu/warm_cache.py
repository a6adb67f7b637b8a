"""Compiles ahead: processes that run each compiled arm once, so that torch's cache on disk has its program later.

A model compiles for 10 to 60 seconds, and there are two dozen. The processes run beside the checks, which are not
timed. What they do not finish is compiled when it is needed.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lmcore.trainer import Trainer
from tests.bench.core_arms import loss_arms, nanogpt_step, our_update, step_trainer, trainer_step, weights_made_once
from tests.bench.gpu.cases import Cases, Timed
from tests.bench.gpu.loss_curves import Mode, chain_tokens, run_of
from tests.bench.race import Arm, forget

LANES = {
    **{"large nanoGPT": 0.24, "large": 0.19, "steps": 0.07, "nanoGPT": 0.06},
    **{"packed": 0.17, "many packed": 0.11, "one by one": 0.02, "checks": 0.03},
}
"""Shares of the GPU's memory that the processes may use at the same time; the checks need some of the rest."""
LARGE, MANY = 768, 32
"""Width of a model, and slots of a packed program, from which they have a lane of their own."""


def jobs(cases: Cases, device: str, nanogpt: Path | None) -> dict[str, list[Callable[[], Arm]]]:
    """What each lane compiles, one after the other."""
    lanes: dict[str, list[Callable[[], Arm]]] = {lane: [] for lane in LANES}
    tokens = chain_tokens(cases.checked.vocab_size)
    runs = [run_of(cases, Mode(device, compiled=True), seed) for seed in range(cases.seeds)]
    lanes["checks"] += [lambda: _interval(Trainer(runs, tokens)), lambda: _interval(Trainer(runs[:1], tokens))]

    def ours(timed: Timed, slots: int = 1) -> Callable[[], Arm]:
        return lambda: trainer_step(step_trainer(timed.model, timed.batch_size, True, device, 1, slots=slots))

    def theirs(folder: Path, timed: Timed) -> Callable[[], Arm]:
        return lambda: nanogpt_step(folder, timed.model, timed.batch_size, True, device)

    for timed in sorted(cases.steps.values(), key=lambda timed: -timed.model.d_model):
        large = timed.model.d_model >= LARGE
        lanes["large" if large else "steps"].append(ours(timed))
        if nanogpt is not None:
            lanes["large nanoGPT" if large else "nanoGPT"].append(theirs(nanogpt, timed))
    for name, timed in cases.packing.items():
        lanes["one by one"].append(ours(timed))
        for slots in cases.compiled_slots.get(name, ()):
            lanes["many packed" if slots >= MANY else "packed"].append(ours(timed, slots))
    fused = "ours fused" if device == "cuda" else "ours"
    lanes["many packed"] += [partial(_loss, *shape, device, fused) for shape in cases.losses.values()]
    lanes["large"] += [partial(our_update, cases.optimizer, k, device, compiled=True) for k in cases.optimizer_slots]
    return lanes


def _loss(positions: int, width: int, vocabulary: int, device: str, name: str) -> Arm:
    return loss_arms(positions, width, vocabulary, device)[name]


def compile_lane(lane: str, cases: Cases, device: str, nanogpt: Path | None) -> None:
    """In a process of its own: run each job of the lane once, and print a line for it."""
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(LANES[lane])
    arm: Arm | None = None
    for number, job in enumerate(jobs(cases, device, nanogpt)[lane]):
        began = time.perf_counter()
        try:
            with weights_made_once():
                arm = job()
            arm()
            outcome = "done"
        except Exception as error:  # whatever it is, the row will meet it too, and say so
            outcome = repr(error)[:200]
        print(f"{number} {time.perf_counter() - began:.1f} s {outcome}", flush=True)
        arm = None
        forget()


class WarmCache:
    """The processes.

    Example::

        cache = WarmCache(["--device", "cuda"])
        ...
        cache.wait(60.0)  # at most; what is not done by then is ended
    """

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-P", "-m", "tests.bench.gpu", *arguments, "--compile-lane"]
        self._processes = {
            lane: subprocess.Popen(
                [*command, lane], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
            for lane in LANES
        }
        atexit.register(self.wait, 0.0)  # also if this process is interrupted

    def wait(self, seconds: float) -> dict[str, list[str]]:
        """Wait for them, at most so long, then end them -> the lines of each lane."""
        end = time.perf_counter() + seconds
        lines = {}
        for process in self._processes.values():
            try:
                process.wait(max(0.0, end - time.perf_counter()))
            except subprocess.TimeoutExpired:
                break
        for lane, process in self._processes.items():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and the processes that compile for it
            lines[lane] = process.communicate()[0].splitlines()
        self._processes = {}
        return lines


def _interval(trainer: Trainer) -> Arm:
    """Up to the first report: training and evaluation are two programs."""
    return lambda: trainer.advance(batched=True)
