"""Whether `train.compile: auto` compiles on CPUs: by what each engine of the sweep is expected to train.

All trials of a shape that an engine trains share its program, so neither the length of a trial nor their number decides
alone. The mode is one for the whole sweep, so gains and costs are added up over its shapes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmcore.compile_work import CompileWork
from lmcore.config import RunSpec, TrainConfig
from lmcore.device import NO_WORK, resolve, spent_flops, why_compile
from lmcore.program_cache import is_compiled, program_name
from sweeps.cluster.ray_cluster import Cluster
from sweeps.spec.arms import StudyPlan
from sweeps.spec.sampled_runs import sampled_runs
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.expected_share import expected_share

MODE = "compile"
"""Entry of the manifest: whether the trials are compiled, why, and how fast they are."""
CPU_FLOPS_PER_S = 4e10
"""What an engine of one thread trains about, where search.time says how long but nobody says how much."""


@dataclass(frozen=True)
class Mode:
    """Whether the trials of a sweep are compiled, and why.

    >>> Mode(True, "compiled, as train.compile says", by_sweep=False).clause
    ', compiled, as train.compile says'
    """

    compiled: bool
    reason: str
    by_sweep: bool
    """Whether the sweep's FLOPs decided."""

    @property
    def entry(self) -> dict[str, Any]:
        """For the manifest."""
        return {"compiled": self.compiled, "reason": self.reason, "by_sweep": self.by_sweep}

    @property
    def line(self) -> str:
        """A line for the user; empty if `clause` says all."""
        return self.reason[:1].upper() + self.reason[1:] if self.by_sweep else ""

    @property
    def clause(self) -> str:
        """What the line about the training says of it; empty if there is nothing to say."""
        return f", {self.reason}" if self.compiled and not self.by_sweep else ""


def decide(
    spec: SweepSpec, cluster: Cluster, most: int, before: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, Mode]:
    """The train config resolved for a cluster of which at most `most` engines are used, and why it is compiled or not.

    `before` is the manifest's entry of a sweep that is resumed, whose mode stays. Raises InputError if there is no room
    for an engine.
    """
    width = min(run.model.d_model for plan in spec.studies for run, _ in sampled_runs(spec, plan))
    asked, resolved = spec.train, resolve(spec.train, cluster.machine, width=width)
    engines = min(most, cluster.engines(resolved))
    if spec.search.reproducible:
        engines = most  # the machine has no say
    if asked.compile == "auto" and resolved.device == "cpu":
        work = compile_work(spec, resolved, engines, cache=cluster.local)
        resolved = resolve(asked, cluster.machine, work, width)
        return resolved, Mode(bool(resolved.compile), why_compile(asked, resolved, work), by_sweep=True)
    if before is not None and before["compiled"] == resolved.compile:
        return resolved, Mode(before["compiled"], before["reason"], before["by_sweep"])
    return resolved, Mode(bool(resolved.compile), why_compile(asked, resolved, NO_WORK), by_sweep=False)


def compile_work(spec: SweepSpec, train: TrainConfig, engines: int, cache: bool) -> CompileWork:
    """What each of the engines is expected to train, and what programs that takes.

    Args:
        train: the spec's, with device, dtype and threads resolved.
        engines: how many share the sweep.
        cache: whether torch's cache on this machine is that of the engines, and may have a say.

    Example:
        work = compile_work(spec, train, engines=2, cache=True)
        print(work.pays, work.reason)
    """
    flops, trials = 0.0, 0
    shapes: dict[str, set[bool]] = {}  # with the values of tie_embeddings that trials have
    runs: dict[str, RunSpec] = {}
    for plan in spec.studies:
        sampled = sampled_runs(spec, plan)
        mean = sum(share * spent_flops(run) for run, share in sampled)
        confirmed = _confirmation_runs(spec, plan)
        flops += mean * (spec.trials_in(plan) * expected_share(spec, plan) + confirmed)
        trials += spec.trials_in(plan) + confirmed
        for run, _ in sampled:
            run = run.model_copy(update={"train": _with(run.train, train)})
            shapes.setdefault(name := _name(run, "*", "*"), set()).add(run.model.tie_embeddings)
            runs[name] = run
    names = [_name(runs[shape], tying, _slots(spec)) for shape, tied in shapes.items() for tying in _tyings(spec, tied)]
    each = math.ceil(trials / engines)
    warm = sum(map(is_compiled, names)) if cache and not spec.search.reproducible else 0
    limit = math.inf if spec.search.time is None else spec.search.time * CPU_FLOPS_PER_S * int(train.threads)
    programs = min(len(names), each)  # an engine need not train all of them
    return CompileWork(min(flops / engines, limit), programs, round(warm / len(names) * programs))


def _confirmation_runs(spec: SweepSpec, plan: StudyPlan) -> int:
    """Runs that confirm the settings of a study, if none is left out."""
    if not spec.confirm.top:
        return 0
    every = spec.search.method == "experiments"
    trials = spec.trials_in(plan)
    return spec.confirm.seeds * (trials if every else min(spec.confirm.top, trials))


def _with(own: TrainConfig, resolved: TrainConfig) -> TrainConfig:
    """A trial's train config where `resolved` runs; its dtype may be its own."""
    update = {"device": resolved.device, "threads": resolved.threads}
    return own.model_copy(update=update | ({"dtype": resolved.dtype} if own.dtype == "auto" else {}))


def _name(run: RunSpec, tying: str, slots: int | str) -> str:
    windows = run.train.windows_per_pass
    return program_name(run.model, run.train, slots=slots, tying=tying, windows=windows, gradients=True)


def _slots(spec: SweepSpec) -> int | str:
    """Slots of a program. Where they are measured, any number counts: it is likely to be the same again."""
    return "*" if spec.search.slots == "auto" else spec.search.slots


def _tyings(spec: SweepSpec, tied: set[bool]) -> list[str]:
    """The kinds of programs of a shape, given which of its trials are tied: with several slots also mixed ones."""
    kinds = [kind for kind, value in (("none", False), ("all", True)) if value in tied]
    return [*kinds, "mixed"] if len(kinds) == 2 and spec.search.slots != 1 else kinds
