"""Whole sweeps, ours against plain Ray Tune: `python tests/bench/sweep.py [--rounds 3] [--only 16x80]`.

Both sides run the same workload in turn, each as a whole command in a process of its own, from an empty directory: ours
is sweeps/run.py, the other plain_tune.py beside this file. The text is tokenized beforehand, and both read the same
token files. A round is one run of each, with a search seed of its own. results/sweep.json is rewritten after each
round; other workloads and options keep their entries there. The machine must have nothing else to do: Ray's workers
run at niceness 15, so anything else slows both sides several times over (`load` is the load average before a round).

Each run is told in these figures, where a *device* is an engine of ours or one of Tune's workers, *training time* runs
from the first trial's first update to the last report, and device seconds are summed over the devices:

    wall_s        seconds from the start of the process to its exit = start_up_s + training time + end_s
    start_up_s    from the start of the process to the first trial's first update
    train_s       device seconds of updates; slots that advance as one program count once
    eval_s        device seconds of validation, likewise
    waiting_s     the rest of devices x training time: decisions, loading, copies for checkpoints, starts of processes
    end_s         from the last report to the exit
    useful_share  of slot-intervals, until the last trial starts: over devices x (last minus first of the trials' first
                  updates), the sum of an interval's duration there times the share of its slots that train. That is
                  n/K where n >= 2 of K slots advance as one program, and 1 where a slot advances by itself. A trial of
                  plain Tune is one interval from its first update to its last report, of which the share is what it
                  trained and evaluated. null where all trials start at once
    refill_s      from a trial's end to the first update of the next in its place, median and worst. Of ours: from the
                  decision, in the same slot; a slot of several also waits there for its neighbours' intervals.
                  Of plain Tune: from the last report, the n-th end being followed by the (n + devices)-th start
    interval_s    median duration of the interval that the trial's last report ended (of ours)

The two early stoppings do not stop the same trials, so `steps` and tokens/s over the whole command are given too. Both
searches have their project's defaults; `reduction_factor` is plain Tune's. What counts in the end is told for both:

    best_whole_loss  lowest validation loss of the trials that were trained to their end, on the same windows
    to_target_s      from the start of the process until such a trial was at least as good as the best of plain Tune's;
                     null if none was
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lmcore.config import DataConfig
from lmcore.cores import cores
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokens import save_tokens

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 3600  # for one command
TOKENS_PER_STEP = 16 * 128
CORES = cores()

Row = dict[str, Any]
Figures = dict[str, Any]


class Workload(NamedTuple):
    """How many trials there are, how long they are, and how early they are stopped."""

    trials: int
    steps: int
    report_every: int
    grace_steps: int
    reduction_factor: int = 3


WORKLOADS = {"16x80": Workload(16, 80, 20, 20), "64x20": Workload(64, 20, 5, 5)}


class Interval(NamedTuple):
    """Some time of one device. Unix seconds, and seconds."""

    began_at: float
    ended_at: float
    train_s: float
    eval_s: float
    useful: float
    """Share of its slots that trained."""


def run_config(workload: Workload, seed: int, tokens: Path, compiled: bool) -> dict[str, Any]:
    """Our sweep as its YAML file says it."""
    return {
        "data": {"source": str(tokens / "train.npy"), "val_source": str(tokens / "val.npy"), "vocab_size": 2048},
        "model": {"d_model": 128, "num_layers": 4, "num_heads": 4, "d_ff": 352, "context_length": 128},
        "train": {
            "steps": workload.steps,
            "batch_size": 16,
            "eval_every": workload.report_every,
            "eval_windows": 64,
            "device": "cpu",
            "dtype": "float32",
            "compile": compiled,
        },
        "search": {
            "method": "optuna",
            "trials": workload.trials,
            "scheduler": "asha",
            "grace_steps": workload.grace_steps,
            "seed": seed,
        },
        "space": {  # plain_tune.py has the same
            "optim.lr": {"low": 3e-4, "high": 3e-2, "log": True},
            "optim.beta1": {"low": 0.8, "high": 0.98},
            "optim.beta2": {"choices": [0.9, 0.95, 0.99, 0.999]},
            "optim.warmup_fraction": {"low": 0.0, "high": 0.2},
        },
    }


def run_ours(workload: Workload, seed: int, tokens: Path, slots: str, compiled: bool) -> tuple[Figures, Row]:
    """One sweep of ours: its figures and its manifest."""

    def command(folder: Path) -> list[str]:
        (folder / "sweep.yaml").write_text(json.dumps(run_config(workload, seed, tokens, compiled)))  # JSON is YAML
        script = str(ROOT / "sweeps" / "run.py")
        options = ["--config", "sweep.yaml", "--name", "bench", "--slots", slots, "--wandb", "off", "--no-dashboard"]
        return [script, *options]

    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "runs" / "bench"
        started, exited = timed(command, Path(name))
        manifest = json.loads((run / "manifest.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # The row of a paused trial that is given up later is repeated with its new status; it was trained once.
    rows = list({(row["trial"], row["step"]): row for row in reversed(lines)}.values())[::-1]
    per_engine = next(iter(manifest["slots"].values()))["per_engine"]
    lasts = {row["trial"]: row for row in rows}
    figures = {
        **phases(started, exited, advances(rows, per_engine), firsts(rows), manifest["hardware"]["engines"]),
        **trained(list(lasts.values()), workload),
        "whole": whole_losses(lasts.values(), "reported_at", started, workload),
        **refills(rows),
        "slots": manifest["slots"],
    }
    return with_rate(figures), manifest


def run_plain(workload: Workload, seed: int, tokens: Path, nanogpt: Path | None) -> Figures:
    """One sweep of plain Ray Tune, around the same model or around nanoGPT's: its figures."""

    def command(folder: Path) -> list[str]:
        numbers = {**workload._asdict(), "seed": seed, "cpus": CORES}
        paths = {"train": tokens / "train.npy", "val": tokens / "val.npy", "out": folder / "trials.jsonl"}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in {**numbers, **paths}.items()]
        options += [] if nanogpt is None else [f"--nanogpt={nanogpt.resolve()}"]
        return [str(Path(__file__).with_name("plain_tune.py")), *options]

    with tempfile.TemporaryDirectory() as name:
        started, exited = timed(command, Path(name))
        trials = [json.loads(line) for line in (Path(name) / "trials.jsonl").read_text().splitlines()]
    intervals = [
        Interval(t["began_at"], t["ended_at"], *busy, sum(busy) / (t["ended_at"] - t["began_at"]))
        for t in trials
        for busy in [(t["train_s"], t["eval_s"])]
    ]
    starts = sorted(t["began_at"] for t in trials)
    ends = sorted(t["ended_at"] for t in trials)
    gaps = [start - end for end, start in zip(ends, starts[CORES:], strict=False)]
    figures = {
        **phases(started, exited, intervals, starts, CORES),
        **trained(trials, workload),
        "whole": whole_losses(trials, "ended_at", started, workload),
        "refill_s": spread(gaps),
    }
    return with_rate(figures)


def timed(command: Callable[[Path], list[str]], folder: Path) -> tuple[float, float]:
    """Run a Python command in `folder` and wait for its exit; Unix seconds of its start and its exit."""
    # A cache of compiled programs that an earlier run has filled would hide what compiling costs.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, *command(folder)]
    log = folder / "output.txt"
    with log.open("wb") as output:
        started = time.time()
        done = subprocess.run(
            arguments, cwd=folder, env=environment, stdout=output, stderr=output, timeout=LIMIT_S, check=False
        )
        exited = time.time()
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(arguments)}\n{tail}")
    return started, exited


def advances(rows: Sequence[Row], slots: int) -> list[Interval]:
    """What the engines did: rows of one (engine, began_at) ran together, and count once."""
    intervals = []
    tokens: dict[str, int] = {}
    elapsed_s: dict[str, float] = {}
    # As each trial's own rows follow each other, so do the advances.
    for (_, began_at), group in groupby(sorted(rows, key=place), key=place):
        together = list(group)
        train_s = max((r["tokens"] - tokens.get(r["trial"], 0)) / r["tokens_per_s"] for r in together)
        whole_s = max(r["elapsed_s"] - elapsed_s.get(r["trial"], 0.0) for r in together)
        tokens |= {r["trial"]: r["tokens"] for r in together}
        elapsed_s |= {r["trial"]: r["elapsed_s"] for r in together}
        useful = len(together) / slots if len(together) > 1 else 1.0
        intervals.append(Interval(began_at, together[0]["reported_at"], train_s, whole_s - train_s, useful))
    return intervals


def place(row: Row) -> tuple[int, float]:
    """The advance that made a row."""
    return row["engine"], row["began_at"]


def firsts(rows: Sequence[Row]) -> list[float]:
    """When each trial began, sorted."""
    began: dict[str, float] = {}
    for row in sorted(rows, key=lambda r: r["began_at"]):
        began.setdefault(row["trial"], row["began_at"])
    return sorted(began.values())


def phases(
    started: float, exited: float, intervals: Sequence[Interval], starts: Sequence[float], devices: int
) -> Figures:
    """Where the time went; `starts` are the trials' first updates, sorted."""
    first, last = starts[0], max(i.ended_at for i in intervals)
    train_s, eval_s = sum(i.train_s for i in intervals), sum(i.eval_s for i in intervals)
    filling_s = starts[-1] - first
    useful_s = sum(i.useful * max(min(i.ended_at, starts[-1]) - i.began_at, 0.0) for i in intervals)
    return {
        "wall_s": exited - started,
        "start_up_s": first - started,
        "train_s": train_s,
        "eval_s": eval_s,
        "waiting_s": devices * (last - first) - train_s - eval_s,
        "end_s": exited - last,
        "devices": devices,
        "useful_share": useful_s / (devices * filling_s) if filling_s else None,
    }


def trained(lasts: Sequence[Row], workload: Workload) -> Figures:
    """What came of it; `lasts` are the trials' last rows."""
    losses = [row["val_loss"] for row in lasts if row["val_loss"] is not None]
    return {
        "trials": len(lasts),
        "whole_trials": sum(row["step"] == workload.steps for row in lasts),
        "steps": sum(row["step"] for row in lasts),
        "best_val_loss": min(loss for loss in losses if loss == loss),  # a loss that is not a number equals nothing
    }


def whole_losses(lasts: Iterable[Row], at: str, started: float, workload: Workload) -> list[tuple[float, float]]:
    """Seconds from the start of the process, and loss, of each trial that was trained to its end; in order."""
    whole = [row for row in lasts if row["step"] == workload.steps and row["val_loss"] is not None]
    return sorted((row[at] - started, row["val_loss"]) for row in whole if math.isfinite(row["val_loss"]))


def with_target(figures: Figures, target: float) -> Figures:
    """The figures, with the best loss of a whole trial, and when one reached the target."""
    whole = figures.pop("whole")
    reached = [seconds for seconds, loss in whole if loss <= target]
    best = min((loss for _, loss in whole), default=None)
    return {**figures, "best_whole_loss": best, "to_target_s": reached[0] if reached else None}


def refills(rows: Sequence[Row]) -> Figures:
    """How soon after a trial's end the next one trained in its slot, and how long its last interval was."""
    gaps, last_intervals = [], []

    def slot(row: Row) -> tuple[int, int]:
        return row["engine"], row["slot"]

    for _, group in groupby(sorted(rows, key=lambda r: (*slot(r), r["began_at"])), key=slot):
        for row, following in pairwise(group):
            if row["status"] != "running" and following["trial"] != row["trial"]:
                gaps.append(following["began_at"] - row["decided_at"])
                last_intervals.append(row["reported_at"] - row["began_at"])
    return {"refill_s": spread(gaps), "interval_s": statistics.median(last_intervals) if gaps else None}


def spread(values: Sequence[float]) -> Figures | None:
    """Median and worst; None without any."""
    return {"median": statistics.median(values), "worst": max(values), "count": len(values)} if values else None


def with_rate(figures: Figures) -> Figures:
    """The figures, with tokens/s over the whole command."""
    return {**figures, "tokens_per_s": figures["steps"] * TOKENS_PER_STEP / figures["wall_s"]}


def ratios(rounds: Sequence[Mapping[str, Figures]]) -> Figures:
    """Plain over ours, medians of the rounds: seconds to plain's best loss, of the command, and per trained token."""
    reached = [r["plain"]["to_target_s"] / (r["ours"]["to_target_s"] or math.inf) for r in rounds]
    return {
        "to_target": statistics.median(reached),
        "wall_clock": statistics.median(r["plain"]["wall_s"] / r["ours"]["wall_s"] for r in rounds),
        "per_token": statistics.median(r["ours"]["tokens_per_s"] / r["plain"]["tokens_per_s"] for r in rounds),
    }


COLUMNS = ("wall_s", "start_up_s", "train_s", "eval_s", "waiting_s", "end_s", "useful_share")
COUNTS = ("trials", "whole_trials", "steps", "tokens_per_s")
LOSSES = ("best_whole_loss", "to_target_s")


def print_table(key: str, rounds: Sequence[Mapping[str, Figures]]) -> None:
    """Every run as a line, and the medians of the rounds' ratios."""
    print(f"\n{key}\n{'':9}" + "".join(f"{name:>14}" for name in (*COLUMNS, *COUNTS, *LOSSES)))
    for n, figures in enumerate(rounds):
        for side in ("ours", "plain"):
            f = figures[side]
            cells = ["-" if f[name] is None else f"{f[name]:.2f}" for name in COLUMNS]
            cells += [f"{f[name]:.0f}" for name in COUNTS]
            cells += ["-" if f[name] is None else f"{f[name]:.3f}" for name in LOSSES]
            print(f"{side:6}{n:3}" + "".join(f"{cell:>14}" for cell in cells))
    ratio = ratios(rounds)
    print(f"plain / ours: {ratio['to_target']:.2f} to plain's best loss, {ratio['wall_clock']:.2f} in wall clock")
    print(f"              {ratio['per_token']:.2f} per trained token")
    for side in ("ours", "plain"):
        seconds = [r[side]["refill_s"] for r in rounds if r[side]["refill_s"]]
        if seconds:
            median = statistics.median(s["median"] for s in seconds)
            print(f"from a trial's end to the next one's start, {side}: median {median:.2f} s, ", end="")
            print(f"worst {max(s['worst'] for s in seconds):.2f} s")
    intervals = [r["ours"]["interval_s"] for r in rounds if r["ours"]["interval_s"] is not None]
    if intervals:
        print(f"an interval of ours: {statistics.median(intervals):.2f} s", flush=True)


def rounded(value: Any) -> Any:
    """The figures with four decimals."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Run, print the tables, rewrite the JSON after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--slots", default="auto", help="of ours: auto, or so many for each engine")
    parser.add_argument("--compile", action="store_true", help="ours with train.compile, from an empty cache")
    parser.add_argument("--nanogpt", metavar="DIR", type=Path, help="plain Tune trains nanoGPT's model.py from there")
    # A quarter of all trials and steps, to see that both sides work.
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/bench/results/sweep.json", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running command ends as well
    quick_divisor = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        save_tokens(prepare_tokens(DataConfig()), tokens)
        for name in [options.only] if options.only else WORKLOADS:
            whole = WORKLOADS[name]
            trials, steps, report_every, grace_steps = (n // quick_divisor for n in whole[:4])
            workload = Workload(trials, steps, report_every, grace_steps, whole.reduction_factor)
            label = "quick " if options.quick else ""
            peer = "" if options.nanogpt is None else " nanoGPT"
            key = f"{label}{name} slots={options.slots}{' compiled' if options.compile else ''}{peer}"
            rounds: list[dict[str, Any]] = []
            for seed in range(options.rounds):
                load = os.getloadavg()[0]  # of whatever else this machine did
                ours, manifest = run_ours(workload, seed, tokens, options.slots, options.compile)
                print(f"{key}, round {seed}: ours {ours['wall_s']:.1f} s", end="", flush=True)
                plain = run_plain(workload, seed, tokens, options.nanogpt)
                print(f", plain {plain['wall_s']:.1f} s", flush=True)
                target = min((loss for _, loss in plain["whole"]), default=math.nan)
                sides = {"ours": with_target(ours, target), "plain": with_target(plain, target)}
                rounds.append({"seed": seed, "load": load, **sides})
                print_table(key, rounds)
                entry = {
                    "command": f"python tests/bench/sweep.py {' '.join(sys.argv[1:])}".strip(),
                    **{part: manifest[part] for part in ("commit", "versions", "hardware")},
                    "data": manifest["data"]["fingerprint"],
                    "workload": workload._asdict(),
                    "plain_over_ours": ratios(rounds),
                    "rounds": rounds,
                }
                write(options.out, key, rounded(entry))


def write(out: Path, key: str, entry: Figures) -> None:
    """Replace one entry of the JSON file."""
    results = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({**results, key: entry}, indent=2) + "\n")


if __name__ == "__main__":
    main()
