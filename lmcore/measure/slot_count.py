"""Choosing the number of slots K from throughput that `lmcore.measure.throughput` measured. Loads without torch."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

MIN_GAIN = 1.1
"""Doubling the slots pays if it multiplies tokens/s by at least this."""


class ThroughputSample(NamedTuple):
    """Throughput of K slots that train as one batched program.

    >>> samples = [ThroughputSample(1, 1000.0, 1.0, 2**20), ThroughputSample(2, 1500.0, 1.5, 2**21)]
    >>> choose_slots(samples, wanted=None)
    2
    """

    slots: int  # K
    tokens_per_s: float  # training throughput of all slots together, without evaluation
    gain: float  # tokens_per_s relative to the previous sample, which has fewer slots; 1 for the first sample
    peak_bytes: int  # peak memory of the GPU or, on the CPU, of this process


def worthwhile_slots(samples: Sequence[ThroughputSample]) -> int:
    """The number of slots before the first doubling that gains less than MIN_GAIN."""
    paying = itertools.takewhile(lambda sample: sample.gain >= MIN_GAIN, samples[1:])
    return [samples[0], *paying][-1].slots


def choose_slots(samples: Sequence[ThroughputSample], wanted: int | None) -> int:
    """Number of slots to use: the widest measured if `wanted` was given, else the largest doubling that pays.

    1 if nothing was measured.
    """
    if not samples:
        return 1
    return worthwhile_slots(samples) if wanted is None else samples[-1].slots


def speedup(samples: Sequence[ThroughputSample], slots: int) -> float:
    """Throughput of the widest sample of at most `slots` slots, relative to one slot."""
    return math.prod(sample.gain for sample in samples if sample.slots <= slots)


def average_samples(devices: Sequence[Sequence[ThroughputSample]]) -> list[ThroughputSample]:
    """Combine the samples of several devices: mean tokens/s, geometric mean of gains, highest peak memory.

    A slot count that only some devices measured is averaged over those.
    """
    by_slots: dict[int, list[ThroughputSample]] = defaultdict(list)
    for sample in itertools.chain.from_iterable(devices):
        by_slots[sample.slots].append(sample)
    return [
        ThroughputSample(
            slots,
            statistics.fmean(sample.tokens_per_s for sample in group),
            statistics.geometric_mean(sample.gain for sample in group),
            max(sample.peak_bytes for sample in group),
        )
        for slots, group in sorted(by_slots.items())
    ]
