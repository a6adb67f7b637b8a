"""Does a ladder find what a search of every size finds, for less training? A real sweep with and without transfer.

    python tests/bench/ladder.py [--seeds 5] [--trials 32] [--runs FOLDER] [--out FILE]
    python tests/bench/ladder.py --time

The sweep is configs/ladder.yaml without its confirmation: once with transfer, and once with `transfer: off` and as many
trials for every size as the smallest has with it. The best setting that each search found for a size is then trained
under new seeds, the same for both; the difference between them is paired by seed. FLOPs are those of all trials of a
search, as far as they were trained. results/ladder-on.csv and ladder-off.csv have the trials, ladder.json the rest.

--time only runs the sweep as the file has it, confirmation and all, and notes how long that takes; to be measured on a
machine that does nothing else.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd
from scipy import stats

import analysis
from lmcore.config import RunSpec
from lmcore.cores import cores, processor
from lmcore.corpus.tokens import load_tokens
from lmcore.runfile.paths import apply
from lmcore.runfile.run_file import load_run
from lmcore.trainer import Trainer
from sweeps.provenance.manifest import commit, versions
from sweeps.spec.load import load_kept, load_spec

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "ladder.yaml"
RESULTS = Path(__file__).parent / "results"
FIRST_SEED = 1000
PROCESSES = 2
COLUMNS = (
    "trial",
    "size",
    "status",
    "params.optim.lr",
    "params.optim.beta2",
    "final_val_loss",
    "tokens",
    "train_flops",
)


def swept(folder: Path, transfer: bool, trials: int) -> Path:
    """The run's folder of the sweep, which is trained unless it is there already."""
    run = folder / ("on" if transfer else "off")
    if not run.exists():
        options = ["--set", f"transfer={'on' if transfer else 'off'}", "--trials", str(trials), "--wandb", "off"]
        command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--config", str(CONFIG), "--name", run.name]
        subprocess.run([*command, "--runs", str(folder), "--set", "confirm.top=0", *options], check=True)
    return run


def timed() -> dict[str, Any]:
    """How long the sweep of the file takes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--config", str(CONFIG), "--wandb", "off"]
        began = time.perf_counter()
        subprocess.run([*command, "--runs", folder], check=True)
        seconds = round(time.perf_counter() - began)
        flops = float(analysis.load(Path(folder) / "ladder").trials["train_flops"].sum())
    return {"command": "python tests/bench/ladder.py --time", "seconds": seconds, "flops": flops} | about()


def about() -> dict[str, Any]:
    """Machine, versions and commit of a measurement."""
    return {"hardware": processor(), "cores": cores(), "versions": versions(), "commit": commit()}


def final_loss(task: tuple[RunSpec, Path, range]) -> list[float]:
    """Final losses of a run on the tokens of a folder under these seeds, trained as one population."""
    run, folder, seeds = task
    tokens = load_tokens(folder)
    paths = ("train.seed", "data.seed")
    rows = list(Trainer([apply(run, dict.fromkeys(paths, seed)) for seed in seeds], tokens))
    last = {row["slot"]: row["final_val_loss"] for row in rows if row["final_val_loss"] is not None}
    return [last[slot] for slot in range(len(seeds))]


def compared(on: Path, off: Path, seeds: range) -> dict[str, Any]:
    """By size: what the best settings of both searches reach under new seeds, and their paired difference."""
    names = load_kept(on / "sweep.yaml").size_names
    folders = {"on": on, "off": off}
    runs = {(size, name): load_run(f / "best" / f"{size}.yaml")[0] for size in names for name, f in folders.items()}
    tasks = [(run, on / "tokens", seeds) for run in reversed(runs.values())]  # the largest first
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        trained = dict(zip(reversed(runs), pool.map(final_loss, tasks, chunksize=1), strict=True))
    found = {}
    for size in names:
        losses = {name: trained[size, name] for name in folders}
        gaps = [a - b for a, b in zip(losses["on"], losses["off"], strict=True)]
        half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        found[size] = {
            "lr": {name: runs[size, name].optim.lr for name in folders},
            "beta2": {name: runs[size, name].optim.beta2 for name in folders},
            "losses": losses,
            "difference": statistics.fmean(gaps),
            "half_of_95_percent_interval": half,
        }
        print(f"{size}: on - off = {statistics.fmean(gaps):+.4f} +- {half:.4f} nats", flush=True)
    return found


def trials_of(folder: Path, out: Path) -> pd.DataFrame:
    """The trials of a search, which are also written as a CSV."""
    table = analysis.load(folder).trials
    chosen = table[[name for name in COLUMNS if name in table]]
    chosen.to_csv(out, index=False, float_format="%.6g")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=32, help="of the search with transfer, in all sizes")
    parser.add_argument("--runs", type=Path, help="where the sweeps are, or are to be kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "ladder.json")
    parser.add_argument("--time", action="store_true", help="only time the sweep of configs/ladder.yaml")
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.time:
        known["whole_sweep"] = timed()
        print(f"configs/ladder.yaml: {known['whole_sweep']['seconds']} s")
        options.out.write_text(json.dumps(known, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        spec = load_spec(CONFIG, trials=options.trials)
        each = spec.trials_of(spec.size_names[0])
        counts = {"on": options.trials, "off": each * len(spec.size_names)}
        runs = {name: swept(folder, name == "on", count) for name, count in counts.items()}
        tables = {name: trials_of(run, options.out.with_name(f"ladder-{name}.csv")) for name, run in runs.items()}
        commits = {name: json.loads((run / "manifest.json").read_text())["commit"] for name, run in runs.items()}
        sizes = compared(runs["on"], runs["off"], range(FIRST_SEED, FIRST_SEED + options.seeds))
    flops = {name: float(table["train_flops"].sum()) for name, table in tables.items()}
    result = {
        "command": f"python tests/bench/ladder.py --seeds {options.seeds} --trials {options.trials}",
        "trials": {name: len(table) for name, table in tables.items()},
        "trials_of_largest": {
            name: int((table["size"] == spec.size_names[-1]).sum()) for name, table in tables.items()
        },
        "flops": flops,
        "share_of_flops": flops["on"] / flops["off"],
        "sizes": sizes,
        **about(),
        "commits_of_sweeps": commits,
    }
    if "whole_sweep" in known:
        result["whole_sweep"] = known["whole_sweep"]
    print(f"transfer trains {result['share_of_flops']:.0%} of the FLOPs")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
