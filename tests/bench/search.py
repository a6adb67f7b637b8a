"""Which search finds the best setting for the least training? Searches compared on recorded runs, at equal FLOPs.

    python tests/bench/search.py [--problem curves-xs] [--slots 8] [--budget 40] [--arm default tune] [--seeds 50]

Every search gets the same problem and trains in virtual time (`sweeps.replay`) until all its trials together have used
the budget, which counts in whole runs: 40 are 40 times the FLOPs of one trial. Its answer at any moment is the trial of
lowest loss among those that are trained to their end. The *regret* is the expected loss of that setting, without the
noise of its seed, minus the lowest in the space; before a trial is complete it is that of an average random setting.
All slots are always busy, so the wall clock is the training divided by the number of slots.

Problems: `curves-xs` and `curves-s`, the two sizes of results/curves.parquet (curves.py), between whose runs losses are
predicted; `steplaw`, a table of final losses in ../shared/data, on which nothing can be stopped early.

Arms: every sampler of ours with every scheduler, `default` with neither chosen; and the peers of search_peers.py. Some
of them ask for packages that are no dependency: `pip install --no-deps syne-tune statsmodels patsy xgboost`.

results/search.json has for every problem, slots and budget the regrets at every twentieth of the budget of each arm,
[seeds, 20], with means and their 95 % intervals, and the difference from plain Tune (`tune`) in pairs of equal seeds.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch: one process a core is what scales

import numpy as np
import pandas as pd
from optuna.storages import InMemoryStorage
from scipy import stats
from scipy.stats import qmc

from lmcore import columns as col
from lmcore.cores import processor
from lmcore.device import training_flops
from lmcore.reports import next_report
from sweeps.provenance.manifest import commit, versions
from sweeps.recorded.source import Source
from sweeps.recorded.table import read_table
from sweeps.recorded.virtual_slots import VirtualSlots
from sweeps.spec.load import load_spec
from sweeps.spec.space import choices_of, takes_integers
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

HERE = Path(__file__).parent
OUT = HERE / "results" / "search.json"
CURVES = HERE / "results" / "curves.parquet"
STEPLAW = HERE.parents[2] / "shared" / "data" / "steplaw_dense.csv"
STEPLAW_TOKENS = 100_000_000_000  # of the runs of steplaw.yaml, in the column D
STEPLAW_COLUMNS = {
    "optim.lr": "lr",
    "train.batch_size": "bs",
    "model.d_model": "h",
    "model.d_ff": "ffnh",
    "model.num_heads": "numh",
    "model.num_layers": "numl",
    col.VAL_LOSS: "loss",
}
PROBLEMS = ("curves-xs", "curves-s", "steplaw")
SAMPLERS = ("tpe", "gp", "cmaes", "qmc")
SCHEDULERS = ("asha", "hyperband", "median", "none")
OURS: dict[str, tuple[str, ...]] = {
    "default": (),
    "random": ("search.method=random", "search.scheduler=none"),
    **{f"{m}-{s}": (f"search.method={m}", f"search.scheduler={s}") for m in SAMPLERS for s in SCHEDULERS},
}
PEERS = ("tune", "tune-2", "tune-3", "syne-bohb", "syne-asha-cqr")
BASELINE = "tune"
POINTS = 20
OPTIMUM_DRAWS, REFINED, STEPS, AVERAGE_DRAWS = 4096, 8, 400, 256
Key = tuple[str, int, int]
"""Problem, slots, budget in whole runs."""


class Answer(NamedTuple):
    """The best of the trials that are trained to their end, from some moment on."""

    spent: float
    """Updates of all trials until then, over those of the budget."""
    loss: float
    """Its expected loss; NaN if it mostly diverges."""


@cache
def problem(name: str, options: tuple[str, ...] = ()) -> tuple[SweepSpec, Source, str]:
    """The sweep, where its losses come from, and the name of its size."""
    if name == "steplaw":
        spec = load_spec(HERE / "steplaw.yaml", [*options, "search.scheduler=none"])
        return spec, steplaw(), spec.size_names[0]
    size = name.removeprefix("curves-")
    spec = load_spec(HERE / "curves.yaml", list(options))
    sizes = tuple(one for one in spec.sizes if one.name == size)
    return spec.model_copy(update={"sizes": sizes}), curves(), size


@cache
def curves() -> Source:
    """The recorded curves, read once in each process: what it fits takes seconds."""
    return Source(read_table(CURVES, {}))


@cache
def steplaw() -> Source:
    """The runs of the open table with the number of tokens of steplaw.yaml."""
    table = pd.read_csv(STEPLAW)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STEPLAW.name
        table[table["D"] == STEPLAW_TOKENS].to_csv(path, index=False)
        return Source(read_table(path, STEPLAW_COLUMNS))


@cache
def scale(name: str) -> tuple[float, float]:
    """The lowest expected loss in the space, and that of a random setting on average."""
    spec, losses, size = problem(name)
    losses.check(spec)
    known = [*lowest_settings(name), *(run.setting for run in settings_in(spec, losses, size))]
    lowest = np.nanmin([losses.expected_loss(size, spec.run_for(size, one)) for one in known])
    drawn = [losses.expected_loss(size, spec.run_for(size, one)) for one in random_settings(name)]
    return float(lowest), float(np.nanmean(drawn))


def random_settings(name: str) -> list[dict[str, Any]]:
    """Settings that are spread evenly over the space."""
    space = problem(name)[0].space
    return [_setting(space, point) for point in qmc.Sobol(len(space), seed=1).random(AVERAGE_DRAWS)]


@cache
def lowest_settings(name: str) -> list[dict[str, Any]]:
    """Settings with the lowest expected losses, found from REFINED starts by small random steps, best first."""
    spec, losses, size = problem(name)
    losses.check(spec)

    def loss_at(point: Any) -> float:
        loss = losses.expected_loss(size, spec.run_for(size, _setting(spec.space, point)))
        return loss if math.isfinite(loss) else math.inf

    points = qmc.Sobol(len(spec.space), seed=0).random(OPTIMUM_DRAWS)
    drawn = np.array([loss_at(point) for point in points])
    rng = np.random.default_rng(0)
    found = []
    for start in drawn.argsort()[:REFINED]:
        point, loss = points[start], drawn[start]
        for width in np.geomspace(0.2, 0.002, STEPS):  # each step smaller than the last
            moved = np.clip(point + width * rng.standard_normal(len(point)), 0, 1 - 1e-9)
            if (there := loss_at(moved)) < loss:
                point, loss = moved, there
        found.append((float(loss), _setting(spec.space, point)))
    return [setting for _, setting in sorted(found, key=lambda pair: pair[0])]


def _setting(space: Mapping[str, Any], point: Any) -> dict[str, Any]:
    """The setting at a point of the unit cube."""
    return {path: at(path, entry, float(u)) for (path, entry), u in zip(space.items(), point, strict=True)}


def settings_in(spec: SweepSpec, losses: Source, size: str) -> list[Any]:
    """The recorded runs of a size whose settings lie in the space."""
    runs = [run for run in losses.recorded.runs if run.size in (None, size)]
    base = spec.run_for(size, {}).model_dump()

    def inside(setting: Mapping[str, Any]) -> bool:
        for path, value in setting.items():
            section, name = path.split(".")
            entry: Any = spec.space.get(path)
            if entry is None and value != base[section][name]:
                return False
            if entry is not None and not choices_of(entry) and not entry.low <= value <= entry.high:
                return False
        return True

    return [run for run in runs if inside(run.setting)]


def at(path: str, entry: Any, u: float) -> Any:
    """The value of an entry of the space at a place in the unit interval."""
    if choices := choices_of(entry):
        return choices[int(u * len(choices))]
    value = entry.low * (entry.high / entry.low) ** u if entry.log else entry.low + u * (entry.high - entry.low)
    return round(value) if takes_integers(path) else value


def run_ours(name: str, options: tuple[str, ...], slots: int, budget: int, seed: int) -> list[Answer]:
    """A search of ours, which ends in the middle of its trials, so that all that it does is for any budget."""
    spec, losses, size = problem(name, (*options, f"search.seed={seed}"))
    per_trial = 1 if spec.search.scheduler == "none" else 4
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": per_trial * budget + slots})})
    losses.check(spec)
    ledger = Ledger(spec, InMemoryStorage())
    whole = training_flops(spec.run_for(size, {}))
    running = VirtualSlots(ledger, losses, slots, flops_per_s=1.0)
    best, answers = math.inf, []
    for handle in running.run():
        if running.flops > budget * whole:
            break
        if handle.status == col.COMPLETE and handle.last_row is not None:
            loss = col.quoted_loss(handle.last_row)
            if loss < best:
                best = loss
                answers.append(Answer(running.flops / whole / budget, losses.expected_loss(size, handle.run)))
    return answers


def run_peer(name: str, arm: str, slots: int, budget: int, seed: int) -> list[Answer]:
    """A peer on the same problem."""
    from tests.bench import search_peers as peers  # imports Ray

    spec, losses, size = problem(name)
    losses.check(spec)
    whole = spec.run_for(size, {})
    steps = whole.steps
    stops = losses.recorded.has_curves

    def curve_of(setting: Mapping[str, Any]) -> dict[int, float]:
        curve = losses.curve(size, spec.run_for(size, setting))
        reports, step = [], 0
        while step < steps and stops:
            step = next_report(whole, step)
            reports.append(step)
        return {step: curve.at(step / steps) for step in reports or [steps]}

    grace = spec.grace_steps(size) if stops else steps
    peer = peers.PEERS[arm](peers.Problem(spec.space, steps, grace), seed)
    best, answers = math.inf, []
    for finished in peers.replay_peer(peer, curve_of, steps, slots, budget * steps):
        if finished.loss < best:
            best = finished.loss
            expected = losses.expected_loss(size, spec.run_for(size, finished.setting))
            answers.append(Answer(finished.steps_spent / steps / budget, expected))
    return answers


def regrets(task: tuple[Key, str, int]) -> list[float]:
    """The regrets of one replay at every twentieth of its budget."""
    (name, slots, budget), arm, seed = task
    quiet_optuna()
    lowest, average = scale(name)
    if arm in OURS:
        answers = run_ours(name, OURS[arm], slots, budget, seed)
    else:
        answers = run_peer(name, arm, slots, budget, seed)
    found = []
    for share in np.arange(1, POINTS + 1) / POINTS:
        until = [answer.loss for answer in answers if answer.spent <= share + 1e-9]
        found.append(round((until[-1] if until and math.isfinite(until[-1]) else average) - lowest, 5))
    return found


def summary(arms: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Means with intervals; differences from the baseline in pairs of seeds; when its last regret was reached."""
    result: dict[str, Any] = {}
    baseline = np.array(arms[BASELINE]) if BASELINE in arms else None
    for arm, values in arms.items():
        table = np.array(values)
        last = table[:, -1]
        result[arm] = {"seeds": len(last), "regret": interval(last)}
        if baseline is None:
            continue
        pairs = min(len(table), len(baseline))
        result[arm]["minus_tune"] = interval(table[:pairs, -1] - baseline[:pairs, -1])
        reached = np.flatnonzero(table.mean(0) <= baseline.mean(0)[-1])
        result[arm]["share_to_tunes_regret"] = (int(reached[0]) + 1) / POINTS if len(reached) else None
    return result


def interval(values: Any) -> list[float]:
    """Mean and the half-width of its 95 % interval (Student's t)."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else math.nan
    return [round(float(np.mean(values)), 4), round(half, 4)]


def main() -> None:
    """Run what is missing, and rewrite the JSON after every arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=["curves-xs", "curves-s"])
    parser.add_argument("--slots", nargs="+", type=int, default=[8])
    parser.add_argument("--budget", nargs="+", type=int, default=[40])
    parser.add_argument("--arm", nargs="+", choices=[*OURS, *PEERS], default=[BASELINE, "default", "random"])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="also arms that the JSON has")
    parser.add_argument("--out", type=Path, default=OUT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for name in options.problem:
            for slots in options.slots:
                for budget in options.budget:
                    for arm in options.arm:
                        run_arm(pool, (name, slots, budget), arm, options)


def run_arm(pool: Any, key: Key, arm: str, options: argparse.Namespace) -> None:
    """All seeds of an arm, unless the JSON has them."""
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    label = f"{key[0]} slots={key[1]} budget={key[2]}"
    entry = results.setdefault(label, {"arms": {}})
    known = entry["arms"].get(arm, {}).get("regrets", [])
    if len(known) >= options.seeds and not options.again:
        return
    began = time.monotonic()
    found = pool.map(regrets, [(key, arm, seed) for seed in range(options.seeds)], chunksize=1)
    seconds = (time.monotonic() - began) * options.processes / options.seeds
    entry["arms"][arm] = {"seconds_each": round(seconds, 2), "commit": commit(), "regrets": found}
    entry["summary"] = summary({name: one["regrets"] for name, one in entry["arms"].items()})
    entry |= {"versions": versions(), "hardware": processor()}
    options.out.write_text(json.dumps(results, separators=(",", ":")).replace('"arms"', '\n"arms"') + "\n")
    median = statistics.median(row[-1] for row in found)
    print(f"{label} {arm}: {entry['summary'][arm]}, median {median:.4f}, {seconds:.1f} s each", flush=True)


if __name__ == "__main__":
    main()
