"""Measures how long a large run takes to load: `python tests/bench/load.py` writes results/load.json.

Creates a folder like that of a sweep of 10,000 trials with 50 rows each (SQLite study, metrics.jsonl, and the losses of
240 windows in the last and the best evaluation of each trial), and loads it with `analysis.load` several times, each in
a new process. The goal is at most 10 s and 1.5 GB.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.cores import cores

WINDOWS = 240
ROOT = Path(__file__).resolve().parents[2]
READ = """
import json, re, sys, time
began = time.perf_counter()
import analysis; analysis.load  # imported when it is first used
imported = time.perf_counter()
run = analysis.load(sys.argv[1])
print(json.dumps({
    "load_s": round(time.perf_counter() - imported, 2),
    "import_s": round(imported - began, 2),
    "peak_bytes": 1024 * int(re.findall("VmHWM:[^0-9]+([0-9]+)", open("/proc/self/status").read())[0]),
    "trials": len(run.trials),
    "rows": len(run.rows),
}))
"""


def make(folder: Path, trials: int, rows: int) -> None:
    """Create the folder of a sweep in which every trial is complete."""
    manifest = {"schema": 1, "name": "large", "storage": None, "studies": {"main": "main"}, "data": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = RunSpec().model_dump()
    counts = dict.fromkeys(col.COUNT_COLUMNS, 1_000_000)
    losses = np.random.default_rng(0).uniform(3, 6, trials)
    # One trial is added with Optuna and copied by SQL, because Optuna would write some 700,000 values one by one.
    database = folder / "study.db"
    study = optuna.create_study(study_name="main", storage=f"sqlite:///{database}")
    last = dict.fromkeys(col.LAST_COLUMNS, 1.0) | {col.STEP: rows, col.TOKENS: rows}
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=float(losses[0]),
            params={"optim.lr": 1e-3},
            distributions={"optim.lr": FloatDistribution(1e-4, 1e-1, log=True)},
            intermediate_values=dict.fromkeys(range(1, rows + 1), 4.0),
            user_attrs={col.TRIAL: "main-0000", col.RUN: run, col.COUNTS: counts, col.LAST: last}
            | {col.STATUS: col.COMPLETE},
        )
    )
    with closing(sqlite3.connect(database)) as connection, connection:
        copy_trial(connection, losses)
    with (folder / "window_losses.bin").open("wb") as windows:
        content = np.linspace(3, 6, WINDOWS).astype("<f4").tobytes()
        record = {"step": rows, "set": "final", "n": WINDOWS, "crc32": zlib.crc32(content)}
        for number in range(trials):
            for evaluation in ("last", "best"):
                header = {col.TRIAL: f"main-{number:04d}", "evaluation": evaluation, **record}
                windows.write(json.dumps(header).encode() + b"\n" + content)
    values = dict.fromkeys((*col.REPORT_COLUMNS[1:], *col.PLACE_COLUMNS), 1.2345678901)
    with (folder / "metrics.jsonl").open("w") as file:
        for number in range(trials):
            row = {col.TRIAL: f"main-{number:04d}", col.SIZE: "main", col.STATUS: col.RUNNING, **values}
            for step in range(1, rows + 1):
                file.write(json.dumps(row | {col.STEP: step, col.TOKENS: step, col.RETRIES: 0}) + "\n")


def copy_trial(connection: sqlite3.Connection, losses: NDArray[np.float64]) -> None:
    """Copy the study's only trial, so that there are len(losses) with different numbers, names and values."""
    for table in ("trials", "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes"):
        found = connection.execute(f"SELECT * FROM {table}")
        names = [name for name, *_ in found.description]
        rows = pd.DataFrame(found.fetchall(), columns=names)
        copies = pd.concat([rows] * (len(losses) - 1), ignore_index=True)
        number = np.repeat(np.arange(1, len(losses)), len(rows))
        copies["trial_id"] += number
        if table == "trials":
            copies["number"] = number
        else:
            copies[names[0]] += number * len(rows)  # the table's primary key
        if table == "trial_values":
            copies["value"] = losses[number]
        if table == "trial_user_attributes":
            named = copies["key"] == col.TRIAL
            copies.loc[named, "value_json"] = [f'"main-{one:04d}"' for one in number[named]]
        copies.to_sql(table, connection, if_exists="append", index=False, chunksize=50_000)


def main() -> None:
    """Measure, print the median, and write the JSON."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=50, help="of each trial")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.trials, arguments.rows)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        for _ in range(arguments.repeats):
            command = [sys.executable, "-c", READ, folder]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rounds.append(json.loads(done.stdout))
            print(rounds[-1], flush=True)
    result = {
        "command": "python tests/bench/load.py",
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": cores()},
        "commit": commit(),
        "folder_bytes": size,
        "median": {name: statistics.median(one[name] for one in rounds) for name in ("load_s", "peak_bytes")},
        "rounds": rounds,
    }
    out = Path(__file__).parent / "results" / "load.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['median']}: {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
