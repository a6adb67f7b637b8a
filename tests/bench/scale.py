"""What a long sweep costs its driver: memory and time of a trial, by thousands of trials that do nothing but report.

    python tests/bench/scale.py [--trials 10000] [--reports 20]    # writes results/scale.json

It is the driver of a real sweep (`sweeps.sweep.run_on`: ledger in SQLite, random search, Tune, trial proxies, files,
progress, watchdog), whose engines have every row ready (`control.ReadyWorker`). Eight trials run at a time. Whenever
another `--every` trials have ended, the driver's resident memory and the time are noted.

Memory of a trial is the slope of a line through these points. The first is noted when libraries have been imported and
pools are full.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.bench

import sweeps.engine.roster
import sweeps.study.ledger
from lmcore import columns as col
from lmcore.config import TrainConfig
from lmcore.corpus.tokens import Tokens
from sweeps.cli.interrupts import Interrupts
from sweeps.cluster.auth import set_auth_mode
from sweeps.cluster.connect import connect
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage
from sweeps.study.trial_handle import TrialHandle
from sweeps.sweep import run_on
from tests.bench.control import CONCURRENT, ReadyWorker

MOST_KB = 20.0
MOST_GROWTH = 1.2


@dataclass
class Course:
    """When trials ended, and how much memory the driver had."""

    every: int
    ended: int = 0
    points: list[dict[str, float]] = field(default_factory=list)

    def note(self) -> None:
        """Note that another trial has ended."""
        self.ended += 1
        if self.ended % self.every == 0:
            self.points.append({"trials": self.ended, "seconds": time.monotonic(), "rss_mb": rss_mb()})
            print(f"{self.ended} trials: {self.points[-1]['rss_mb']:.1f} MB", flush=True)

    @property
    def blocks(self) -> list[dict[str, float]]:
        """Milliseconds of a trial between two points, with the memory at the second."""
        return [
            {
                "trials": after["trials"],
                "trial_ms": round(1000 * (after["seconds"] - before["seconds"]) / self.every, 1),
                "rss_mb": round(after["rss_mb"], 1),
            }
            for before, after in zip(self.points, self.points[1:], strict=False)
        ]

    @property
    def kb_per_trial(self) -> float:
        """Slope of the memory, in units of 1,000 bytes."""
        trials, rss = ([point[name] for point in self.points] for name in ("trials", "rss_mb"))
        return round(1000 * float(np.polyfit(trials, rss, 1)[0]), 1)


def rss_mb() -> float:
    """Resident memory of this process, in units of 10**6 bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(trials: int, reports: int, every: int, path: Path) -> dict[str, Any]:
    """A sweep of `trials` trials in the folder `path`, and what it cost."""
    vars(sweeps.engine.roster)["SlotWorker"] = ReadyWorker  # what engines are made of
    course = Course(every)
    end = Ledger.end

    def noting_end(self: Ledger, trial_id: str) -> TrialHandle:
        handle = end(self, trial_id)
        course.note()
        return handle

    vars(sweeps.study.ledger)["Ledger"] = type("Ledger", (Ledger,), {"end": noting_end})
    path.mkdir()
    folder = RunFolder(path)
    spec = SweepSpec.model_validate(
        {
            "name": "scale",
            "train": TrainConfig(steps=reports, eval_every=1, device="cpu"),
            "space": {"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}, "optim.beta2": [0.9, 0.95, 0.99]},
            "search": {
                "method": "random",
                "scheduler": "none",
                "trials": trials,
                "concurrent": CONCURRENT,
                "slots": max(1, CONCURRENT // 2),
            },
        }
    )
    tokens = Tokens.of([1, 2] * 200, [1, 2] * 200, spec.model.vocab_size)
    storage = open_storage(None, folder)
    set_auth_mode("token")  # `control` has imported Ray already, which then was in another mode
    with connect(None, dashboard=None) as cluster:
        outcome = run_on(cluster, spec, tokens, folder, storage, Console(file=io.StringIO()), Interrupts())
    statuses = list(outcome.statuses.values())
    assert statuses.count(col.COMPLETE) == trials, f"{trials} trials must complete, got {statuses}"
    facts = json.loads(folder.manifest.read_text())
    blocks = course.blocks
    return {
        **{name: facts[name] for name in ("versions", "hardware", "commit")},
        "trials": trials,
        "reports_per_trial": reports,
        "concurrent": CONCURRENT,
        "kb_per_trial": course.kb_per_trial,
        "trial_ms": round(1000 * outcome.seconds / trials, 1),
        "report_ms": round(1000 * outcome.seconds / trials / reports, 2),
        "last_over_first": round(blocks[-1]["trial_ms"] / blocks[0]["trial_ms"], 3),
        "study_mb": round(folder.study_db.stat().st_size / 1e6, 1),
        "metrics_mb": round(folder.metrics.stat().st_size / 1e6, 1),
        "blocks": blocks,
    }


def main() -> None:
    """Run the sweep, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=20, help="of each trial")
    parser.add_argument("--every", type=int, help="trials between two measurements (default: a tenth)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    args = parser.parse_args()
    every = args.every or args.trials // 10
    if every < 1 or args.trials < 3 * every:
        parser.error("--trials: must be three times --every or more, for a first and a last block")
    with tempfile.TemporaryDirectory() as folder:
        measured = run(args.trials, args.reports, every, Path(folder) / "run")
    goals = [
        {"goal": "memory of a trial in the driver, KB", "is": measured["kb_per_trial"], "at_most": MOST_KB},
        {"goal": "last block / first block", "is": measured["last_over_first"], "at_most": MOST_GROWTH},
    ]
    goals = [goal | {"met": goal["is"] <= goal["at_most"]} for goal in goals]
    for block in measured["blocks"]:
        print(f"{block['trials']:>7} trials: {block['trial_ms']:>7.1f} ms a trial, {block['rss_mb']:>7.1f} MB")
    for goal in goals:
        print(f"{goal['goal']:<45} {goal['is']:>8}  goal <= {goal['at_most']}: {'met' if goal['met'] else 'NOT met'}")
    command = " ".join(["python", "tests/bench/scale.py", *sys.argv[1:]])
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"command": command, "goals": goals, **measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
