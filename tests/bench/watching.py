"""What watching costs: `python tests/bench/watching.py` writes results/watching.json.

One sweep that everybody watches: metrics are exported and scraped by Prometheus (if it is installed) every 10 s, Ray's
dashboard runs, and `lmsweep status --watch` reads the folder. All of these processes are stopped (SIGSTOP) and
continued in turn, for PERIOD_S each, and the tokens that the engines train on meanwhile are counted from the rows. So
both halves of a pair are seconds apart, and disturbed alike where the speed of a shared machine drifts by a tenth
within minutes. The driver's own export goes on in both; the start of the dashboard is not included. Random search and
no early stopping. The machine must have nothing else to do. Two cores are the hardest case: two engines leave none.

    watched, alone           tokens/s of each pair of periods
    watched_cpu, alone_cpu   CPU seconds that the engines get in a second
    ratio                    alone over watched, the factor by which the sweep takes longer: geometric mean over the
                             pairs with its 95 % interval (Student's t)
    ratio_cpu                the same of CPU seconds, which do not depend on how fast the machine happens to be

The goal is a ratio of at most 1.02.
"""

import argparse
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.bench

from lmcore import columns as col
from lmcore.config import DataConfig
from lmcore.cores import cores
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import save_tokens
from tests.bench.sweep import ROOT, Workload, run_config

WORKLOAD = Workload(trials=8, steps=150, report_every=5, grace_steps=5)
GOAL = 1.02
WATCHING = r"dashboard/dashboard\.py|ray-dashboard-|ray\.dashboard\.subprocess|prometheus|analysis/status"
PERIOD_S = 12.0
SETTLE_S = 10.0
"""From the start of `status` to the first period: what it imports is not counted."""
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


def watchers(root: int) -> list[int]:
    """Processes that do nothing but watch: Ray's dashboard with its parts, Prometheus and `status --watch`."""
    family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    own = psutil.Process().children()
    found = []
    for process in {one.pid: one for one in [*family, *own]}.values():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if re.search(WATCHING, words):
                found.append(process.pid)
    return found


def engines_cpu_s(root: int) -> float:
    """CPU seconds that the engines have had."""
    total = 0.0
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(("ray::engine", "ray::SlotWorker")):
                total += sum(process.cpu_times()[:2])
    return total


def watched_sweep(config: Row, folder: Path) -> tuple[list[tuple[float, float]], list[Row], int]:
    """Run the sweep; returns times at which watchers were switched on or off, each with the engines' CPU seconds, the
    rows, and the number of watchers. From the first time on they were on."""
    (folder / "sweep.yaml").write_text(json.dumps(config))  # JSON is YAML
    run, status = ROOT / "sweeps" / "run.py", ROOT / "analysis" / "status.py"
    metrics = folder / "runs" / "bench" / "metrics.jsonl"
    switches: list[tuple[float, float]] = []
    stopped: list[int] = []
    with (folder / "output.txt").open("wb") as output, prometheus(folder):
        command = [sys.executable, str(run), "--config", "sweep.yaml", "--name", "bench"]
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.2)
        with running([sys.executable, str(status), "runs/bench", "--watch"], folder):
            time.sleep(SETTLE_S)
            on = True
            while process.poll() is None:
                switches.append((time.time(), engines_cpu_s(process.pid)))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PERIOD_S)
                on = not on
                if process.poll() is None:
                    stopped = sorted({*stopped, *watchers(process.pid)})
                    switch(stopped, on)
            switch(stopped, True)  # none of them ends while it is stopped
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {(folder / 'output.txt').read_text()}")
    return switches, [json.loads(line) for line in metrics.read_text().splitlines()], len(stopped)


def switch(pids: list[int], on: bool) -> None:
    """Continue or stop processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)


def trained(rows: list[Row], at: float) -> float:
    """Tokens that all trials have been trained on until a moment; an interval's tokens are spread evenly over it."""
    total, before = 0.0, dict[str, int]()
    for row in rows:
        tokens = row[col.TOKENS] - before.get(row[col.TRIAL], 0)
        before[row[col.TRIAL]] = row[col.TOKENS]
        share = (at - row[col.BEGAN_AT]) / (row[col.REPORTED_AT] - row[col.BEGAN_AT])
        total += tokens * min(max(share, 0.0), 1.0)
    return total


def pairs_of(switches: list[tuple[float, float]], rows: list[Row]) -> list[Row]:
    """Tokens/s and CPU seconds a second of neighbouring periods, watched and alone, while all engines had work."""
    work_ends = min(max(row[col.REPORTED_AT] for row in rows if row[col.ENGINE] == engine) for engine in (0, 1))
    used = [one for one in switches if one[0] < work_ends]
    periods = [
        (round((trained(rows, b) - trained(rows, a)) / (b - a)), round((cpu_b - cpu_a) / (b - a), 4))
        for (a, cpu_a), (b, cpu_b) in itertools.pairwise(used)
    ]
    pairs = zip(periods[::2], periods[1::2], strict=False)
    return [{"watched": a, "alone": b, "watched_cpu": c, "alone_cpu": d} for (a, c), (b, d) in pairs]


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
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=WORKLOAD.trials)
    parser.add_argument("--steps", type=int, default=WORKLOAD.steps)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "watching.json")
    options = parser.parse_args()
    workload = WORKLOAD._replace(trials=options.trials, steps=options.steps)
    with tempfile.TemporaryDirectory() as place:
        save_tokens(prepare_tokens(DataConfig(source="stdlib", vocab_size=2048)), Path(place) / "tokens")
        config = run_config(workload, 0, Path(place) / "tokens", compiled=False)
        config["search"] |= {"method": "random", "scheduler": "none"}
        config |= {"tracking": {"wandb": "off", "metrics": True}}
        switches, rows, count = watched_sweep(config, Path(place))
    pairs = pairs_of(switches, rows)
    ratio, ratio_cpu = ratio_of(pairs, "alone", "watched"), ratio_of(pairs, "alone_cpu", "watched_cpu")
    about = {
        "command": shlex.join(["python", "tests/bench/watching.py", *sys.argv[1:]]),
        "workload": workload._asdict(),
        "prometheus": PROMETHEUS is not None,
        "watchers": count,
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": cores()},
        "goal": GOAL,
        "ratio": ratio,
        "ratio_cpu": ratio_cpu,
    }
    options.out.write_text(json.dumps({**about, "pairs": pairs}, indent=2) + "\n")
    for what, (mean, low, high) in (("tokens/s", ratio), ("CPU seconds of engines", ratio_cpu)):
        print(f"{what}, alone over watched: {mean} ({low} to {high}), {len(pairs)} pairs, goal {GOAL}")


if __name__ == "__main__":
    main()
