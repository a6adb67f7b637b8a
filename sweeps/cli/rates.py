"""How fast one trial trains, for the dry run: given by the user or measured here, and how many can train at a time."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmcore.config import RunSpec, TrainConfig
from lmcore.cores import available_memory, cores
from lmcore.device import spent_flops
from lmcore.errors import InputError
from lmcore.memory import estimate_memory
from lmcore.params import flops_per_token
from lmcore.runfile.paths import show
from sweeps.spec.sweep_spec import SweepSpec

MEMORY_SHARE = 0.8  # of the memory that is free may be used for measuring
SYNTHETIC_WINDOWS = 64


@dataclass(frozen=True)
class Rates:
    """Training speed of each size's base run, and where it comes from.

    >>> Rates({"xs": 20_000.0}, "given").tokens_per_s["xs"]
    20000.0
    """

    tokens_per_s: Mapping[str, float]
    """Tokens per second of one trial that trains alone on one engine, by size."""
    source: str
    """`given` or `measured`."""

    def device_hours(self, base: RunSpec, size: str, flops: float) -> float:
        """Hours that one engine takes for `flops` of training, at the speed of the base run of `size`."""
        return flops / (self.tokens_per_s[size] * flops_per_token(base.model)) / 3600


def given_rates(texts: Sequence[str], sizes: Sequence[str]) -> Rates:
    """The rates of `--tokens-per-s`: `N` for every size, `SIZE=N` for one. InputError if one is wrong or missing.

    >>> given_rates(["20e3", "s=9000"], ["xs", "s"]).tokens_per_s
    {'xs': 20000.0, 's': 9000.0}
    """
    found: dict[str, float] = {}
    for text in sorted(texts, key=lambda text: "=" in text):  # a size's own rate replaces that of all
        name, equals, number = text.rpartition("=")
        if equals and name not in sizes:
            rule = f"must name a size of the sweep (got {show(name)})"
            raise InputError(f"--tokens-per-s: {rule}; choose one of {', '.join(sizes)}")
        rate = 0.0
        with suppress(ValueError):
            rate = float(number)
        if not 0 < rate < math.inf:
            raise InputError(f"--tokens-per-s: must be a number above 0 (got {show(number)}); write 20000, or xs=20000")
        found |= dict.fromkeys([name] if equals else sizes, rate)
    if missing := [size for size in sizes if size not in found]:
        rule = f"must cover every size (got none for {', '.join(missing)})"
        raise InputError(f"--tokens-per-s: {rule}; add --tokens-per-s {missing[0]}=N")
    return Rates({size: found[size] for size in sizes}, "given")


def measured_rates(spec: SweepSpec) -> Rates:
    """Train the base run of each size for a few seconds on random tokens. InputError if one does not fit in memory.

    Imports torch. Compilation is not part of it, and other load on the machine lowers the rates.
    """
    import numpy as np

    from lmcore.corpus.tokens import Tokens
    from lmcore.device import resolve_run, this_machine
    from lmcore.measure.throughput import measure_one

    rates = {}
    for size in spec.size_names:
        run = resolve_run(spec.run_for(size, {}), this_machine())
        needed, free = estimate_memory(run).total, free_memory(run.train)
        if free is not None and needed > MEMORY_SHARE * free:
            rule = f"needs about {needed / 1e9:.2g} GB for a trial of {size} (got {free / 1e9:.2g} GB free)"
            raise InputError(f"--measure: {rule}; measure on a larger machine, or give --tokens-per-s")
        ids = np.random.default_rng(0).integers(
            0, run.model.vocab_size, SYNTHETIC_WINDOWS * (run.model.context_length + 1)
        )
        rates[size] = measure_one(run, Tokens.of(ids, ids, run.model.vocab_size))
    return Rates(rates, "measured")


def free_memory(train: TrainConfig) -> int | None:
    """Bytes that are free on the device of `train`, which must be resolved; None if unknown."""
    if train.device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return available_memory()


def engines_here(train: TrainConfig) -> int:
    """Number of engines on this machine, found without torch: one per GPU, or one per `train.threads` cores."""
    if train.device == "mps":
        return 1
    gpus = [] if train.device == "cpu" else list(Path("/proc/driver/nvidia/gpus").glob("*"))
    threads = 1 if train.threads == "auto" else train.threads
    return len(gpus) or max(1, cores() // threads)


def trials_in(rates: Rates, spec: SweepSpec, runs: Mapping[str, RunSpec], engines: int, seconds: float) -> int:
    """About how many trials, dealt out to the sizes in turn, `engines` finish in `seconds`."""
    round_s = sum(
        3600 * rates.device_hours(spec.run_for(size, {}), size, spent_flops(run)) for size, run in runs.items()
    )
    return int(seconds * engines / round_s * len(runs))
