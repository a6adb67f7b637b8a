"""What a kill costs: `python tests/bench/resume.py [--rounds 5]` writes results/resume.json.

The same sweep twice in turn, each as whole commands from an empty directory: once left alone, and once killed
(SIGKILL to the driver) after a third to two thirds of its rows, at a seeded moment, and resumed. Random search and no
early stopping, so that both train the same; the text is tokenized beforehand. The machine must have nothing else to do.

    extra_s      seconds of both commands of the killed sweep, less those of the one left alone
    start_up_s   from the start of the resuming process to its first update
    interval_s   median duration of an interval, which is what a kill may cost each engine
    as_alone     whether the killed sweep's rows equal the other's, but for times and places

The goal is extra_s <= start_up_s + interval_s.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.bench

from lmcore import columns as col
from lmcore.config import DataConfig
from lmcore.cores import cores
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import save_tokens
from tests.bench.sweep import ROOT, Workload, run_config

RUN = str(ROOT / "sweeps" / "run.py")
WORKLOAD = Workload(trials=8, steps=80, report_every=20, grace_steps=20)
LIMIT_S = 600
OF_PLACE = {*col.PLACE_COLUMNS, col.TOKENS_PER_S, col.ELAPSED_S}
Row = dict[str, Any]


def begin(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """run.py in that folder."""
    command = [sys.executable, RUN, *arguments, "--wandb", "off", "--no-dashboard"]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for it; it must have succeeded."""
    if process.wait(LIMIT_S):
        raise SystemExit(f"exit code {process.returncode}: {(folder / 'output.txt').read_text()}")


def rows_of(folder: Path) -> list[Row]:
    """Whole rows so far."""
    path = folder / "runs" / "bench" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def curves(rows: list[Row]) -> dict[tuple[str, int], Row]:
    """Rows by trial and step, without what hangs on time and place."""
    return {(row[col.TRIAL], row[col.STEP]): {k: v for k, v in row.items() if k not in OF_PLACE} for row in rows}


def one_round(tokens: Path, seed: int) -> Row:
    """One sweep left alone, and one killed and resumed."""
    moment = random.Random(seed)
    config = run_config(WORKLOAD, seed, tokens, compiled=False)
    config["search"] |= {"method": "random", "scheduler": "none"}
    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as killed:
        for folder in (alone, killed):
            (Path(folder) / "sweep.yaml").write_text(json.dumps(config))  # JSON is YAML
        load = os.getloadavg()[0]
        began = time.monotonic()
        ended(begin(Path(alone), "--config", "sweep.yaml", "--name", "bench"), Path(alone))
        alone_s = time.monotonic() - began
        wanted = rows_of(Path(alone))

        goal = moment.uniform(len(wanted) / 3, len(wanted) * 2 / 3)
        began = time.monotonic()
        process = begin(Path(killed), "--config", "sweep.yaml", "--name", "bench")
        while len(rows_of(Path(killed))) < goal:
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 2))
        process.kill()
        process.wait()
        until_kill_s = time.monotonic() - began
        known = rows_of(Path(killed))

        again_at, began = time.time(), time.monotonic()
        ended(begin(Path(killed), "--resume", "runs/bench"), Path(killed))
        resumed_s = time.monotonic() - began
        rows = rows_of(Path(killed))
    later = rows[len(known) :]
    trained = [row[col.REPORTED_AT] - row[col.BEGAN_AT] for row in wanted]
    return {
        "alone_s": round(alone_s, 2),
        "until_kill_s": round(until_kill_s, 2),
        "resumed_s": round(resumed_s, 2),
        "extra_s": round(until_kill_s + resumed_s - alone_s, 2),
        "start_up_s": round(min(row[col.BEGAN_AT] for row in later) - again_at, 2),
        "interval_s": round(statistics.median(trained), 2),
        "rows_known": len(known),
        "as_alone": curves(rows) == curves(wanted) and len(rows) == len(wanted),
        "load": load,
    }


def main() -> None:
    """Run, print, write the JSON."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        save_tokens(prepare_tokens(DataConfig(source="stdlib", vocab_size=2048)), Path(folder) / "tokens")
        for seed in range(parser.parse_args().rounds):
            rounds.append(one_round(Path(folder) / "tokens", seed))
            print(rounds[-1], flush=True)
    median = {
        name: round(statistics.median(one[name] for one in rounds), 2)
        for name in ("alone_s", "extra_s", "start_up_s", "interval_s")
    }
    about = {
        "command": "python tests/bench/resume.py",
        "workload": WORKLOAD._asdict(),
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": cores()},
    }
    out = Path(__file__).parent / "results" / "resume.json"
    out.write_text(json.dumps({**about, "median": median, "rounds": rounds}, indent=2) + "\n")
    print(f"{median}: {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
