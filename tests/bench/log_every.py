"""What the points of training curves cost: `python tests/bench/log_every.py` writes results/log_every.json.

Two kinds of runs take turns in the slots of one trainer, on one thread: one logs every update, as `train.log_every:
auto` does in runs of up to 300 updates, the other only step 0. They are equal in all else, and make the same losses.

    overhead       wall-clock seconds of a run that logs, over those of its neighbour that does not, less 1: median over
                   the pairs, with the quartiles
    cpu_overhead   the same of the seconds that the processor spent, which other processes disturb less
    point_us       processor time that the trainer spends on a point: to keep, transfer and list its numbers (median)
    share          point_us over the processor time of an update that logs nothing
    report_ms      what the driver spends on a report of 25 points: to encode and append them (median)

The goal is an overhead of at most 1 %.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lmcore import columns as col
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.population.interval_log import IntervalLog
from lmcore.population.population import StepResult
from lmcore.population.slot import Slot
from lmcore.trainer import Trainer
from sweeps.callbacks.curve_file import CurveFile
from sweeps.rundir.folder import RunFolder

GOAL = 0.01
STEPS = 25  # of a run, which makes one report
NEVER = 10**9
VOCAB = 2048
MODELS = {
    "tiny": ({"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 88, "context_length": 32}, 4),
    "small": ({"d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 176, "context_length": 64}, 8),
}
"""Fields of the model, and the batch size: smaller ones than anybody searches, so that a point costs as much as it can.
"""
CASES = (("tiny", 1), ("tiny", 8), ("small", 1))


def seconds_of(trainer: Trainer, run: RunSpec) -> tuple[float, float]:
    """Wall-clock and processor seconds of the updates of this run in all slots, and of one small evaluation."""
    for k in range(len(trainer.slots)):
        trainer.load_slot(k, run)
    wall, cpu = time.perf_counter(), time.process_time()
    rows = trainer.advance()
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    assert {len(row[col.POINTS]) for row in rows} == {len(range(0, STEPS, run.log_every))}
    return seconds


def measure(name: str, slots: int, pairs: int) -> dict[str, Any]:
    """Pairs of runs of this model in so many slots."""
    model, batch_size = MODELS[name]
    ids = np.random.default_rng(0).integers(0, VOCAB, 200_000).astype(np.uint16)
    runs = {
        every: RunSpec(
            model=ModelConfig.model_validate({"vocab_size": VOCAB, **model}),
            train=TrainConfig.model_validate(
                {"steps": STEPS, "batch_size": batch_size, "eval_every": STEPS, "log_every": every}
                | {"eval_windows": 1, "final_eval_windows": 1, "device": "cpu", "compile": False}
            ),
        )
        for every in ("auto", NEVER)
    }
    trainer = Trainer([runs["auto"]] * slots, Tokens.of(ids[:150_000], ids[150_000:], VOCAB))
    ratios: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    for pair in range(-1, pairs):
        order = ("auto", NEVER) if pair % 2 else (NEVER, "auto")
        found = {every: seconds_of(trainer, runs[every]) for every in order}
        if pair >= 0:  # the first pair warms up
            ratios.append((found["auto"][0] / found[NEVER][0] - 1, found["auto"][1] / found[NEVER][1] - 1))
            plain.append(found[NEVER])
    wall, cpu = zip(*ratios, strict=True)
    update_s = statistics.median(spent for _, spent in plain) / STEPS
    point_s = point_seconds(runs, slots)
    row: dict[str, Any] = {"model": name, "slots": slots, "pairs": pairs, "update_ms": 1e3 * update_s}
    row |= {"point_us": 1e6 * point_s, "share": point_s / update_s}
    for column, values in (("overhead", wall), ("cpu_overhead", cpu)):
        low, middle, high = statistics.quantiles(values, n=4)
        row |= {column: middle, f"{column}_quartiles": [low, high]}
    return row


def point_seconds(runs: dict[Any, RunSpec], slots: int, intervals: int = 400) -> float:
    """Processor seconds of a point of all slots: of an interval that logs everything, less one that logs step 0."""
    result = StepResult(torch.rand(slots), torch.rand(slots))
    spent: dict[Any, list[float]] = {every: [] for every in runs}
    for _ in range(intervals):
        for every, run in runs.items():
            began = time.process_time()
            log = IntervalLog([Slot(run)] * slots, STEPS, torch.float64, "cpu")
            for n in range(STEPS):
                log.add(n, result)
            log.read()
            spent[every].append(time.process_time() - began)
    logged, plain = (statistics.median(spent[every]) for every in ("auto", NEVER))
    return (logged - plain) / (STEPS - 1)


def report_ms(reports: int) -> float:
    """Milliseconds of a report in the driver."""
    trial: Any = SimpleNamespace(id="xs-0003", status=col.RUNNING)
    points = [[step, 4.5, 0.75, 1e-3] for step in range(25)]
    spent = []
    with tempfile.TemporaryDirectory() as path:
        file = CurveFile(RunFolder(Path(path)))
        for _ in range(reports):
            began = time.perf_counter()
            file.on_report(trial, {col.POINTS: points})
            spent.append(time.perf_counter() - began)
        file.close()
    return 1e3 * statistics.median(spent)


def main() -> None:
    """Run, print, write the JSON."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "log_every.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, slots in CASES:
        rows.append(measure(name, slots, options.pairs))
        print(rows[-1], flush=True)
    about = {
        "command": " ".join(["python tests/bench/log_every.py", *map(shlex.quote, sys.argv[1:])]),
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "goals": {"overhead": GOAL},
        "report_ms": report_ms(200),
    }
    print(about["report_ms"])
    options.out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
