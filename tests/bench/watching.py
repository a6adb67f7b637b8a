"""What watching costs: `python tests/bench/watching.py [--rounds 5]` writes results/watching.json.

The same sweep twice in turn, in alternating order. Once nobody watches: no metrics, no dashboard. Once everybody does:
metrics are exported and scraped by Prometheus (if it is installed) every 10 s, Ray's dashboard runs, and beside it
`lmsweep status --watch` reads the folder. Random search and no early stopping, so that both train the same. The machine
must have nothing else to do.

    alone_s, watched_s   from the first update to the last decision about a trial
    whole_*_s            the whole command; Ray's dashboard also takes time to start
    ratio                watched over alone: geometric mean over the rounds with its 95 % interval (Student's t)

The goal is a ratio of at most 1.02.
"""

import argparse
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.bench

from lmcore import columns as col
from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import save_tokens
from tests.bench.sweep import ROOT, Workload, run_config

WORKLOAD = Workload(trials=8, steps=160, report_every=10, grace_steps=10)
GOAL = 1.02
LIMIT_S = 1800
PROMETHEUS = shutil.which("prometheus")
Row = dict[str, Any]


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[None]:
    """A process that runs beside the sweep; its output is thrown away."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def prometheus(folder: Path) -> Iterator[None]:
    """Prometheus on our configuration, in a copy that finds the runs of `folder`."""
    if PROMETHEUS is None:
        yield
        return
    config = folder / "configs" / "monitoring" / "prometheus.yml"
    config.parent.mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "monitoring" / "prometheus.yml", config)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    options = [f"--config.file={config}", f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/data"]
    with running([PROMETHEUS, *options], folder):
        yield


def sweep_s(config: Row, watched: bool) -> tuple[float, float]:
    """Seconds of training, and of the whole command."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = {**config, "tracking": {"wandb": "off", "metrics": watched}}
        (folder / "sweep.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--config", "sweep.yaml", "--name", "bench"]
        began = time.monotonic()
        if watched:
            with prometheus(folder):
                sweep(command, folder, watched=True)
        else:
            sweep([*command, "--no-dashboard"], folder, watched=False)
        whole_s = time.monotonic() - began
        lines = (folder / "runs" / "bench" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return max(row[col.DECIDED_AT] for row in rows) - min(row[col.BEGAN_AT] for row in rows), whole_s


def sweep(command: list[str], folder: Path, watched: bool) -> None:
    """Run the sweep; watched, with `status --watch` beside it from the moment that there is something to see."""
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        if watched:
            while not (folder / "runs" / "bench" / "manifest.json").exists() and process.poll() is None:
                time.sleep(0.2)
            status = [sys.executable, str(ROOT / "analysis" / "status.py"), "runs/bench", "--watch"]
            with running(status, folder):
                process.wait(LIMIT_S)
        process.wait(LIMIT_S)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {(folder / 'output.txt').read_text()}")


def one_round(tokens: Path, number: int, workload: Workload) -> Row:
    """One sweep of each kind; in odd rounds the watched one first."""
    config = run_config(workload, number, tokens, compiled=False)
    config["search"] |= {"method": "random", "scheduler": "none"}
    load = os.getloadavg()[0]
    found = {}
    for watched in (False, True) if number % 2 == 0 else (True, False):
        found[watched] = sweep_s(config, watched)
    (alone_s, whole_alone_s), (watched_s, whole_watched_s) = found[False], found[True]
    seconds = {"alone_s": alone_s, "watched_s": watched_s}
    seconds |= {"whole_alone_s": whole_alone_s, "whole_watched_s": whole_watched_s}
    return {name: round(value, 2) for name, value in seconds.items()} | {"load": load}


def ratio_of(rounds: list[Row], numerator: str, denominator: str) -> list[float | None]:
    """Geometric mean of the ratios, and the ends of its 95 % interval, which one round does not have."""
    logs = [math.log(one[numerator] / one[denominator]) for one in rounds]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return [round(math.exp(mean), 4), None, None]
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return [round(math.exp(mean + side), 4) for side in (0.0, -half, half)]


def main() -> None:
    """Run, print, write the JSON."""
    from sweeps.provenance.manifest import commit, processor, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=WORKLOAD.trials)
    parser.add_argument("--steps", type=int, default=WORKLOAD.steps)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "watching.json")
    options = parser.parse_args()
    workload = WORKLOAD._replace(trials=options.trials, steps=options.steps)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        save_tokens(prepare_tokens(DataConfig(source="stdlib", vocab_size=2048)), Path(folder) / "tokens")
        for number in range(options.rounds):
            rounds.append(one_round(Path(folder) / "tokens", number, workload))
            print(rounds[-1], flush=True)
    ratio = ratio_of(rounds, "watched_s", "alone_s")
    about = {
        "command": "python tests/bench/watching.py",
        "workload": workload._asdict(),
        "prometheus": PROMETHEUS is not None,
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "goal": GOAL,
        "ratio": ratio,
        "ratio_whole": ratio_of(rounds, "whole_watched_s", "whole_alone_s"),
    }
    options.out.write_text(json.dumps({**about, "rounds": rounds}, indent=2) + "\n")
    print(f"watched over alone: {ratio[0]} ({ratio[1]} to {ratio[2]}), goal {GOAL}: {options.out}")


if __name__ == "__main__":
    main()
