"""Rows `packing`: tokens/s of K slots that train as one program, against ways to train the same runs one by one.

The ways are `eager` (every kernel launched), `graphed` (a CUDA graph), and `compiled` (and a CUDA graph). `packed K`
are CUDA graphs too, and compiled if their name says so. Each arm takes turns with `graphed`, and is freed afterwards.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lmcore.measure.throughput import is_out_of_memory
from lmcore.params import count_parameters
from tests.bench.core_arms import step_trainer, trainer_step, weights_made_once
from tests.bench.gpu.cases import Cases, Timed
from tests.bench.race import Arm, forget, race

BASELINE = "graphed"
SERIAL = (BASELINE, "eager", "compiled")


class Setting(NamedTuple):
    """How an arm trains."""

    slots: int
    compiled: bool = False
    graphs: bool = True


def settings(cases: Cases, size: str) -> dict[str, Setting]:
    """All arms of a size but the baseline, by name."""
    packed = {f"packed {k}": Setting(k) for k in cases.slots}
    compiled = {f"packed {k} compiled": Setting(k, compiled=True) for k in cases.compiled_slots.get(size, ())}
    return {"eager": Setting(1, graphs=False), "compiled": Setting(1, compiled=True)} | compiled | packed


def packed_arm(timed: Timed, setting: Setting, device: str) -> Arm:
    """`timed.updates` updates of all slots."""
    slots, compiled, graphs = setting
    with weights_made_once():
        trainer = step_trainer(timed.model, timed.batch_size, compiled, device, threads=1, slots=slots, graphs=graphs)
    return trainer_step(trainer, timed.updates)


def packing_rows(size: str, cases: Cases, device: str, until: float) -> Iterator[dict[str, Any]]:
    """After each arm the row so far: tokens/s by arm, and how many times those of a serial arm the best packed one has.

    No arm begins after `until`, a time of `time.perf_counter`.
    """
    timed = cases.packing[size]
    tokens = timed.updates * timed.batch_size * timed.model.context_length
    baseline = packed_arm(timed, Setting(1), device)
    arms: dict[str, dict[str, Any]] = {}
    base_rates: list[float] = []
    out_of_memory: list[str] = []
    unmeasured: list[str] = []
    too_many = float("inf")  # slots for which memory ran out
    for name, setting in settings(cases, size).items():
        if setting.slots >= too_many:
            out_of_memory.append(name)
        elif arms and time.perf_counter() > until:
            unmeasured.append(name)
        else:
            try:
                times = _times(baseline, timed, setting, cases, device, until)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                out_of_memory.append(name)
                too_many = setting.slots
            else:
                base_rates += [tokens / seconds for seconds in times[BASELINE]]
                gains = [setting.slots * one / own for one, own in zip(times[BASELINE], times["arm"], strict=True)]
                arms[name] = _arm(setting.slots, [setting.slots * tokens / seconds for seconds in times["arm"]], gains)
            forget()
        if base_rates:
            yield {
                "parameters": int(count_parameters(timed.model)),
                "batch_size": timed.batch_size,
                **_ratios(arms | {BASELINE: _arm(1, base_rates, [1.0])}),
                "out_of_memory": list(out_of_memory),
                "unmeasured": list(unmeasured),
            }


def _ratios(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best packed arm, and its tokens/s over those of the serial arms."""
    packed = [name for name in arms if name.startswith("packed")]
    best = max(packed, key=lambda name: arms[name]["tokens_per_s"], default=None)
    if best is None:
        return {"best": None, "arms": arms}
    ratios = {f"vs_{name}": arms[best]["tokens_per_s"] / arms[name]["tokens_per_s"] for name in SERIAL if name in arms}
    ratios[f"vs_{BASELINE}"] = arms[best][f"vs_{BASELINE}"]  # of the same rounds
    return {"best": best, **{name: round(ratio, 3) for name, ratio in ratios.items()}, "arms": arms}


def _times(
    baseline: Arm, timed: Timed, setting: Setting, cases: Cases, device: str, until: float
) -> dict[str, list[float]]:
    """Seconds of calls of the baseline and of the arm, which is made here so that nothing refers to it afterwards."""
    return race(
        {BASELINE: baseline, "arm": packed_arm(timed, setting, device)}, cases.rounds, device, cases.turn_s, until
    )


def _arm(slots: int, rates: Sequence[float], gains: Sequence[float]) -> dict[str, Any]:
    return {
        "slots": slots,
        "tokens_per_s": round(statistics.median(rates)),
        "vs_graphed": round(statistics.median(gains), 3),
        "rounds": [round(rate) for rate in rates],
    }
