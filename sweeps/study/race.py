"""Which confirmation runs a size still needs: every candidate under every seed, without those already beaten.

The search's best settings are trained again under new seeds, the same seeds for all. A race goes seed by seed:

1. The two best candidates of each arm are trained under the first seed. They give a first estimate of the noise.
2. The other candidates follow, unless the search's own losses already say that they are worse than the leader.
3. After each seed, candidates that are worse than their arm's leader are beaten and trained no more.

The leader of an arm is the search's best setting. It is replaced only if another one beats it under the new seeds
alone, on which nothing was selected. So its mean over the new seeds is an unbiased estimate of its loss, which the
lowest of several means would not be. tests/bench/verdicts.py measures both claims, and what the race saves.

Every decision follows from the losses that were known when it was taken, and is taken again from them each time: so a
sweep that is resumed makes the same ones. Shapes: C candidates, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lmcore.measure.seed_noise import Array, SeedNoise, paired_difference, seed_noise

RACE_LEVEL = 0.01
"""One-sided level at which a candidate is beaten before it was trained under all seeds."""
LEAD_LEVEL = 0.005
"""One-sided level at which another candidate replaces the leader, shared by all challengers. It is strict, because a
leader that was chosen by the losses that are reported looks better than it is (`bias_in_se` in verdicts.json)."""
OPENERS = 2
"""Candidates of each arm that begin."""


@dataclass(frozen=True)
class Candidate:
    """A setting to confirm.

    >>> Candidate("xs-tied-0003", search_loss=4.71).id
    'xs-tied-0003'
    """

    id: str
    """The search trial that had this setting first."""
    search_loss: float
    """Its loss in the search, nats per token: the mean over the search's seeds."""


@dataclass(frozen=True)
class Standing:
    """How far a race is."""

    pending: tuple[tuple[str, int], ...]
    """Runs to make now, or under way: candidate and index of the seed. Empty if the race is over."""
    leaders: Mapping[str, str]
    """By arm, the candidate that leads; arms whose candidates all diverged have none."""
    beaten: Mapping[str, int]
    """Beaten candidates, and under how many seeds each was trained."""


def race(arms: Mapping[str, Sequence[Candidate]], losses: Mapping[tuple[str, int], float], seeds: int) -> Standing:
    """What the candidates of one size still need, from the losses of the runs that have ended.

    >>> tied, untied = [Candidate("t", 4.71)], [Candidate("u", 4.41)]
    >>> race({"tied": tied, "untied": untied}, {("t", 0): 4.72}, seeds=3).pending
    (('u', 0),)

    Args:
        arms: the candidates of each arm, best first.
        losses: by candidate and index of the seed; inf for a run that diverged, NaN for one that failed.
        seeds: number of seeds.
    """
    field = _Field(arms, losses, seeds)
    for seed in range(seeds):
        opening = field.openers if seed == 0 else field.left
        if pending := field.missing(opening, seed):
            return field.standing(pending)
        if seed == 0:
            field.drop_ended_badly(seeds=1)
            field.screen()
            if pending := field.missing(field.left, seed):
                return field.standing(pending)
        field.decide(seed + 1, last=seed == seeds - 1)
    return field.standing(())


class _Field:
    """The candidates that are left, by arm, and the table of their losses [C, 1 + S]: the search, then each seed."""

    def __init__(
        self, arms: Mapping[str, Sequence[Candidate]], losses: Mapping[tuple[str, int], float], seeds: int
    ) -> None:
        everyone = [candidate for candidates in arms.values() for candidate in candidates]
        self._losses = losses
        self._row = {candidate.id: row for row, candidate in enumerate(everyone)}
        self._table = np.array(
            [[c.search_loss, *(losses.get((c.id, seed), math.nan) for seed in range(seeds))] for c in everyone]
        ).reshape(len(everyone), 1 + seeds)
        self.alive = {arm: [candidate.id for candidate in candidates] for arm, candidates in arms.items()}
        self._leaders = {arm: candidates[0] for arm, candidates in self.alive.items() if candidates}
        self.openers = [c for candidates in self.alive.values() for c in candidates[:OPENERS]]
        self._beaten: dict[str, int] = {}
        self._challengers = max([len(candidates) - 1 for candidates in self.alive.values()], default=0)

    @property
    def left(self) -> list[str]:
        """The candidates that are not beaten."""
        return [c for candidates in self.alive.values() for c in candidates]

    def missing(self, candidates: Sequence[str], seed: int) -> tuple[tuple[str, int], ...]:
        """The runs under this seed that have not ended."""
        return tuple((c, seed) for c in candidates if (c, seed) not in self._losses)

    def standing(self, pending: tuple[tuple[str, int], ...]) -> Standing:
        return Standing(pending, dict(self._leaders), dict(self._beaten))

    def screen(self) -> None:
        """Beat candidates that have not begun and whose loss in the search is too far behind the leader's."""
        noise = self._noise(self.openers, columns=2)
        if not noise.df:
            return
        largest_gap = _quantile(RACE_LEVEL, noise) * noise.sd * math.sqrt(2)
        for arm, leader in self._leaders.items():
            for c in [c for c in self.alive[arm] if c not in self.openers and self._has_run(leader, 1)]:
                if self._table[self._row[c], 0] - self._table[self._row[leader], 0] > largest_gap:
                    self._beat(arm, c, 0)

    def decide(self, seeds: int, last: bool) -> None:
        """After so many seeds: replace leaders that are beaten, then beat those that are behind their leader."""
        race_noise = self._noise(list(self._row), 1 + seeds)
        fresh_noise = self._noise(list(self._row), 1 + seeds, first=1)
        self.drop_ended_badly(seeds)
        level = LEAD_LEVEL / max(self._challengers, 1)
        for arm in self._leaders.copy():
            while (better := self._better(arm, seeds, fresh_noise, level)) is not None:
                self._beat(arm, self._leaders[arm], seeds)
                self._leaders[arm] = better
            if not last and race_noise.df and self._has_run(self._leaders[arm], seeds):
                for c in self.alive[arm].copy():
                    gap, error, _ = self._gap(self._leaders[arm], c, slice(0, 1 + seeds), race_noise)
                    if gap > _quantile(RACE_LEVEL, race_noise) * error:
                        self._beat(arm, c, seeds)

    def drop_ended_badly(self, seeds: int) -> None:
        """Beat candidates that diverged under one of the first `seeds` seeds, or that failed under every seed."""
        for arm in self._leaders.copy():
            for c in self.alive[arm].copy():
                fresh = self._table[self._row[c], 1 : 1 + seeds]
                failed = seeds == self._table.shape[1] - 1 and (c, 0) in self._losses and np.isnan(fresh).all()
                if np.isinf(fresh).any() or failed:
                    self._beat(arm, c, seeds)
            alive = self.alive[arm]
            if not alive:
                del self._leaders[arm]
            elif self._leaders[arm] not in alive:
                self._leaders[arm] = alive[0]

    def _better(self, arm: str, seeds: int, noise: SeedNoise, level: float) -> str | None:
        """The challenger with the lowest mean among those that beat the arm's leader under the new seeds."""
        if not noise.df or arm not in self._leaders:
            return None
        fresh = slice(1, 1 + seeds)
        gaps = {c: self._gap(self._leaders[arm], c, fresh, noise) for c in self.alive[arm]}
        better = [c for c, (gap, error, _) in gaps.items() if gap < -_quantile(level, noise) * error]
        return min(better, key=lambda c: float(np.nanmean(self._table[self._row[c], fresh])), default=None)

    def _has_run(self, candidate: str, seeds: int) -> bool:
        """Whether it has a loss under one of the first seeds. Without, it beats nobody by its loss in the search."""
        return bool(np.isfinite(self._table[self._row[candidate], 1 : 1 + seeds]).any())

    def _gap(self, a: str, b: str, columns: slice, noise: SeedNoise) -> tuple[float, float, int]:
        return paired_difference(self._table[self._row[a], columns], self._table[self._row[b], columns], noise)

    def _noise(self, candidates: Sequence[str], columns: int, first: int = 0) -> SeedNoise:
        rows: Array = self._table[[self._row[c] for c in candidates], first:columns]
        return seed_noise(rows)

    def _beat(self, arm: str, candidate: str, seeds: int) -> None:
        self.alive[arm].remove(candidate)
        self._beaten[candidate] = seeds


def _quantile(level: float, noise: SeedNoise) -> float:
    """Of Student's t, above which a share `level` lies."""
    return float(stats.t.isf(level, noise.df))
