"""How long the README's sweep takes: `python tests/bench/quick.py [--runs 3]` writes results/quick.json.

It keeps what the first run printed, and makes the README's figure of that run.

Each run is the whole command in a process of its own, from an empty directory and with an empty cache, so that
tokenization, Ray's start and the final table are counted.
"""

import argparse
import csv
import json
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
            shutil.copy(run / "report" / "loss_lr.png", figure)
        manifest = json.loads((run / "manifest.json").read_text())
        with (run / "report" / "parameters.csv").open() as file:
            table = list(csv.DictReader(file))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {row["trial"]: row for row in rows}
    return {
        "seconds": round(seconds, 1),
        "printed": done.stdout.replace(f"{ROOT}/", "").splitlines(),
        "tokens": sum(row["tokens"] for row in last.values()),
        "statuses": {status: sum(r["status"] == status for r in last.values()) for status in ("complete", "pruned")},
        "table": [
            {k: row[k] for k in ("size", "tied", "status", "params_exact", "val_loss", "trial")} for row in table
        ],
        "manifest": {name: manifest[name] for name in ("versions", "hardware", "commit", "data")},
    }


def main() -> None:
    """Run, print the median, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    figure = ROOT / "docs" / "images" / "quick-loss-lr.png"
    runs = [run_once(None if n else figure) for n in range(parser.parse_args().runs)]
    median = statistics.median(run["seconds"] for run in runs)
    manifest = runs[0].pop("manifest")
    for run in runs[1:]:
        del run["manifest"], run["printed"]
    result = {"command": "python sweeps/run.py --search optuna", "median_seconds": median, **manifest, "runs": runs}
    out = Path(__file__).parent / "results" / "quick.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"median {median:.0f} s of {len(runs)} runs: {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
