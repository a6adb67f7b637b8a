"""The rules of successive halving that pauses and promotes: pure arithmetic, without Optuna and without a clock.

Trials are compared at *rungs*, steps that lie a factor apart. A trial that is not among the best of its rung is paused,
and goes on when the rung has grown so that it is. Hyperband does the same in several *brackets*, which begin later and
later. What is known of one study is kept by `sweeps.study.promotion`.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

GOLDEN_RATIO = 0.6180339887498949


def rung_steps(grace_steps: int, steps: int, factor: int, every: int = 1) -> tuple[int, ...]:
    """The rungs below `steps`: grace_steps * factor^r, rounded up to multiples of `every`, after which trials report.

    >>> rung_steps(50, 200, 2), rung_steps(2, 40, 2, every=10), rung_steps(50, 50, 2)
    ((50, 100), (10, 20), ())
    """
    rungs: list[int] = []
    rung = grace_steps
    while (reported := -(-rung // every) * every) < steps:
        if reported not in rungs:
            rungs.append(reported)
        rung *= factor
    return tuple(rungs)


def expected_training(n: int, ends: Sequence[int], factor: int) -> int:
    """Steps that `n` trials train under successive halving: of those that begin an interval, one in `factor` goes on.

    `ends` are the ends of the intervals: the rungs, then the end of a trial. Every interval has at least one trial.

    >>> expected_training(8, (50, 100, 200), 2)  # 8 * 50 + 4 * 50 + 2 * 100
    800
    """
    lengths = [end - begin for begin, end in itertools.pairwise((0, *ends))]
    return sum(max(1, n // factor**r) * length for r, length in enumerate(lengths))


def expected_rest(step: int, ends: Sequence[int], factor: int) -> float:
    """Updates that a trial trains on average after `step`, if one trial in `factor` goes on at each of `ends`.

    The last of `ends` is the end of the trial.

    >>> expected_rest(0, (50, 100, 200), factor=2), expected_rest(60, (50, 100, 200), factor=2)
    (100.0, 90.0)
    """
    bounds = [step, *(end for end in ends if end > step)]
    return sum((end - begin) / float(factor) ** n for n, (begin, end) in enumerate(itertools.pairwise(bounds)))


def bracket_of(number: int, costs: Sequence[float]) -> int:
    """The bracket of trial `number`, given what a trial of each bracket is expected to cost.

    Trials are dealt in proportion to 1 / cost, so that every bracket trains as much. Successive numbers are spread by
    the golden ratio: any run of them is dealt in nearly the right proportions.

    >>> [bracket_of(number, costs=[100, 100, 200]) for number in range(5)]
    [0, 1, 0, 2, 1]
    """
    shares = list(itertools.accumulate(1 / cost for cost in costs))
    place = number * GOLDEN_RATIO % 1.0 * shares[-1]
    return min(bisect.bisect_right(shares, place), len(costs) - 1)


@dataclass
class Rung:
    """The losses that were reported at one rung, best first; ties go to the lower number.

    >>> rung = Rung(factor=2)
    >>> for number, loss in enumerate([3.2, 3.1, 3.3, 3.0]):
    ...     rung.add(number, loss)
    >>> rung.best
    [(3.0, 3), (3.1, 1)]
    """

    factor: int
    losses: list[tuple[float, int]] = field(default_factory=list)
    """With the trials' numbers."""

    def add(self, number: int, loss: float) -> None:
        """Record a trial's loss."""
        bisect.insort(self.losses, (loss, number))

    @property
    def best(self) -> list[tuple[float, int]]:
        """The best `max(1, n // factor)` of the n losses, with their trials' numbers."""
        return self.losses[: max(1, len(self.losses) // self.factor)]
