"""The ledger of a sweep: its Optuna studies, one per size, and the only way to read or write them.

The study is the sweep's only memory. What it is told is the truth:

| status   | Optuna state | value                                                                     |
|----------|--------------|---------------------------------------------------------------------------|
| complete | COMPLETE     | the last validation loss                                                  |
| pruned   | PRUNED       | none told: Optuna shows the last intermediate value, and keeps all of them |
| diverged | COMPLETE     | +inf, with the constraint `diverged` violated: samplers learn to stay away |
| failed   | FAIL         | none; the error message as an attribute                                   |

Ray does not appear here: `sweeps.tune.searcher` and `sweeps.tune.scheduler` translate.
"""

import bisect
import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import ModelConfig, RunSpec
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.spec.space import distributions, grid, limited
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.divergence import divergence
from sweeps.study.samplers import sampler_for
from sweeps.study.schedulers import pruner_for

CONSTRAINT = "diverged"
RUNG = "completed_rung_"
"""How names of trial attributes begin in which Optuna's successive halving, and hyperband with it, keeps its state."""


@dataclass
class TrialHandle:
    """A trial that has been asked for and not been told yet."""

    id: str
    size: str
    experiment: str | None
    run: RunSpec
    trial: optuna.Trial
    last_row: Row | None = None
    status: str = col.RUNNING
    message: str | None = None
    """Why it diverged or failed, in one line."""
    error: str | None = None
    """The whole text of the error that it failed of."""
    requeues: int = 0
    """How often it lost its place."""
    reported_before: frozenset[int] = frozenset()
    """Steps that a killed driver had reported to the study; their rows it may not have written down."""

    @property
    def name(self) -> str:
        """What people call it: the experiment's name where it has one."""
        return self.id if self.experiment is None else f"{self.id} {self.experiment}"


@dataclass
class Ledger:
    """The studies of `spec` in the Optuna storage `storage`."""

    spec: SweepSpec
    storage: optuna.storages.BaseStorage
    last_rows: Mapping[str, Row] = field(default_factory=dict)
    """Of a sweep that is resumed: the last row of every trial, as the driver before had written it down."""
    live: dict[str, TrialHandle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.studies = {size: self._create(size) for size in self.spec.size_names}
        # Experiments search nothing: their overrides come from the config, by name.
        by_experiment = self.spec.search.method == "experiments"
        self._space = {} if by_experiment else distributions(self.spec.space)
        # Trials that have left the queue, and the complete ones: counted and ranked once, because listing a study's
        # trials takes longer as it grows.
        self._trials_of = {size: self.spec.trials_of(size) for size in self.spec.size_names}
        self._asked = {
            size: sum(trial.state is not TrialState.WAITING for trial in study.get_trials(deepcopy=False))
            for size, study in self.studies.items()
        }
        self._complete = {size: _complete_trials(study) for size, study in self.studies.items()}
        self._unfinished: dict[str, list[TrialHandle]] = {size: [] for size in self.studies}
        for size, study in self.studies.items():
            for frozen in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                self._take_over(size, frozen)

    def _create(self, size: str) -> optuna.Study:
        search = self.spec.search
        run = self.spec.run_for(size, {})
        study = optuna.create_study(
            study_name=self.spec.study_name(size),
            storage=self.storage,
            direction="minimize",
            load_if_exists=True,  # whether there may be one is asked before: `check_unused`
            pruner=pruner_for(search.scheduler, self.spec.grace_steps(size), run.train.steps, search.reduction_factor),
        )
        # The queue of a sweep that is resumed may have been cut off by a kill, or be short of trials to come on top.
        total, queued = self.spec.trials_of(size), study.get_trials(deepcopy=False)
        if search.method == "grid":
            taken = [trial.system_attrs["fixed_params"] for trial in queued]
            points = [point for point in limited(grid(self.spec.space), total, search.seed) if point not in taken]
            for point in points[: total - len(queued)]:
                study.enqueue_trial(point)
        if search.method == "experiments":
            for experiment in self.spec.experiments[len(queued) : total]:
                study.enqueue_trial({}, user_attrs={col.EXPERIMENT: experiment.name})
        return study

    @property
    def sizes_left(self) -> list[str]:
        """Sizes that have trials left to ask for: unfinished ones first, then by how few there were so far."""
        unfinished = [size for size, trials in self._unfinished.items() if trials]
        left = [size for size, asked in self._asked.items() if asked < self._trials_of[size]]
        return unfinished or sorted(left, key=self._asked.__getitem__)

    def ask(self, size: str) -> TrialHandle:
        """The next trial of a size that has trials left; one that was left unfinished comes first."""
        if self._unfinished[size]:
            live = self._unfinished[size].pop(0)
        else:
            study = self.studies[size]
            study.sampler = self._sampler(size, self._asked[size])
            live = self._described(size, study.ask(self._space))
            self._asked[size] += 1
        self.live[live.id] = live
        return live

    def _sampler(self, size: str, number: int) -> BaseSampler:
        return sampler_for(self.spec.search, size, number, self.spec.startup_trials(size))

    def _described(self, size: str, trial: optuna.Trial) -> TrialHandle:
        """The trial as a run, which its attributes tell everybody."""
        experiment = trial.user_attrs.get(col.EXPERIMENT)
        overrides = self.spec.experiment(experiment) if experiment else dict(trial.params)
        run = self.spec.run_for(size, overrides)
        live = TrialHandle(col.trial_id(size, trial.number), size, experiment, run, trial)
        if col.COUNTS not in trial.user_attrs:
            # Few and large: every attribute is a transaction of its own, some milliseconds with SQLite.
            trial.set_user_attr(col.TRIAL, live.id)
            trial.set_user_attr(col.RUN, live.run.model_dump())
            trial.set_user_attr(col.COUNTS, _counts(live.run.model))
        return live

    def _take_over(self, size: str, frozen: FrozenTrial) -> None:
        """A trial that the driver before left RUNNING: told its end if that was decided, or else to be finished."""
        study = self.studies[size]
        study.sampler = self._sampler(size, frozen.number)
        trial = optuna.Trial(study, frozen._trial_id)
        for name, distribution in self._space.items():
            if name not in frozen.params:
                trial._suggest(name, distribution)
            elif name not in trial.relative_params and not distribution.single():
                # Drawn once more for nothing, so that those after it are what they would have been.
                study.sampler.sample_independent(study, frozen, name, distribution)
        live = self._described(size, trial)
        live.last_row = self.last_rows.get(live.id)
        live.reported_before = frozenset(frozen.intermediate_values)
        live.status = frozen.user_attrs.get(col.STATUS, (live.last_row or {}).get(col.STATUS, col.RUNNING))
        if live.status == col.RUNNING:
            self._unfinished[size].append(live)
            return
        live.message = frozen.user_attrs.get(col.MESSAGE)
        if live.message is None and live.last_row is not None:
            live.message = divergence(live.last_row, live.run.model.vocab_size)
        self.live[live.id] = live
        self.end(live.id)

    def report(self, trial_id: str, row: Row) -> str:
        """Take a trial's report row; its status from now on. Anything but running means: stop it."""
        live = self.live[trial_id]
        live.last_row = row
        if math.isfinite(row[col.VAL_LOSS]):
            live.trial.report(row[col.VAL_LOSS], row[col.STEP])
        live.message = divergence(row, live.run.model.vocab_size)
        if live.message is not None:
            live.status = col.DIVERGED
        elif row[col.STEP] >= live.run.train.steps:
            live.status = col.COMPLETE
        elif self._should_prune(live):
            live.status = col.PRUNED
        return live.status

    def _should_prune(self, live: TrialHandle) -> bool:
        """The pruner's decision, made as for the first time where a killed driver had made it and not written it down.

        Optuna's pruners note in the trial which rungs it has completed, with the value; those of the newest report are
        not shown to the pruner when that report comes again.
        """
        step = live.last_row[col.STEP]
        if step not in live.reported_before:
            return live.trial.should_prune()
        study = self.studies[live.size]
        frozen = self.storage.get_trial(live.trial._trial_id)
        value = frozen.intermediate_values[step]
        frozen.system_attrs = {
            name: noted for name, noted in frozen.system_attrs.items() if not (name.startswith(RUNG) and noted == value)
        }
        frozen.intermediate_values = {at: loss for at, loss in frozen.intermediate_values.items() if at <= step}
        view = copy.copy(study)
        view._storage = _With(study._storage, frozen)
        return study.pruner.prune(view, frozen)

    def requeue(self, trial_id: str) -> None:
        """Have a trial that lost its place before it had a verdict asked for again, before all others."""
        live = self.live.pop(trial_id)
        live.requeues += 1
        self._unfinished[live.size].insert(0, live)

    def fail(self, trial_id: str, message: str, error: str) -> None:
        """Note that a trial died of an error of its own; `end` tells the study."""
        live = self.live[trial_id]
        live.status, live.message, live.error = col.FAILED, message, error

    def end(self, trial_id: str) -> TrialHandle:
        """Tell the study how the trial ended, once.

        A trial that has no verdict (it was interrupted) is told nothing: it stays RUNNING, as unfinished trials do.
        """
        live = self.live.pop(trial_id)
        if live.status == col.RUNNING:
            return live
        trial, study = live.trial, self.studies[live.size]
        if live.last_row is not None:
            trial.set_user_attr(col.LAST, finite_row({name: live.last_row[name] for name in col.LAST_COLUMNS}))
        if live.message is not None:
            trial.set_user_attr(col.MESSAGE, live.message)
        trial.set_user_attr(col.STATUS, live.status)
        if live.status == col.FAILED:
            study.tell(trial, state=TrialState.FAIL)
            return live
        trial.set_constraint(CONSTRAINT, 1.0 if live.status == col.DIVERGED else 0.0)
        if live.status == col.PRUNED:
            study.tell(trial, state=TrialState.PRUNED)
        elif live.status == col.DIVERGED:
            study.tell(trial, math.inf)
        else:
            loss = live.last_row[col.VAL_LOSS]
            study.tell(trial, loss)
            bisect.insort(self._complete[live.size], (loss, trial.number, live.id))
        return live

    def ranking(self, size: str) -> list[str]:
        """Ids of the complete trials of `size`, best first; diverged ones are not among them."""
        return [trial_id for _, _, trial_id in self._complete[size]]

    @property
    def unfinished(self) -> int:
        """Trials that a driver before left unfinished, and that have not been asked for yet."""
        return sum(len(trials) for trials in self._unfinished.values())

    @property
    def best_losses(self) -> dict[str, tuple[float, str]]:
        """Lowest loss and its trial's id, of the sizes that have a complete trial."""
        return {size: (trials[0][0], trials[0][2]) for size, trials in self._complete.items() if trials}

    def best_run(self, size: str) -> RunSpec | None:
        """What the best complete trial of `size` trained."""
        if not self._complete[size]:
            return None
        _, number, _ = self._complete[size][0]
        return RunSpec.model_validate(self.studies[size].get_trials(deepcopy=False)[number].user_attrs[col.RUN])

    def statuses(self) -> dict[str, str]:
        """Status of every trial that has been asked for, by trial id."""
        return {
            t.user_attrs[col.TRIAL]: t.user_attrs.get(col.STATUS, col.RUNNING)
            for study in self.studies.values()
            for t in study.get_trials(deepcopy=False)
            if col.TRIAL in t.user_attrs
        }


class _With:
    """A storage in which one trial is as given; everything else is the storage's own."""

    def __init__(self, storage: optuna.storages.BaseStorage, frozen: FrozenTrial) -> None:
        self._storage = storage
        self._frozen = frozen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *arguments: Any, **options: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*arguments, **options)
        return [self._frozen if trial._trial_id == self._frozen._trial_id else trial for trial in trials]


def finite_row(row: Mapping[str, Any]) -> Row:
    """`row` with null for every number that is not finite, as JSON wants it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _complete_trials(study: optuna.Study) -> list[tuple[float, int, str]]:
    """Loss, number and id of each, best first, and of equal ones the earliest first."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(
        (t.value, t.number, t.user_attrs[col.TRIAL]) for t in trials if t.user_attrs[col.STATUS] == col.COMPLETE
    )


def _counts(model: ModelConfig) -> dict[str, int]:
    count = count_parameters(model)
    values = (estimate_parameters(model), count.total, count.non_embedding, flops_per_token(model))
    return dict(zip(col.COUNT_COLUMNS, values, strict=True))
