"""How many slots are worth having, by how fast they train (measured in `lmcore.measure.throughput`); needs no torch."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

MIN_GAIN = 1.1  # of doubling the slots, in tokens/s


class ThroughputSample(NamedTuple):
    """What was measured for one number of slots that advance as one program."""

    slots: int
    tokens_per_s: float
    """Of all slots together, evaluation excluded."""
    gain: float
    """In tokens/s over the sample before (fewer slots), both measured in turn; 1 for the first."""
    peak_bytes: int
    """Memory: of the GPU, or of this process."""


def worthwhile_slots(samples: Sequence[ThroughputSample]) -> int:
    """The largest K of doubling samples whose last doubling gained 10 % or more."""
    chosen = samples[0]
    for doubled in samples[1:]:
        if doubled.gain < MIN_GAIN:
            break
        chosen = doubled
    return chosen.slots


def choose_slots(samples: Sequence[ThroughputSample], wanted: int | None) -> int:
    """Number of slots to use: the widest measured if `wanted` was given, else the largest doubling that pays.

    1 if nothing was measured.
    """
    if not samples:
        return 1
    return worthwhile_slots(samples) if wanted is None else samples[-1].slots


def speedup(samples: Sequence[ThroughputSample], slots: int) -> float:
    """Tokens/s of the widest sample of at most `slots` slots, over those of one."""
    return math.prod(sample.gain for sample in samples if sample.slots <= slots)


def average_samples(devices: Sequence[Sequence[ThroughputSample]]) -> list[ThroughputSample]:
    """One list for devices that measured the same shape at the same time: mean rates and gains, and the highest peaks.

    A doubling that only some of them came to has those alone.
    """
    by_slots: dict[int, list[ThroughputSample]] = {}
    for samples in devices:
        for sample in samples:
            by_slots.setdefault(sample.slots, []).append(sample)
    return [
        ThroughputSample(
            slots,
            statistics.fmean(sample.tokens_per_s for sample in same),
            statistics.geometric_mean(sample.gain for sample in same),
            max(sample.peak_bytes for sample in same),
        )
        for slots, same in sorted(by_slots.items())
    ]
