"""The confirmation of one size: when its search is over, the best settings are trained again under new seeds.

`sweeps.study.race` decides which runs are needed; here they are enqueued. Once all have ended, the result is an
attribute of each confirmation study: `{"leader": id or None, "beaten": {id: seeds, ...}}`. It is None again while more
runs follow. All of it follows from results in the studies, so a driver that takes over decides as the previous one
would have.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.config import FIELD_ROLES, RunSpec, flatten
from sweeps.spec.arms import SEED_PATHS
from sweeps.study.race import Candidate, Standing, race
from sweeps.study.study_state import StudyState


class Confirmation:
    """Confirms the settings that `searches`, the studies of one size's arms, found; `confirms` are the studies for it.

    Example:
        confirmation = Confirmation(searches, confirms, top=3, seeds=(1, 2, 3), experiments=False)
        confirmation.advance()  # whenever a trial has ended
    """

    def __init__(
        self,
        searches: Sequence[StudyState],
        confirms: Sequence[StudyState],
        top: int,
        seeds: Sequence[int],
        experiments: bool,
    ) -> None:
        self._pairs = list(zip(searches, confirms, strict=True))
        self._top = top
        self._seeds = list(seeds)
        self.experiments = experiments
        self.over = False
        """Whether all runs have ended, and the result is in the studies."""
        self.leaders: dict[str, str] = {}
        """The search trial that leads, by id of the search study; of experiments, none."""

    def advance(self) -> None:
        """Enqueue the runs that the results so far ask for. Call it once the search of all arms is over."""
        arms = self._arms
        owners = {candidate.id: pair for pair, listed in arms.values() for candidate, _ in listed}
        experiments = {candidate.id: name for _, listed in arms.values() for candidate, name in listed}
        losses = {
            (of, self._seeds.index(seed)): loss
            for _, confirm in self._pairs
            for (of, seed), loss in _ended(confirm).items()
            if of in owners and seed in self._seeds
        }
        ranked = {arm: [candidate for candidate, _ in listed] for arm, (_, listed) in arms.items()}
        standing = race(ranked, losses, len(self._seeds))
        enqueued = {key for _, confirm in self._pairs for key in _enqueued(confirm)}
        if standing.pending:
            self.reopen()
        for candidate, index in standing.pending:
            if (candidate, self._seeds[index]) not in enqueued:
                owners[candidate][1].enqueue(candidate, experiments[candidate], self._seeds[index])
        if not standing.pending:
            self._finish(standing)

    @cached_property
    def _arms(self) -> dict[str, tuple[tuple[StudyState, StudyState], list[tuple[Candidate, str | None]]]]:
        """The candidates of each arm, with its studies. Every experiment is an arm: nothing is selected among them."""
        found: dict[str, tuple[tuple[StudyState, StudyState], list[tuple[Candidate, str | None]]]] = {}
        for pair in self._pairs:
            listed = candidates(pair[0])
            if self.experiments:
                found |= {candidate.id: (pair, [(candidate, name)]) for candidate, name in listed}
            else:
                found[pair[0].plan.id] = (pair, listed[: self._top])
        return found

    def reopen(self) -> None:
        """Take back the result of an earlier confirmation, because more trials follow."""
        for _, confirm in self._pairs:
            if confirm.study.user_attrs.get(col.RESULT) is not None:
                confirm.study.set_user_attr(col.RESULT, None)

    def loss_of(self, candidate: str) -> float:
        """The mean loss of a candidate over its confirmation runs."""
        runs = [loss for _, confirm in self._pairs for (of, _), loss in _ended(confirm).items() if of == candidate]
        finite = [loss for loss in runs if not math.isnan(loss)]
        return sum(finite) / len(finite) if finite else math.nan

    def _finish(self, standing: Standing) -> None:
        if not self.experiments:
            self.leaders = dict(standing.leaders)
        for search, confirm in self._pairs:
            own = {c: seeds for c, seeds in standing.beaten.items() if c.rpartition("-")[0] == search.plan.id}
            result = {"leader": self.leaders.get(search.plan.id), "beaten": own}
            if confirm.study.user_attrs.get(col.RESULT) != result:
                confirm.study.set_user_attr(col.RESULT, result)
        self.over = True


def candidates(search: StudyState) -> list[tuple[Candidate, str | None]]:
    """The settings of a search, best first, by their mean loss over the search's seeds, each with its experiment.

    Trials that differ in their seeds alone are one setting; one that diverged under a seed is no candidate. If no
    setting is left, the pruned trial that came furthest is the only one, so that every arm ends in a finished model.
    """
    trials = search.study.get_trials(deepcopy=False)
    ended = sorted((t for t in trials if t.state is TrialState.COMPLETE), key=lambda t: (_setting(t), t.number))
    ranked: list[tuple[float, int, FrozenTrial]] = []
    for _, group in itertools.groupby(ended, key=_setting):
        first, *others = group
        loss = sum(t.values[0] for t in (first, *others)) / (1 + len(others))
        if math.isfinite(loss):
            ranked.append((loss, first.number, first))
    if not ranked:
        pruned = [t for t in trials if t.state is TrialState.PRUNED and t.intermediate_values]
        furthest = sorted(pruned, key=lambda t: (-max(t.intermediate_values), _last_loss(t), t.number))
        ranked = [(math.nan, t.number, t) for t in furthest[:1]]  # its loss is not that of a whole run
    return [
        (Candidate(t.user_attrs[col.TRIAL], loss), t.user_attrs.get(col.EXPERIMENT)) for loss, _, t in sorted(ranked)
    ]


def _setting(trial: FrozenTrial) -> str:
    """Equal for trials whose runs differ in their seeds alone."""
    run = RunSpec.model_validate(trial.user_attrs[col.RUN])
    fields = flatten(run)
    # A sweep that was resumed on another device has another one in its newer runs.
    paths = [path for path, role in FIELD_ROLES.items() if role != "sweep constant" and path not in SEED_PATHS]
    return repr((trial.user_attrs.get(col.EXPERIMENT), [fields[path] for path in paths]))


def _last_loss(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]


def _ended(confirm: StudyState) -> dict[tuple[str, int], float]:
    """Losses by candidate and seed of the runs that have ended; inf if a run diverged, NaN if it failed for good."""
    trials = _kept(confirm)
    again = {_run(t) for t in trials if not t.state.is_finished()}  # a failed run that is retried
    ended = [t for t in trials if t.state.is_finished() and _run(t) not in again]
    return {_run(t): t.values[0] if t.state is TrialState.COMPLETE else math.nan for t in ended}


def _enqueued(confirm: StudyState) -> set[tuple[str, int]]:
    """Candidates and seeds that have a run, whatever its state."""
    return {_run(trial) for trial in _kept(confirm)}


def _kept(confirm: StudyState) -> list[FrozenTrial]:
    """The runs that are not excluded. In place of an excluded one, its seed is trained again."""
    trials = confirm.study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.user_attrs.get(col.STATUS) != col.EXCLUDED]


def _run(trial: FrozenTrial) -> tuple[str, int]:
    """The candidate and the seed of a confirmation run."""
    return trial.user_attrs[col.OF], trial.user_attrs[col.CONFIRM_SEED]
