"""How many trials until a good setting, if smaller sizes are known? On the open table of Step Law (Li et al., 2025).

    python tests/bench/transfer.py [--arm ours tpe] [--seeds 50] [--processes 2] [--out FILE]

The table (../shared/data/steplaw_dense.csv) has final losses of 17 cells (N parameters, D tokens), each for about 120
pairs of learning rate and batch size. Each cell with at least `KNOWN` smaller ones (by N D) is searched once per seed;
only cells of smaller N D are known. A proposal has the loss of the nearest pair that was not tried yet, for every arm.
Counted are the trials until one is within 0.1 % and 0.25 % of the lowest loss of the cell, at most `MOST`.

| arm | proposes |
|---|---|
| random, tpe, gp | as `search.method` does, without any other cell |
| formula | Step Law's formula first, then as gp; it was fitted on this table, the cell included |
| nearest | the best pair of the largest smaller cell first, then as gp |
| ours | `sweeps.study.transfer`, which knows all trials of smaller cells; its prior is not from this table |
| neutral | ours with a prior by which nothing moves |
| few | ours, knowing 16 random trials of each smaller cell |
| shuffled, mirrored | ours, misled: losses of smaller cells belong to other pairs; their optima are at the other end |
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from lmcore import columns as col
from lmcore.cores import processor
from lmcore.measure.optimum_law import Slopes
from sweeps.provenance.manifest import commit, versions
from sweeps.spec.settings import SearchConfig
from sweeps.study.samplers import AskedTrial, sampler_for
from sweeps.study.storage import quiet_optuna
from sweeps.study.transfer import KnownTrials, Transfer

HERE = Path(__file__).parent
TABLE = HERE.parents[2] / "shared" / "data" / "steplaw_dense.csv"
OUT = HERE / "results" / "transfer.json"
LR, BATCH = "optim.lr", "train.batch_size"
CONTEXT = 2048
"""Tokens of a window of Step Law's models."""
KNOWN = 4
MOST = 40
STARTUP = 4
TOLERANCES = (0.001, 0.0025)
FEW = 16
METHODS = ("random", "tpe", "gp")
OURS = ("ours", "neutral", "few", "shuffled", "mirrored")
ARMS = (*METHODS, "formula", "nearest", *OURS)


class Cell(NamedTuple):
    """The runs of one size."""

    N: float
    D: float
    lr: Any  # [n]
    batch: Any  # windows, [n]
    loss: Any  # [n]

    @property
    def places(self) -> Any:
        """Logarithms of the settings, [n, 2]."""
        return np.log(np.stack([self.lr, self.batch], axis=1))

    def nearest(self, lr: float, batch: float, tried: Sequence[int]) -> int:
        """The place of the pair that is nearest to this one and was not tried yet."""
        distance = ((self.places - np.log([lr, batch])) ** 2).sum(axis=1)
        distance[list(tried)] = math.inf
        return int(distance.argmin())

    def known(self, order: Sequence[int] | None = None) -> KnownTrials:
        """All its runs, or some, as trials."""
        chosen = range(len(self.loss)) if order is None else order
        return KnownTrials(np.log([self.N, self.D]), [_trial(self, place, i) for i, place in enumerate(chosen)])


@cache
def cells() -> tuple[Cell, ...]:
    """The cells by N D, with the smoothed losses that Step Law's authors use."""
    table = pd.read_csv(TABLE)
    table = table[np.isfinite(table["smooth loss"])]
    found = [
        Cell(float(n), float(d), *(group[name].to_numpy(float) for name in ("lr", "bs", "smooth loss")))
        for (n, d), group in table.groupby(["N", "D"])
    ]
    return tuple(sorted(found, key=lambda cell: cell.N * cell.D))


@cache
def space() -> dict[str, FloatDistribution]:
    """The range of all pairs in the table."""
    lr, batch = (np.concatenate([getattr(cell, name) for cell in cells()]) for name in ("lr", "batch"))
    return {
        LR: FloatDistribution(float(lr.min()), float(lr.max()), log=True),
        BATCH: FloatDistribution(float(batch.min()), float(batch.max()), log=True),
    }


def _trial(cell: Cell, place: int, number: int) -> FrozenTrial:
    params = {LR: float(cell.lr[place]), BATCH: float(cell.batch[place])}
    trial = optuna.create_trial(params=params, distributions=dict(space()), value=float(cell.loss[place]))
    trial.number = number
    trial.user_attrs = {col.STATUS: col.COMPLETE}
    return trial


def proposed(method: str, cell: Cell, tried: Sequence[int], seed: int) -> tuple[float, float]:
    """What a search method of ours proposes after these trials."""
    study = optuna.create_study()
    for number, place in enumerate(tried):
        study.add_trial(_trial(cell, place, number))
    asked = AskedTrial(f"{cell.N:g}-{cell.D:g}", len(tried), STARTUP)
    study.sampler = sampler_for(SearchConfig(method=method, seed=seed), asked, dict(space()))
    params = study.ask(dict(space())).params
    return params[LR], params[BATCH]


def published(cell: Cell) -> tuple[float, float]:
    """Step Law's formula: learning rate, and batch size in windows of CONTEXT tokens."""
    return 1.79 * cell.N**-0.713 * cell.D**0.307, 0.58 * cell.D**0.571 / CONTEXT


def search(arm: str, target: int, seed: int) -> list[int]:
    """Places of the pairs that are tried in the cell at `target`, up to one within the smaller tolerance."""
    cell, smaller = cells()[target], cells()[:target]
    propose = _proposer(arm, cell, smaller, seed)
    tried: list[int] = []
    while len(tried) < MOST:
        tried.append(cell.nearest(*propose(tried), tried))
        if cell.loss[tried[-1]] <= cell.loss.min() * (1 + min(TOLERANCES)):
            break
    return tried


def _proposer(arm: str, cell: Cell, smaller: Sequence[Cell], seed: int) -> Callable[[list[int]], tuple[float, float]]:
    if arm in METHODS:
        return lambda tried: proposed(arm, cell, tried, seed)
    if arm in OURS:
        slopes = Slopes(np.zeros((2, 2)), np.full((2, 2), 0.15)) if arm == "neutral" else None
        transfer = Transfer(space(), slopes=slopes)
        known = [_told(arm, one, seed) for one in smaller]

        def ours(tried: list[int]) -> tuple[float, float]:
            found = transfer.propose(len(tried), known, cell.known(tried), seed=seed)
            return (found.values[LR], found.values[BATCH]) if found else proposed("gp", cell, tried, seed)

        return ours
    last = smaller[-1]
    best = int(last.loss.argmin())
    first = published(cell) if arm == "formula" else (float(last.lr[best]), float(last.batch[best]))
    return lambda tried: proposed("gp", cell, tried, seed) if tried else first


def _told(arm: str, cell: Cell, seed: int) -> KnownTrials:
    """What the arm is told of a smaller cell."""
    rng = np.random.default_rng([seed, int(cell.N), int(cell.D)])
    if arm == "shuffled":
        cell = cell._replace(loss=rng.permutation(cell.loss))
    if arm == "mirrored":
        ends = {name: (one.low, one.high) for name, one in space().items()}
        lr, batch = (
            np.clip(low * high / values, low, high)
            for (low, high), values in ((ends[LR], cell.lr), (ends[BATCH], cell.batch))
        )
        cell = cell._replace(lr=lr, batch=batch)
    return cell.known(rng.permutation(len(cell.loss)).tolist()[:FEW] if arm == "few" else None)


def counted(task: tuple[str, int, int]) -> list[int]:
    """Trials until each tolerance, MOST + 1 if never, and the share in 1e-6 by which the first is above the best."""
    quiet_optuna()
    arm, target, seed = task
    cell = cells()[target]
    excess = cell.loss[search(arm, target, seed)] / cell.loss.min() - 1
    reached = [np.flatnonzero(excess <= tolerance) for tolerance in TOLERANCES]
    return [*(int(places[0]) + 1 if len(places) else MOST + 1 for places in reached), round(float(excess[0]) * 1e6)]


def entry_of(arm: str, seeds: int, pool: Any) -> dict[str, Any]:
    """The result of one arm."""
    targets = range(KNOWN, len(cells()))
    tasks = [(arm, target, seed) for target in targets for seed in range(seeds)]
    began = time.perf_counter()
    found = np.array(pool.map(counted, tasks, chunksize=4)).reshape(len(targets), seeds, 3)
    names = [f"{100 * tolerance:g}%" for tolerance in TOLERANCES]
    means = found[..., :2].mean(axis=1)  # of each cell
    first = found[..., 2] / 1e6
    return {
        "trials_until": {
            name: {"mean": float(means[:, k].mean()), "median": float(np.median(found[..., k]))}
            for k, name in enumerate(names)
        },
        "trials_until_by_cell": {name: means[:, k].round(2).tolist() for k, name in enumerate(names)},
        "first_trial": {
            "cells_within_0.25%": float((first <= 0.0025).mean()),
            "cells_within_0.1%": float((first <= 0.001).mean()),
            "mean_excess_percent": float(100 * first.mean()),
        },
        "seeds": seeds,
        "seconds": round(time.perf_counter() - began),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--arm", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.out.exists() else {"arms": {}}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for arm in options.arm:
            result["arms"][arm] = entry = entry_of(arm, options.seeds, pool)
            until = ", ".join(f"{name}: {found['mean']:.1f}" for name, found in entry["trials_until"].items())
            first = entry["first_trial"]
            print(f"{arm}: {until}; first within 0.25 %: {first['cells_within_0.25%']:.0%}", flush=True)
    result |= {
        "command": f"python tests/bench/transfer.py --seeds {options.seeds}",
        "cells": [{"N": cell.N, "D": cell.D, "pairs": len(cell.loss)} for cell in cells()[KNOWN:]],
        "hardware": processor(),
        "versions": versions(),
    }
    if {"ours", "tpe"} <= result["arms"].keys():
        result["ours_over_tpe"] = {
            name: result["arms"]["ours"]["trials_until"][name]["mean"] / found["mean"]
            for name, found in result["arms"]["tpe"]["trials_until"].items()
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
