"""How many slots are worth having, by how fast they train (measured in `lmcore.throughput`); needs no torch."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

MIN_GAIN = 1.1  # of doubling the slots, in tokens/s


class Pace(NamedTuple):
    """What was measured for one number of slots that advance as one program."""

    slots: int
    tokens_per_s: float
    """Of all slots together, evaluation excluded."""
    gain: float
    """In tokens/s over the pace before (fewer slots), both measured in turn; 1 for the first."""
    peak_bytes: int
    """Memory: of the GPU, or of this process."""


def worthwhile_slots(paces: Sequence[Pace]) -> int:
    """The largest K of doubling paces whose last doubling gained 10 % or more."""
    chosen = paces[0]
    for doubled in paces[1:]:
        if doubled.gain < MIN_GAIN:
            break
        chosen = doubled
    return chosen.slots


def chosen_slots(paces: Sequence[Pace], wanted: int | None) -> int:
    """Of the paces at which `wanted` slots, or with None doubling ones, were measured: those to have; 1 without any."""
    if not paces:
        return 1
    return worthwhile_slots(paces) if wanted is None else paces[-1].slots


def speedup(paces: Sequence[Pace], slots: int) -> float:
    """Tokens/s of the widest pace of at most `slots` slots, over those of one."""
    return math.prod(pace.gain for pace in paces if pace.slots <= slots)


def agreed_paces(devices: Sequence[Sequence[Pace]]) -> list[Pace]:
    """One list for devices that measured the same shape at the same time: mean rates and gains, and the highest peaks.

    A doubling that only some of them came to has those alone.
    """
    by_slots: dict[int, list[Pace]] = {}
    for paces in devices:
        for pace in paces:
            by_slots.setdefault(pace.slots, []).append(pace)
    return [
        Pace(
            slots,
            statistics.fmean(pace.tokens_per_s for pace in same),
            statistics.geometric_mean(pace.gain for pace in same),
            max(pace.peak_bytes for pace in same),
        )
        for slots, same in sorted(by_slots.items())
    ]
