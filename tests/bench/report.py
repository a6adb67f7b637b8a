"""A report of 1,000 trials: `python tests/bench/report.py` writes results/report.json.

The run is a replay of the recorded curves, so its folder is an ordinary one, with 500 trials of each of two sizes. The
whole command `python analysis/report.py RUN` is timed, its start included. The goal: 20 s, and a page of 8 MB.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lmcore.cores import cores, processor
from sweeps.provenance.manifest import commit, versions

ROOT = Path(__file__).resolve().parents[2]
BENCH, TRIALS, ROUNDS = ROOT / "tests" / "bench", 1000, 3
OUT = BENCH / "results" / "report.json"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = str(BENCH / "results" / "curves.parquet")
        replay = ["--config", str(BENCH / "curves.yaml"), "--from", source, "--search", "random"]
        replay += ["--trials", str(TRIALS // 2), "--name", "big"]
        _run(scratch, str(ROOT / "sweeps" / "replay.py"), *replay)
        run = Path(scratch) / "runs" / "big"
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            _run(scratch, str(ROOT / "analysis" / "report.py"), str(run))
            seconds.append(round(time.perf_counter() - began, 2))
        page = (run / "report" / "report.html").stat().st_size
        rows = sum(1 for _ in (run / "metrics.jsonl").open())
    result = {
        "command": "python tests/bench/report.py",
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": cores()},
        "trials": TRIALS,
        "rows": rows,
        "seconds": sorted(seconds),
        "page_mb": round(page / 1e6, 2),
        "goal": {"seconds": 20, "page_mb": 8},
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _run(folder: str, *arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
