"""How long the README's sweep takes, and whether its answer stays: `python tests/bench/quick.py [--runs 3]`.

Writes results/quick.json. It keeps what the first run printed, and makes the README's figure of that run. After the
runs on the quiet machine comes one beside a process that keeps a core busy. All should end in the same verdicts: which
arm is better at each size, under each matching.

Each run is the whole command in a process of its own, from an empty directory and with an empty cache, so that
tokenization, Ray's start and the final table are counted.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--search", "optuna"]


def run_once(figure: Path | None = None) -> dict[str, Any]:
    """Wall seconds and outcome of one sweep; its figure of loss against learning rate goes to `figure`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache", "WANDB_MODE": "offline"}
        began = time.perf_counter()
        done = subprocess.run(COMMAND, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
        print(done.stdout)
        run = Path(folder) / "runs" / "quick"
        if figure is not None:
            subprocess.run([sys.executable, str(ROOT / "analysis" / "report.py"), str(run)], check=True)
            shutil.copy(run / "report" / "loss_parameters.png", figure)
        manifest = json.loads((run / "manifest.json").read_text())
        with (run / "report" / "parameters.csv").open() as file:
            table = list(csv.DictReader(file))
        with (run / "report" / "differences.csv").open() as file:
            differences = list(csv.DictReader(file))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {row["trial"]: row for row in rows}
    return {
        "seconds": round(seconds, 1),
        "printed": done.stdout.replace(f"{ROOT}/", "").splitlines(),
        "tokens": sum(row["tokens"] for row in last.values()),
        "statuses": {status: sum(r["status"] == status for r in last.values()) for status in ("complete", "pruned")},
        "confirmation_runs": sum("-confirm-" in trial for trial in last),
        "table": [{k: row[k] for k in ("size", "arm", "status", "loss", "half", "seeds", "trial")} for row in table],
        "verdicts": {f"{row['size']}, {row['matching']}": f"{row['arm']} is {row['verdict']}" for row in differences},
        "differences": {
            f"{row['size']}, {row['matching']}": [float(row[k]) for k in ("difference", "low", "high") if row[k]]
            for row in differences
        },
        "manifest": {name: manifest[name] for name in ("versions", "hardware", "commit", "data")},
    }


def _spin() -> None:
    while True:
        pass


def main() -> None:
    """Run, print the median, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    figure = ROOT / "docs" / "images" / "quick-answer.png"
    runs = [run_once(None if n else figure) for n in range(parser.parse_args().runs)]
    median = statistics.median(run["seconds"] for run in runs)
    busy = multiprocessing.Process(target=_spin, daemon=True)
    busy.start()
    beside_busy = run_once()
    busy.kill()
    manifest = runs[0].pop("manifest")
    for run in (*runs[1:], beside_busy):
        del run["manifest"], run["printed"]
    same = all(run["verdicts"] == runs[0]["verdicts"] for run in (*runs, beside_busy))
    result = {"command": "python sweeps/run.py --search optuna", "median_seconds": median, "same_verdicts": same}
    result |= {**manifest, "runs": runs, "run_beside_a_busy_process": beside_busy}
    out = Path(__file__).parent / "results" / "quick.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"median {median:.0f} s of {len(runs)} runs: {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
