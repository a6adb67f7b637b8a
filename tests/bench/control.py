"""What a trial costs besides its training: trials that do nothing, through the real driver and through Tune's own ways.

    python tests/bench/control.py [--trials 1000] [--peer-trials 50] [--blocks 2]    # writes results/control.json

Every trial answers four reports at once, and eight run at a time. Three contenders, each start in a process and a Ray
of its own:

    ours        the driver as it is (ledger in SQLite, random search, searcher, scheduler, trial proxies, files),
                with an engine that has its rows ready: `sweeps.engine.roster.SlotWorker` is replaced and nothing else
    defaults    Tune as it comes: a function trainable, OptunaSearch with Optuna's RandomSampler
    reuse       the same with a class trainable and reuse_actors=True

In each block they take turns with a few trials each; then ours has a long run, in which the cost of a trial must not
grow, and a short one whose engine withholds the rows for ten seconds, in which the trial proxies are looked at.

A trial's cost is taken between the end of the 16th trial and the end of the last one: the start of Ray and of the
workers is not in it, of which a long run has less per trial than a short one (`whole_ms` has it).
"""

import argparse
import asyncio
import json
import logging
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

import sweeps.engine.roster
from lmcore import columns as col
from lmcore.config import TrainConfig
from lmcore.corpus.tokens import Tokens
from lmcore.device import Machine, resolve
from lmcore.measure.slot_count import ThroughputSample
from lmcore.runfile.run_file import ONLY_SIZE
from sweeps.callbacks.base import Callbacks
from sweeps.callbacks.metrics_file import RowFile
from sweeps.callbacks.trial_files import TrialFiles
from sweeps.cluster.connect import connect
from sweeps.cluster.membership import Membership
from sweeps.cluster.ray_cluster import Cluster
from sweeps.engine.pool import WorkerPool
from sweeps.engine.worker_trial import Heartbeat
from sweeps.provenance.manifest import manifest
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder
from sweeps.study.storage import open_storage, quiet_optuna
from sweeps.tune.trainable import TrialTrainable
from sweeps.tune.tuner import tune_all

ROOT = Path(__file__).resolve().parents[2]
REPORTS = 4
CONCURRENT = 8
WARM = 2 * CONCURRENT  # trials that have ended before the clock starts
HUNDRED = 100
SETTLE_S, WAIT_S = 3.0, 10.0
CONTENDERS = ("defaults", "reuse", "ours")


def row_of(trial: str, step: int) -> dict[str, Any]:
    """A report row whose loss is random, so that the best trial changes now and then."""
    row: dict[str, Any] = dict.fromkeys(col.REPORT_COLUMNS, 1.0)
    row |= dict.fromkeys(col.FINAL_COLUMNS)
    return row | {col.STEP: step, col.SLOT: 0, col.VAL_LOSS: random.Random(f"{trial} {step}").uniform(3, 5)}


class ReadyWorker:
    """A worker that has every row ready, or withholds all but the first ones."""

    def __init__(self, number: int, folder: str, slots: int | None, *_: Any) -> None:
        self._number, self._slots = number, slots
        self._released = asyncio.Event()
        self._released.set()

    async def prove(self) -> None:
        """Nothing is wrong with it."""

    async def measure(self, run: dict[str, Any], shared: list[Any]) -> list[ThroughputSample]:
        """It holds as many trials as it was told."""
        return [ThroughputSample(self._slots or 1, 1.0, 1.0, 0)]

    async def submit(self, *arguments: Any) -> bool:
        """Nothing to prepare."""
        return True

    async def row(self, trial: str, step: int, *_: Any) -> dict[str, Any] | None:
        """The row after `step`."""
        if step > 0:
            await self._released.wait()
        now = time.time()
        place = dict.fromkeys(col.PLACE_COLUMNS, 0) | {col.ENGINE: self._number, col.WIDTH: 1}
        return row_of(trial, step + 1) | place | {col.BEGAN_AT: now, col.REPORTED_AT: now}

    async def release(self, trial: str, ended: bool = True) -> None:
        """Nothing to free."""

    async def pause(self, trial: str) -> None:
        """Nothing to save."""

    async def ping(self) -> None:
        """It is alive."""

    async def peak(self, train: TrainConfig) -> float:
        """It multiplies no matrices."""
        return 1.0

    async def heartbeat(self, hung_after_s: float = math.inf) -> Heartbeat:
        """It is never busy."""
        return Heartbeat(0.0, [], None)

    async def stop(self) -> None:
        """It has no checkpoints to write."""

    async def withhold(self) -> None:
        """Withhold rows from now on."""
        self._released.clear()

    async def give_out(self) -> None:
        """Give out what was withheld."""
        self._released.set()


class Idle:
    """An actor that does nothing: what Ray itself uses in a process."""

    def pid(self) -> int:
        """This process's id."""
        return os.getpid()


@dataclass(frozen=True)
class Course:
    """When the trials of a run ended, in Unix seconds, and how long the run took as a whole."""

    ends: list[float]
    whole_s: float

    @property
    def summary(self) -> dict[str, float]:
        """Milliseconds of a trial."""
        ends = sorted(self.ends)
        return {
            "trials": len(ends),
            "trial_ms": round(1000 * (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM), 1),
            "whole_ms": round(1000 * self.whole_s / len(ends), 1),
        }

    @property
    def growth(self) -> dict[str, float]:
        """Milliseconds of a trial among the first hundred after the start, and among the last hundred."""
        ends = sorted(self.ends)
        few = min(HUNDRED, (len(ends) - WARM) // 2)
        first, last = ((ends[n + few - 1] - ends[n - 1]) / few for n in (WARM, len(ends) - few))
        return {
            "trials_each": few,
            "first_ms": round(1000 * first, 1),
            "last_ms": round(1000 * last, 1),
            "ratio": round(last / first, 3),
        }


def run_ours(cluster: Cluster, path: Path, trials: int, waits: bool = False) -> tuple[Course, dict[str, Any]]:
    """`trials` trials through the driver, and the manifest; with `waits`, what waiting trial proxies use."""
    vars(sweeps.engine.roster)["SlotWorker"] = ReadyWorker  # what engines are made of
    path.mkdir()
    folder = RunFolder(path)
    train = resolve(TrainConfig(steps=REPORTS, eval_every=1, device="cpu"), Machine(cuda=False))
    spec = SweepSpec.model_validate(
        {
            "name": "control",
            "train": train,
            "space": {"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}, "optim.beta2": [0.9, 0.95, 0.99]},
            "search": {
                "method": "random",
                "scheduler": "none",
                "trials": trials,
                "concurrent": CONCURRENT,
                "slots": math.ceil(CONCURRENT / min(cluster.engines(train), CONCURRENT)),
            },
        }
    )
    tokens = Tokens.of([1, 2] * 200, [1, 2] * 200, spec.model.vocab_size)
    most = min(CONCURRENT, trials)
    engines = WorkerPool(cluster, spec, tokens, folder, most, Membership(cluster.nodes))
    engines.wait()
    ledger = Ledger(spec, open_storage(None, folder))
    choices = engines.choices()
    engines.open(choices)
    rows = RowFile(folder.metrics)
    callbacks = Callbacks([rows, TrialFiles(folder, ledger)])
    look = Look(engines, folder) if waits else None
    began = time.time()
    tune_all(ArrivalOrder(ledger), engines, callbacks, folder, most)
    whole_s = time.time() - began
    rows.close()
    last = {row[col.TRIAL]: row for row in map(json.loads, folder.metrics.read_text().splitlines())}
    statuses = list(ledger.statuses().values())
    assert statuses.count(col.COMPLETE) == trials, f"{trials} trials must complete, got {statuses}"
    facts = manifest(spec, tokens, cluster, engines.peaks(), choices)
    engines.close()
    return Course([row[col.DECIDED_AT] for row in last.values()], whole_s), look.seen if look else facts


class Look:
    """Looks at the trial proxies from a thread of the driver, while their engines withhold the rows."""

    def __init__(self, engines: WorkerPool, folder: RunFolder) -> None:
        self.seen: dict[str, Any] = {}
        self._engines, self._folder = engines, folder
        ray.get([handle.withhold.remote() for handle in engines.ready.values()])
        actor: Any = ray.remote(Idle)
        self._idle = actor.options(num_cpus=1).remote()
        self._idle_pid = ray.get(self._idle.pid.remote())
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while self._folder.metrics.read_bytes().count(b"\n") < CONCURRENT:
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        proxies = [
            pid
            for pid, title in descendants(os.getpid()).items()
            if title.startswith((f"ray::{TrialTrainable.__name__}", f"ray::{ONLY_SIZE}-"))
        ]
        before = {pid: cpu_s(pid) for pid in (*proxies, self._idle_pid)}
        time.sleep(WAIT_S)
        uses = [
            {"pss_mb": pss_mb(pid), "cpu_ms": round(1000 * (cpu_s(pid) - before_s))} for pid, before_s in before.items()
        ]
        self.seen = {"seconds": WAIT_S, "proxies": uses[:-1], "idle_actor": uses[-1]}
        ray.get([handle.give_out.remote() for handle in self._engines.ready.values()])


def descendants(ancestor: int) -> dict[int, str]:
    """Titles of all processes below `ancestor`, by process id."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int(_stat(int(process.name))[1])
            titles[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it has ended
    below, fresh = set(), {ancestor}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        below |= fresh
    return {pid: titles[pid] for pid in below}


def cpu_s(pid: int) -> float:
    """User and system time of a process; the kernel counts in ticks of a hundredth of a second."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Proportional set size: memory of its own, and its share of what it shares, in units of 10**6 bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 1)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def reporting_function(config: dict[str, Any]) -> None:
    """A trial as Tune's tutorials write it."""
    for step in range(1, REPORTS + 1):
        tune.report(row_of(str(config["lr"]), step))


class ReportingClass(tune.Trainable):
    """A trial whose process outlives it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial."""
        self._trial, self._made = str(new_config["lr"]), 0
        return True

    def step(self) -> dict[str, Any]:
        """The next row."""
        self._made += 1
        return {**row_of(self._trial, self._made), "done": self._made == REPORTS}


class Ends(tune.Callback):
    """When trials ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the time."""
        self.times.append(time.time())


def run_peer(path: Path, trials: int, reuse: bool) -> Course:
    """`trials` trials as Tune runs them."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    quiet_optuna()
    ends = Ends()
    tuner = tune.Tuner(
        ReportingClass if reuse else reporting_function,
        param_space={"lr": tune.loguniform(3e-4, 3e-2), "beta2": tune.choice([0.9, 0.95, 0.99])},
        tune_config=tune.TuneConfig(
            metric=col.VAL_LOSS,
            mode="min",
            search_alg=OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=0)),
            num_samples=trials,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(path),
            verbose=0,
            callbacks=[ends],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # there is nothing to save
        ),
    )
    began = time.time()
    tuner.fit()
    whole_s = time.time() - began
    assert len(ends.times) == trials, f"{trials} trials must complete, but {len(ends.times)} did"
    return Course(ends.times, whole_s)


def contend(contender: str, trials: int, long_run: bool, out: Path) -> None:
    """One contender's part, in this process; what it measured goes to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        if contender == "ours":
            with connect(None, dashboard=None) as cluster:
                course, facts = run_ours(cluster, Path(folder) / "run", trials)
                result: dict[str, Any] = {**course.summary}
                if long_run:
                    result |= {"growth": course.growth}
                    result |= {"waiting": run_ours(cluster, Path(folder) / "waits", CONCURRENT, waits=True)[1]}
                    result |= {name: facts[name] for name in ("versions", "hardware", "commit")}
        else:
            ray.init(
                address="local",  # never a cluster that somebody else started on this machine
                num_cpus=CONCURRENT + 1,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            result = {**run_peer(Path(folder), trials, reuse=contender == "reuse").summary}
            ray.shutdown()
    out.write_text(json.dumps(result))


def in_own_process(contender: str, trials: int, long_run: bool = False) -> dict[str, Any]:
    """`contend` in a process of its own, from an environment in which Tune is as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--part", contender, "--trials", str(trials), "--out", str(out)]
        # Ray reads the mode when it is imported, which is here before `connect` sets it.
        environment = os.environ | {"RAY_AUTH_MODE": "token"}
        subprocess.run([*command, *(["--long"] if long_run else [])], cwd=folder, check=True, env=environment)
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def goals(blocks: Sequence[dict[str, Any]], long_run: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it is so."""
    medians = {name: statistics.median(block[name]["trial_ms"] for block in blocks) for name in CONTENDERS}
    waiting = long_run["waiting"]["proxies"]
    aims = [
        *((f"ours / {peer}, a short run each", medians["ours"] / medians[peer], most) for peer, most in PEER_GOALS),
        *((f"ours (long run) / {peer}", long_run["trial_ms"] / medians[peer], most) for peer, most in PEER_GOALS),
        ("last hundred / first hundred", long_run["growth"]["ratio"], 1.2),
        ("PSS of a waiting trial proxy, MB", max(worker["pss_mb"] for worker in waiting), 150.0),
        ("CPU time of a waiting trial proxy, ms in 10 s", statistics.median(w["cpu_ms"] for w in waiting), 0.0),
    ]
    return [{"goal": goal, "is": round(value, 3), "at_most": most, "met": value <= most} for goal, value, most in aims]


PEER_GOALS = (("defaults", 0.6), ("reuse", 1.5))


def main() -> None:
    """Run the blocks and the long run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of ours, in the long run")
    parser.add_argument("--peer-trials", type=int, default=50, help="of each contender in each block")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--part", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "control.json")
    args = parser.parse_args()
    if min(args.trials, args.peer_trials) < WARM + 4:
        parser.error(f"--trials, --peer-trials: must be {WARM + 4} or more, as the first {WARM} are not counted")
    if args.part:
        contend(args.part, args.trials, args.long, args.out)
        return
    blocks = []
    for number in range(args.blocks):
        # The other way round in every second block, so that no contender always comes first.
        order = CONTENDERS[:: 1 if number % 2 == 0 else -1]
        blocks.append({contender: in_own_process(contender, args.peer_trials) for contender in order})
        for contender in CONTENDERS:
            print(
                f"block {number + 1}: {contender:<9} {blocks[-1][contender]['trial_ms']:>7.1f} ms a trial", flush=True
            )
    long_run = in_own_process("ours", args.trials, long_run=True)
    growth = long_run["growth"]
    print(
        f"ours, {args.trials} trials: {long_run['trial_ms']:.1f} ms a trial; "
        f"first {growth['trials_each']} {growth['first_ms']:.1f}, last {growth['last_ms']:.1f}"
    )
    circumstances = {name: long_run.pop(name) for name in ("versions", "hardware", "commit")}
    print(f"waiting trial proxies: {long_run['waiting']}")
    met = goals(blocks, long_run)
    for goal in met:
        print(f"{goal['goal']:<45} {goal['is']:>8}  goal <= {goal['at_most']}: {'met' if goal['met'] else 'NOT met'}")
    result = {
        "command": " ".join(["python", "tests/bench/control.py", *sys.argv[1:]]),
        **circumstances,
        "reports_per_trial": REPORTS,
        "concurrent": CONCURRENT,
        "goals": met,
        "long_run": long_run,
        "blocks": blocks,
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
