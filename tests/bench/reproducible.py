"""What `search.reproducible` costs: slot time that is lost because rows are decided on in virtual time.

    python tests/bench/reproducible.py [--seeds 20]

Sweeps of 64 trials run on simulated slots. An interval takes its FLOPs times a random factor, normal with mean 1 and
standard deviation 0.2. Checkpoints and starts take no time. The same sweeps are decided in the order in which rows
arrive, and in virtual time with as many virtual slots as there are slots (`concurrent` 1x), and with twice as many.

results/reproducible.json has for every scheduler and number of slots the median FLOPs per second and slot in arrival
order, and what part of it is lost in virtual time: median, lowest and highest over the seeds.
"""

import argparse
import heapq
import json
import platform
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import InMemoryStorage

from lmcore.columns import Row
from lmcore.cores import cores, processor
from lmcore.reports import next_report
from sweeps.provenance.manifest import commit, versions
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder, Order
from sweeps.study.storage import quiet_optuna
from sweeps.study.trial_handle import TrialHandle
from sweeps.study.virtual_order import VirtualOrder, interval_flops

TRIALS, NOISE = 64, 0.2
SLOTS, SCHEDULERS, FACTORS = (2, 8), ("asha", "hyperband", "asha-stop", "median", "none"), (1, 2)
SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "model.num_layers": {"choices": [1, 2, 3]},
}


def spec(scheduler: str, seed: int) -> SweepSpec:
    """A sweep whose trials differ in size, with eight reports each."""
    search = {"method": "random", "trials": TRIALS, "scheduler": scheduler, "seed": seed, "reproducible": True}
    model, train = {"d_model": 32, "num_layers": 2, "d_ff": 64}, {"steps": 80, "eval_every": 10}
    values = {"name": "cost", "model": model, "train": train, "search": search, "space": SPACE, "confirm": {"top": 0}}
    return SweepSpec.model_validate(values)


def loss_of(handle: TrialHandle, step: int) -> float:
    """A quadratic in log lr, with curves that cross."""
    late = np.random.default_rng(handle.trial.number).random()
    return float(3 + 0.3 * (np.log10(handle.run.optim.lr) + 2) ** 2 + (0.5 + late) * 10 / (step + 10))


def speed(order: Order, slots: int, seed: int) -> float:
    """Train all trials; FLOPs per second and slot, of slots that make 1 FLOP a second."""
    rng = random.Random(seed)
    now, free, flops, started = 0.0, slots, 0, 0
    events: list[tuple[float, int, TrialHandle]] = []

    def train(handle: TrialHandle) -> None:
        nonlocal flops, started
        step = order.known_step(handle.id)
        cost = interval_flops(handle.run, step, next_report(handle.run, step))
        flops, started = flops + cost, started + 1
        heapq.heappush(events, (now + cost * max(0.1, rng.gauss(1, NOISE)), started, handle))

    while True:
        while free and (sizes := order.sizes):
            free -= 1
            train(order.start(sizes[0]))
        if not events:
            return flops / now / slots
        now, _, handle = heapq.heappop(events)
        step = next_report(handle.run, order.known_step(handle.id))
        row: Row = {"step": step, "train_loss": 1.0, "val_loss": loss_of(handle, step), "elapsed_s": 1.0}
        if order.report(handle.id, row):
            train(handle)
        else:
            free += 1
            order.leave(handle.id)


def measure(scheduler: str, slots: int, seeds: int) -> dict[str, Any]:
    """Speeds in arrival order, and the parts lost in virtual time."""
    arrival: list[float] = []
    lost: dict[int, list[float]] = {factor: [] for factor in FACTORS}
    for seed in range(seeds):
        sweep = spec(scheduler, seed)
        base = speed(ArrivalOrder(Ledger(sweep, InMemoryStorage())), slots, seed)
        arrival.append(base)
        for factor in FACTORS:
            order = VirtualOrder(Ledger(sweep, InMemoryStorage()), count=factor * slots)
            lost[factor].append(1 - speed(order, slots, seed) / base)
    return {
        "arrival_speed": round(statistics.median(arrival), 3),
        **{
            f"lost_percent_{factor}x": [round(100 * f(one), 1) for f in (statistics.median, min, max)]
            for factor, one in lost.items()
        },
    }


def main() -> None:
    """Simulate, print a line per case, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    quiet_optuna()
    results: dict[str, Any] = {
        "command": f"python tests/bench/reproducible.py --seeds {seeds}",
        "commit": commit(),
        "versions": versions(),
        "hardware": {"machine": platform.machine(), "processor": processor(), "cores": cores()},
        "trials": TRIALS,
        "noise": NOISE,
        "cases": {},
    }
    for slots in SLOTS:
        for scheduler in SCHEDULERS:
            found = results["cases"][f"{scheduler}, {slots} slots"] = measure(scheduler, slots, seeds)
            print(f"{scheduler}, {slots} slots: {found}", flush=True)
    out = Path(__file__).parent / "results" / "reproducible.json"
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
