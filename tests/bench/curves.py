"""Records the learning curves on which searches are compared: results/curves.parquet, by tests/bench/search.py.

    python tests/bench/curves.py [--settings 512] [--seeds 2] [--processes 2]     # about 40 minutes on two cores

The settings are the first points of a scrambled Sobol sequence over the space of curves.yaml, the same for both sizes,
and each is trained under every seed by the project's own packed trainer, to its end. A row of the table is one report:
the run, its size, seed and setting, the step, and the validation loss, which is missing once a run has diverged.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import qmc

from lmcore import columns as col
from lmcore.cores import processor
from lmcore.trainer import Trainer
from sweeps.provenance.manifest import commit, versions
from sweeps.spec.load import load_spec
from sweeps.spec.space import choices_of
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.sweep import with_data

HERE = Path(__file__).parent
CONFIG, TABLE = HERE / "curves.yaml", HERE / "results" / "curves.parquet"
ABOUT = TABLE.with_name("curves.json")
SLOTS = 8
SOBOL_SEED = 0
Task = tuple[str, int, int, list[dict[str, Any]]]
"""Size, seed, number of the first setting, and the settings."""


def settings(spec: SweepSpec, count: int) -> list[dict[str, Any]]:
    """Points of the space that are spread evenly: overrides by dotted path."""
    cube = qmc.Sobol(len(spec.space), seed=SOBOL_SEED).random(count)
    return [
        {path: _value(entry, float(u)) for (path, entry), u in zip(spec.space.items(), point, strict=True)}
        for point in cube
    ]


def _value(entry: Any, u: float) -> Any:
    if choices := choices_of(entry):
        return choices[int(u * len(choices))]
    if entry.log:
        return float(f"{entry.low * (entry.high / entry.low) ** u:.6g}")
    return round(entry.low + u * (entry.high - entry.low), 6)


def record(task: Task) -> list[dict[str, Any]]:
    """Train the settings of a task side by side; returns the rows of the table."""
    size, seed, first, overrides = task
    spec, tokens = with_data(load_spec(CONFIG))
    runs = [spec.run_for(size, {**one, "train.seed": seed, "data.seed": seed}) for one in overrides]
    rows = []
    for row in Trainer(runs, tokens):
        number = first + row[col.SLOT]
        loss = np.float32(row[col.VAL_LOSS])
        rows.append({"run": f"{size}-{seed}-{number:04d}", "size": size, "seed": seed, **overrides[row[col.SLOT]]})
        rows[-1] |= {col.STEP: row[col.STEP], col.VAL_LOSS: loss if np.isfinite(loss) else np.nan}
    return rows


def tasks(spec: SweepSpec, count: int, seeds: int) -> Iterator[Task]:
    """Groups of SLOTS settings, for every size and seed."""
    points = settings(spec, count)
    for first in range(0, count, SLOTS):
        for size in spec.size_names:
            for seed in range(seeds):
                yield size, seed, first, points[first : first + SLOTS]


def main() -> None:
    """Train all runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=512, help="a power of two")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    todo = list(tasks(load_spec(CONFIG), options.settings, options.seeds))
    began, rows = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for done, one in enumerate(pool.imap(record, todo), 1):
            rows += one
            print(f"{done} of {len(todo)} groups, {time.monotonic() - began:.0f} s", flush=True)
    table = pd.DataFrame(rows).sort_values(["run", col.STEP], ignore_index=True)
    table = table.astype({"size": "category", "seed": "int8", col.STEP: "int16", col.VAL_LOSS: "float32"})
    table.to_parquet(TABLE, index=False, compression="zstd")
    about = {
        "command": f"python tests/bench/curves.py --settings {options.settings} --seeds {options.seeds}",
        "runs": int(table["run"].nunique()),
        "reports": len(table),
        "hours": round((time.monotonic() - began) / 3600, 2),
        "commit": commit(),
        "versions": versions(),
        "hardware": processor(),
    }
    ABOUT.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
