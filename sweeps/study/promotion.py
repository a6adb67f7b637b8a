"""Which trials of one study pause at a rung, and which paused trial goes on next (`sweeps.study.rungs` has the rules).

Everything follows from the study and from the last step of each running trial in metrics.jsonl. Two user attributes of
a trial are written, each before anything else happens that follows from the decision:

- `paused_at`: the step at which the trial waits. None again once it was promoted.
- `bracket`: its bracket, under hyperband.

So a driver that is killed at any moment is followed by one that decides the same. A trial whose `paused_at` lies beyond
its last row was paused by a driver that was killed before it had written the row. It reports that step again, and is
paused there.

Successive halving that stops trials would train a certain number of steps: that is the study's budget. Trials that
diverge leave a part of it unused. Once there are no new trials, the best paused ones are promoted as long as the next
interval of theirs fits into it, whatever their rung says.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from sweeps.study.rungs import Rung, bracket_of, expected_training, rung_steps

BRACKET = "bracket"
"""User attribute of a trial: the number of its bracket, under hyperband."""


def _one(rungs: Sequence[int], grace_steps: int, steps: int, factor: int) -> int:
    return 1


def _all(rungs: Sequence[int], grace_steps: int, steps: int, factor: int) -> int:
    """As many as have a first rung within the trial; the last one may have none below its end."""
    starts = 1
    while grace_steps * factor**starts <= steps:
        starts += 1
    return min(starts, len(rungs) + 1)


PAUSING: dict[str, Callable[[Sequence[int], int, int, int], int]] = {"asha": _one, "hyperband": _all}
"""The schedulers that pause trials: how many brackets each has, from the rungs, the grace steps, the steps of a trial
and the reduction factor."""


@dataclass(frozen=True)
class Ladder:
    """The rungs of a study, and how many brackets begin on them: bracket b begins at rung b.

    >>> ladder = Ladder.of("hyperband", grace_steps=50, steps=200, factor=2, every=25)
    >>> [ladder.ends(bracket) for bracket in range(ladder.brackets)]
    [(50, 100, 200), (100, 200), (200,)]
    """

    rungs: tuple[int, ...]
    steps: int
    factor: int
    brackets: int = 1

    @classmethod
    def of(cls, scheduler: str, grace_steps: int, steps: int, factor: int, every: int) -> "Ladder | None":
        """The ladder of a scheduler; None if that pauses no trials."""
        if scheduler not in PAUSING:
            return None
        rungs = rung_steps(grace_steps, steps, factor, every)
        return cls(rungs, steps, factor, PAUSING[scheduler](rungs, grace_steps, steps, factor))

    def ends(self, bracket: int) -> tuple[int, ...]:
        """Where the intervals of a trial of this bracket end: its rungs, then its last step."""
        return (*self.rungs[bracket:], self.steps)

    def bracket_of(self, number: int) -> int:
        """The bracket of trial `number`."""
        return self.brackets_of([number])[0]

    def brackets_of(self, numbers: Iterable[int]) -> list[int]:
        """The brackets of trials with these numbers."""
        many = self.factor ** len(self.rungs)  # so many trials that each rung has whole numbers of them
        costs = [expected_training(many, self.ends(b), self.factor) for b in range(self.brackets)]
        return [bracket_of(number, costs) for number in numbers]

    def budget(self, brackets: Sequence[int]) -> int:
        """Steps that trials of these brackets train under successive halving that stops them."""
        counts = {bracket: brackets.count(bracket) for bracket in set(brackets)}
        return sum(expected_training(n, self.ends(bracket), self.factor) for bracket, n in counts.items())


@dataclass
class _Trial:
    bracket: int
    step: int = 0
    """Steps that it has trained."""
    rungs: int = 0
    """Number of rungs of the ladder that it has reached."""
    paused: bool = False
    ended: bool = False


class Promotion:
    """The rungs of one study. All steps are those of the study (`sweeps.study.schedulers.step_in_study`).

    Args:
        ladder: where its rungs are.
        trials: the study's trials, without those that wait to be asked for.
        known_steps: the last step in metrics.jsonl by number of a running trial. Its later steps are reported again.
        paused: numbers of the trials that are paused.

    Example:
        promotion.start(trial)
        if not promotion.report(trial.number, loss=3.2, step=50):
            promotion.pause(trial.number)
        for number in promotion.promotable or promotion.spare(finished=False):
            promotion.resume(number)
    """

    def __init__(
        self,
        ladder: Ladder,
        trials: Sequence[FrozenTrial],
        known_steps: Mapping[int, int],
        paused: Sequence[int],
    ) -> None:
        self._ladder = ladder
        self._rungs: dict[tuple[int, int], Rung] = defaultdict(lambda: Rung(ladder.factor))  # by bracket and rung
        self._trials: dict[int, _Trial] = {}
        for frozen in trials:
            if frozen.user_attrs.get(col.STATUS) == col.EXCLUDED:
                continue
            number, running = frozen.number, frozen.state is TrialState.RUNNING
            known = known_steps.get(number, 0) if running else math.inf
            self._add(number, frozen.user_attrs.get(BRACKET))
            for step, loss in sorted(frozen.intermediate_values.items()):
                if step <= known:
                    self.report(number, loss, step)
            trial = self._trials[number]
            trial.step = max(trial.step, known_steps.get(number, 0))
            trial.paused, trial.ended = number in paused, not running

    def _add(self, number: int, bracket: int | None) -> None:
        dealt = self._ladder.bracket_of(number) if bracket is None else min(bracket, self._ladder.brackets - 1)
        self._trials[number] = _Trial(dealt)

    def start(self, trial: optuna.Trial) -> None:
        """Note that the study was asked for this trial, and deal it to a bracket. Once is enough; twice is the same."""
        if trial.number not in self._trials:
            self._add(trial.number, None)
        if self._ladder.brackets > 1 and BRACKET not in trial.user_attrs:
            trial.set_user_attr(BRACKET, self._trials[trial.number].bracket)

    def report(self, number: int, loss: float, step: int) -> bool:
        """Take a loss of a trial; whether the trial goes on, by the losses of its rung if it has reached one.

        A loss that is not finite is part of no rung: the trial has diverged.
        """
        trial = self._trials[number]
        trial.step = max(trial.step, step)
        goes_on = True
        for rung in range(trial.rungs, sum(at <= step for at in self._ladder.rungs)):
            trial.rungs = rung + 1
            if rung >= trial.bracket and math.isfinite(loss):
                kept = self._rungs[trial.bracket, rung]
                kept.add(number, loss)
                goes_on = (loss, number) in kept.best
        return goes_on

    def decides_between(self, number: int, before: int, step: int) -> bool:
        """Whether the report of a trial at `step`, the next one after `before`, is at a rung of its bracket."""
        ladder = self._ladder
        return any(before < at <= step for at in ladder.rungs[self._trials[number].bracket :])

    def pause(self, number: int) -> None:
        """Note that the trial waits at its rung."""
        self._trials[number].paused = True

    def resume(self, number: int) -> None:
        """Note that the trial goes on."""
        self._trials[number].paused = False

    def end(self, number: int, step: int) -> None:
        """Note that the trial has ended after `step` updates."""
        trial = self._trials[number]
        trial.step, trial.paused, trial.ended = max(trial.step, step), False, True

    @property
    def paused(self) -> list[int]:
        """Numbers of the paused trials in the order in which they go on: highest rung, lowest loss, lowest number."""
        return self._in_order(lambda rung: rung.losses) + self._at_no_rung

    @property
    def promotable(self) -> list[int]:
        """Those of the paused trials that belong to the best of their rung by now."""
        return self._in_order(lambda rung: rung.best) + self._at_no_rung

    @property
    def _at_no_rung(self) -> list[int]:
        """Paused trials whose bracket begins later: they were paused before the sweep was resumed with hyperband."""
        return sorted(number for number, trial in self._trials.items() if trial.paused and trial.rungs <= trial.bracket)

    def _in_order(self, choose: Callable[[Rung], list[tuple[float, int]]]) -> list[int]:
        found = []
        for (_, rung), kept in self._rungs.items():
            for loss, number in choose(kept):
                trial = self._trials[number]
                if trial.paused and trial.rungs == rung + 1:
                    found.append((-rung, loss, number))
        return [number for *_, number in sorted(found)]

    def spare(self, finished: bool) -> list[int]:
        """What the budget has left for once no trial is left to ask for: the best paused trial, or nothing.

        Until a trial has `finished`, the best one goes on in any case, unless another is on its way.
        """
        best = self.paused[:1]
        if not best:
            return []
        running = [trial for trial in self._trials.values() if not (trial.ended or trial.paused)]
        if not finished and not running:
            return best
        trained = sum(trial.step for trial in self._trials.values())
        # Those that run may go on to their end. Counted in full, they never lack what was promised to others.
        under_way = sum(max(0, self._ladder.steps - trial.step) for trial in running)
        fits = trained + under_way + self._interval(self._trials[best[0]]) <= self.budget
        return best if fits else []

    @property
    def steps(self) -> int:
        """Steps of a whole trial."""
        return self._ladder.steps

    def steps_left(self, new: Iterable[int]) -> int:
        """Steps that the study is still expected to train: the rest of its budget, with the trials of the numbers
        `new`, which are not asked for yet. Trials that run come to the end of their interval in any case."""
        running = [trial for trial in self._trials.values() if not (trial.ended or trial.paused)]
        brackets = [trial.bracket for trial in self._trials.values()] + self._ladder.brackets_of(new)
        trained = sum(trial.step for trial in self._trials.values())
        return max(self._ladder.budget(brackets) - trained, sum(map(self._interval, running)))

    def _interval(self, trial: _Trial) -> int:
        """Steps to the trial's next rung, or to its end."""
        return next((end - trial.step for end in self._ladder.ends(trial.bracket) if end > trial.step), 0)

    @property
    def budget(self) -> int:
        """Steps that all trials together would be expected to train under successive halving that stops them."""
        return self._ladder.budget([trial.bracket for trial in self._trials.values()])
