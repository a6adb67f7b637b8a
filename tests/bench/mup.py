"""Does the best learning rate stay when a model gets wider? `python tests/bench/mup.py` writes results/mup.json.

Trains models of three widths, each twice as wide as the one before, over a grid of learning rates a factor of 2 apart,
with the standard parametrization and with muP, whose base is the narrowest width. The standard library is the data. The
losses are means over seeds. The goal: over the fourfold width the best learning rate moves by at most one step of the
grid with muP, and by more without. `--quick` has fewer updates, one seed and no file.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

from lmcore import columns as col
from lmcore.config import DataConfig, OptimConfig, RunSpec
from lmcore.cores import cores, processor
from lmcore.corpus.prepare import prepare_tokens
from lmcore.runfile.paths import apply
from lmcore.trainer import Trainer
from sweeps.provenance.manifest import versions
from tests.bench.circumstances import commit, write_json

OUT = Path(__file__).parent / "results" / "mup.json"
DATA = DataConfig(vocab_size=1024)
HEAD_DIM = 16
PARAMETRIZATIONS = ("standard", "mup")
Task = tuple[str, int, argparse.Namespace]


def run_of(parametrization: str, width: int, lr: float, seed: int, options: argparse.Namespace) -> RunSpec:
    """One run: two layers, heads of one width, everything else by default."""
    mup = {"model.parametrization": "mup", "model.base_width": options.widths[0]}
    return apply(
        RunSpec(data=DATA, optim=OptimConfig(lr=lr, warmup_fraction=0.1)),
        {
            **{"model.vocab_size": DATA.vocab_size, "model.context_length": options.context_length},
            **{"model.d_model": width, "model.num_heads": width // HEAD_DIM, "model.d_ff": width * 11 // 4},
            **{"model.num_layers": options.layers, "train.steps": options.steps, "train.eval_every": options.steps},
            **{"train.batch_size": options.batch_size, "train.final_eval_windows": options.windows},
            **{"train.dtype": "float32", "train.device": "cpu", "train.compile": False},
            **{"train.seed": seed, "data.seed": seed},
            **(mup if parametrization == "mup" else {}),
        },
    )


def train(task: Task) -> list[dict[str, Any]]:
    """All learning rates and seeds of a width, side by side."""
    parametrization, width, options = task
    settings = [(lr, seed) for lr in options.lrs for seed in range(options.seeds)]
    runs = [run_of(parametrization, width, lr, seed, options) for lr, seed in settings]
    began = time.monotonic()
    losses = {row[col.SLOT]: row[col.FINAL_VAL_LOSS] for row in Trainer(runs, prepare_tokens(DATA))}
    print(f"{parametrization} {width}: {time.monotonic() - began:.0f} s", flush=True)
    return [
        {"parametrization": parametrization, "width": width, "lr": lr, "seed": seed, "loss": losses[k]}
        for k, (lr, seed) in enumerate(settings)
    ]


def best(rows: list[dict[str, Any]], lrs: list[float]) -> dict[str, Any]:
    """The learning rate with the lowest mean loss, and the minimum of the parabola through it and its neighbours."""
    losses = [statistics.fmean(row["loss"] for row in rows if row["lr"] == lr) for lr in lrs]
    place = min(range(len(lrs)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
    found = {"lr": lrs[place], "loss": losses[place], "losses": losses, "at_the_edge": place in (0, len(lrs) - 1)}
    if not found["at_the_edge"]:
        left, middle, right = losses[place - 1 : place + 2]
        found["vertex"] = lrs[place] * 2 ** ((left - right) / (2 * (left - 2 * middle + right)))
    return found


def main() -> None:
    """Train, print the best learning rates, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs=3, default=[64, 128, 256])
    parser.add_argument("--exponents", type=int, nargs=2, default=[-11, -5], help="of 2: lowest and highest rate")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context-length", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--windows", type=int, default=256, help="validation windows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="half the updates, one seed, no file")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds = options.steps // 2, 1
    options.lrs = [2.0**n for n in range(options.exponents[0], options.exponents[1] + 1)]
    prepare_tokens(DATA)  # once, into the cache
    tasks = [(name, width, options) for width in reversed(options.widths) for name in PARAMETRIZATIONS]
    began, code = time.monotonic(), commit()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        rows = [row for done in pool.imap(train, tasks, chunksize=1) for row in done]
    found: dict[str, Any] = {}
    for name in PARAMETRIZATIONS:
        by_width = {
            str(width): best([r for r in rows if r["parametrization"] == name and r["width"] == width], options.lrs)
            for width in options.widths
        }
        narrow, wide = (by_width[str(width)] for width in (options.widths[0], options.widths[-1]))
        moved = {"grid_steps_moved": math.log2(wide["lr"] / narrow["lr"])}
        if "vertex" in narrow and "vertex" in wide:
            moved["vertex_moved"] = math.log2(wide["vertex"] / narrow["vertex"])
        found[name] = {"best": by_width, **moved}
        print(name, {width: f"{one['lr']:g} ({one['loss']:.3f})" for width, one in by_width.items()}, moved)
    moved_by = {name: abs(found[name]["grid_steps_moved"]) for name in PARAMETRIZATIONS}
    goal = moved_by["mup"] <= 1 < moved_by["standard"]
    print(f"goal {'met' if goal else 'missed'}, {time.monotonic() - began:.0f} s")
    settings = {name: value for name, value in vars(options).items() if name not in ("quick", "processes")}
    document = {
        "command": "python tests/bench/mup.py",
        "goal": "over a fourfold width the best lr moves by at most one factor of 2 with mup, and by more without",
        "goal_met": goal,
        "seconds": round(time.monotonic() - began),
        **{"commit": code, "versions": versions()},
        "hardware": {"processor": processor(), "cores": cores()},
        "settings": settings,
        **found,
        "runs": rows,
    }
    if options.quick:
        print(json.dumps({name: found[name]["best"] for name in found}))
    else:
        write_json(OUT, document)


if __name__ == "__main__":
    main()
