"""What packing gains on a CPU: tokens/s of K slots that advance as one program, against other ways to train the trials.

The other ways are (a) one trial after the other in a warm process, the other cores idle (`serial`), and
(b) one process per core (`per_core`). `packed K` is one process per core with K slots each, `looped K` the same slots
without batching, and `auto` one process per core with as many slots as it measures to be worthwhile, as a sweep does.
A GPU is measured by tests/bench/gpu.sh.

Each process lives as long as its size is measured, and holds the trainers of all arms, which take turns, so that what
else the machine does meets all of them. All processes of an arm begin at once; its rate is all their tokens over the
time until the last is done. Evaluation is not counted. Ratios are of arms in the same round; medians are over rounds.

Needs lmcore alone, and a checkout of it is enough. The JSON is written again after each round; other keys of
the file are kept (`uncompiled`, `compiled`), so that both can lie side by side.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout is enough, nothing need be installed

import numpy as np
import torch

from lmcore import columns as col
from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.cores import cores, processor
from lmcore.corpus.tokens import Tokens
from lmcore.measure.slot_count import MIN_GAIN, ThroughputSample, average_samples, worthwhile_slots
from lmcore.measure.throughput import is_out_of_memory, measure_doubling
from lmcore.params import count_parameters
from lmcore.trainer import Trainer
from tests.bench.circumstances import commit, package_version, write_json
from tests.bench.processes import Processes

TRAIN_TOKENS = 2**19
SMALL = 200_000  # parameters, below which packing has a goal of its own on a CPU
BASELINES = ("serial", "per_core")
"""Arms in which no process has more than one slot; the second is what a packed one would be with K = 1."""


@dataclass(frozen=True)
class Size:
    """A model, and how it is measured."""

    model: ModelConfig
    batch_size: int
    updates: int
    """From one report to the next."""
    slots: tuple[int, ...]
    """K of the packed arms."""
    looped: int | None = None
    """K of the arm whose slots run one after the other."""

    @property
    def parameters(self) -> int:
        """Exactly, of one slot."""
        return int(count_parameters(self.model))


def model(d: int, layers: int, d_ff: int, vocab: int, context: int, heads: int = 4, tied: bool = False) -> ModelConfig:
    """A model with everything else as it is by default."""
    return ModelConfig(
        d_model=d,
        num_layers=layers,
        num_heads=heads,
        d_ff=d_ff,
        vocab_size=vocab,
        context_length=context,
        tie_embeddings=tied,
    )


SIZES: dict[str, Size] = {
    "0.13M": Size(model(64, 2, 176, 256, 64), 8, 10, (2, 4, 8, 16), looped=4),
    "0.46M": Size(model(64, 4, 176, 2048, 128), 8, 5, (2, 4, 8), looped=4),
    "1.33M": Size(model(128, 4, 352, 2048, 128), 16, 2, (2, 4), looped=4),
}
EXTRA = {"0.16M-V2048": Size(model(32, 2, 88, 2048, 128), 8, 10, (2, 4, 8, 16), looped=4)}


class Setting(NamedTuple):
    """How one process trains in one arm."""

    slots: int
    batched: bool
    compile: bool


class Burst(NamedTuple):
    """What a process trained. Times are those of one clock that all processes share."""

    began_s: float
    ended_s: float
    """Less the time of evaluations."""
    tokens: int


class Bench:
    """The trainers of one process; its public methods are what the parent asks for."""

    def __init__(self, size: Size, processes: int) -> None:
        torch.set_num_threads(1)
        self._size = size
        rng = np.random.default_rng(0)
        train, val = (
            rng.integers(0, size.model.vocab_size, n, dtype=np.uint16) for n in (TRAIN_TOKENS, TRAIN_TOKENS // 8)
        )
        self._tokens = Tokens.of(train, val, size.model.vocab_size)
        self._trainers: dict[tuple[int, bool], Trainer] = {}
        self._memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes

    def samples(self, setting: Setting) -> list[ThroughputSample]:
        """What an engine measures."""
        return measure_doubling(self._run(setting), self._tokens, self._memory_bytes)

    def prepare(self, setting: Setting) -> float | None:
        """Make and warm up the setting's trainer: seconds of an interval, None where memory ran out."""
        key = _program(setting)
        try:
            if key not in self._trainers:
                self._trainers[key] = Trainer([self._run(setting)] * setting.slots, self._tokens)
            self.burst(setting, 1)
            burst = self.burst(setting, 1)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._trainers.pop(key, None)
            return None
        return burst.ended_s - burst.began_s

    def burst(self, setting: Setting, intervals: int) -> Burst:
        """Train `intervals` intervals."""
        trainer = self._trainers[_program(setting)]
        trained_s, tokens = 0.0, 0
        began_s = time.perf_counter()
        for _ in range(intervals):
            rows = trainer.advance(list(range(setting.slots)), setting.batched)
            per_slot = self._size.updates * self._size.batch_size * self._size.model.context_length
            # The time of an interval is that of all its slots together, whichever row tells it.
            trained_s += per_slot / rows[0][col.TOKENS_PER_S]
            tokens += per_slot * len(rows)
        return Burst(began_s, began_s + trained_s, tokens)

    def _run(self, setting: Setting) -> RunSpec:
        train = TrainConfig(
            steps=2**40,  # never ends
            batch_size=self._size.batch_size,
            eval_every=self._size.updates,
            eval_windows=1,
            device="cpu",
            dtype="float32",
            compile=setting.compile,
            threads=1,
        )
        return RunSpec(model=self._size.model, train=train)


def _program(setting: Setting) -> tuple[int, bool]:
    """What settings share that differ only in how a trainer's slots advance."""
    return setting.slots, setting.compile


def arms_of(size: Size, processes: int, compiled: bool) -> dict[str, list[Setting]]:
    """The settings of each arm's processes, by its name; `auto` is not among them."""
    one = Setting(1, False, compiled)
    arms = {"serial": [one], "per_core": [one] * processes}
    arms |= {f"packed {k}": [one._replace(slots=k, batched=True)] * processes for k in size.slots}
    if size.looped is not None:
        arms[f"looped {size.looped}"] = [one._replace(slots=size.looped)] * processes
    return arms


class Measurement:
    """The arms of one size, round by round."""

    def __init__(self, name: str, size: Size, args: argparse.Namespace) -> None:
        self._name, self._size, self._args = name, size, args
        self._number = args.processes
        self._rates: dict[str, list[float]] = {}
        self._dropped: list[str] = []
        self._intervals: dict[str, int] = {}
        self._processes = Processes(self._number, Bench, size, self._number)

    def warm_up(self) -> None:
        """Make every arm's trainers, and find how many intervals fill the time of a round."""
        self._arms = arms_of(self._size, self._number, self._args.compile)
        one = self._arms[BASELINES[-1]][0]
        # All at once, as engines find the machine when they measure.
        self._paces = average_samples(self._processes.ask("samples", [one] * self._number))
        slots = worthwhile_slots(self._paces)
        self._arms["auto"] = [one._replace(slots=slots, batched=slots > 1)] * self._number
        for arm, settings in list(self._arms.items()):
            took = self._processes.ask("prepare", settings)
            if None in took:
                self._dropped.append(arm)
                del self._arms[arm]
                continue
            self._intervals[arm] = max(1, round(self._args.seconds / max(took)))
            self._rates[arm] = []

    def round(self) -> None:
        """Measure every arm once, in an order of its own."""
        order = list(self._arms)
        random.shuffle(order)
        for arm in order:
            bursts = [Burst(*b) for b in self._processes.ask("burst", self._arms[arm], self._intervals[arm])]
            seconds = max(b.ended_s for b in bursts) - min(b.began_s for b in bursts)
            self._rates[arm].append(sum(b.tokens for b in bursts) / seconds)

    def close(self) -> None:
        """End its processes."""
        self._processes.close()

    def result(self) -> dict[str, Any]:
        """Everything measured so far, and what follows from it."""
        size = self._size
        rivals = [arm for arm in BASELINES if arm in self._rates]
        better = [max(rates) for rates in zip(*(self._rates[arm] for arm in rivals), strict=True)]
        arms: dict[str, dict[str, Any]] = {
            arm: {
                "tokens_per_s": round(statistics.median(rates)),
                "slots": [setting.slots for setting in self._arms[arm]],
                **{f"vs_{rival}": ratio(rates, self._rates[rival]) for rival in rivals},
                "vs_better": ratio(rates, better),
                "rounds": [round(rate) for rate in rates],
            }
            for arm, rates in self._rates.items()
        }
        gains = self._gains()
        return {
            "parameters": size.parameters,
            "model": size.model.model_dump(),
            "batch_size": size.batch_size,
            "processes": self._number,
            "arms": arms,
            "out_of_memory": self._dropped,
            "auto_paces": [sample._asdict() for sample in self._paces],
            "gain_of_doubling_to": gains,
            "first_k_below_min_gain": next((k for k, gain in gains.items() if gain < MIN_GAIN), None),
            "losing": [arm for arm in arms if arm.startswith("packed") and arms[arm]["vs_better"] < 1],
            "goals": goals(size.parameters, arms),
        }

    def _gains(self) -> dict[int, float]:
        """Of each K over the K before it, in tokens/s."""
        before = self._rates[BASELINES[-1]]
        gains: dict[int, float] = {}
        for k in self._size.slots:
            if (rates := self._rates.get(f"packed {k}")) is None:
                break
            gains[k] = ratio(rates, before)
            before = rates
        return gains


def ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of the same round."""
    return round(statistics.median(a / b for a, b in zip(rates, others, strict=True)), 3)


def goals(parameters: int, arms: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at for a model of so many parameters, and whether `auto` is there."""
    aims = [("vs_better", 0.97)] + ([("vs_better", 1.3)] if parameters < SMALL else [])
    auto = arms.get("auto", {})
    return [
        {"auto": name, "at_least": least, "is": auto.get(name), "met": auto.get(name, 0.0) >= least}
        for name, least in aims
    ]


def show(name: str, result: dict[str, Any]) -> None:
    """Print a size's table and what follows from it."""
    arms = result["arms"]
    ratios = [column for column in next(iter(arms.values())) if column.startswith("vs_")]
    print(
        f"\n{name}: {result['parameters']:,} parameters, batch {result['batch_size']}, {result['processes']} processes"
    )
    print(f"  {'arm':<10} {'slots':>8} {'tokens/s':>10} " + " ".join(f"{column:>12}" for column in ratios))
    for arm, values in arms.items():
        slots = "+".join(map(str, values["slots"])) if len(values["slots"]) <= 4 else f"{values['slots'][0]} x n"
        line = " ".join(f"{values[column]:>11.2f}x" for column in ratios)
        print(f"  {arm:<10} {slots:>8} {values['tokens_per_s']:>10,} {line}")
    for arm in result["out_of_memory"]:
        print(f"  {arm}: out of memory")
    first = result["first_k_below_min_gain"]
    gains = ", ".join(f"{gain:.2f}x to {k}" for k, gain in result["gain_of_doubling_to"].items())
    print(f"  the gain of more slots falls below {MIN_GAIN}x at K = {first or 'none measured'} ({gains})")
    print(f"  packing loses: {', '.join(result['losing']) or 'nowhere'}")
    for goal in result["goals"]:
        verdict = "met" if goal["met"] else "NOT met"
        print(f"  goal: auto {goal['auto']} >= {goal['at_least']}x: {verdict} ({goal['is']})")


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """Command, hardware, versions and commit."""
    packages = ("torch", "numpy", "pydantic")
    return {
        "command": " ".join(["python", "tests/bench/packing.py", *sys.argv[1:]]),
        "hardware": {
            "machine": platform.machine(),
            "processor": processor(),
            "cores": cores(),
            "processes": args.processes,
        },
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
        "commit": args.commit or commit(),
        "seconds_of_a_round": args.seconds,
    }


def write(out: Path, key: str, result: dict[str, Any]) -> None:
    """Put `result` under `key` of the file, whole or not at all."""
    known = json.loads(out.read_text()) if out.exists() else {}
    write_json(out, known | {key: result})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="train.compile in all arms")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of training of an arm in a round, about")
    parser.add_argument("--sizes", nargs="+", metavar="NAME", help="some of the sizes; default: all but the extra ones")
    parser.add_argument("--extra", action="store_true", help="also the extra sizes")
    parser.add_argument("--processes", type=int, default=cores(), help="default: cores")
    parser.add_argument("--commit", help="of the code, where the checkout has no git")
    parser.add_argument("--out", type=Path, help="default: results/packing-cpu.json beside this file")
    args = parser.parse_args()
    args.known = SIZES | EXTRA
    if args.sizes and (unknown := set(args.sizes) - set(args.known)):
        parser.error(f"--sizes: must be of {', '.join(args.known)}, got {', '.join(sorted(unknown))}")
    chosen = args.sizes or [*SIZES, *(EXTRA if args.extra else ())]
    args.known = {name: args.known[name] for name in chosen}
    args.out = args.out or Path(__file__).parent / "results" / "packing-cpu.json"
    return args


def main() -> None:
    """Measure size after size, and write the JSON after each round."""
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes, as a sweep's are
    key = "compiled" if args.compile else "uncompiled"
    result: dict[str, Any] = {**circumstances(args), "sizes": {}}
    for name, size in args.known.items():
        measurement = Measurement(name, size, args)
        try:
            measurement.warm_up()
            for _ in range(args.rounds):
                measurement.round()
                result["sizes"][name] = measurement.result()
                write(args.out, key, result)
        finally:
            measurement.close()
        show(name, result["sizes"][name])


if __name__ == "__main__":
    main()
