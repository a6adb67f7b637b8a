"""The ledger of a sweep: its Optuna studies, one per size, and the only way to read or write them.

The study is the sweep's only memory. What it is told is the truth:

| status   | Optuna state | value                                                                     |
|----------|--------------|---------------------------------------------------------------------------|
| complete | COMPLETE     | the last validation loss                                                  |
| pruned   | PRUNED       | none told: Optuna shows the last intermediate value, and keeps all of them |
| diverged | COMPLETE     | +inf, with the constraint `diverged` violated: samplers learn to stay away |
| failed   | FAIL         | none; the error message as an attribute                                   |

Ray does not appear here: `sweeps.searcher` and `sweeps.scheduler` translate.
"""

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from lmcore import columns as col
from lmcore.config import ModelConfig, RunSpec
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.pruners import pruner_for
from sweeps.samplers import sampler_for
from sweeps.space import distributions, grid, limited
from sweeps.spec import SweepSpec
from sweeps.verdict import divergence

Row = dict[str, Any]
CONSTRAINT = "diverged"


@dataclass
class LiveTrial:
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

    @property
    def name(self) -> str:
        """What people call it: the experiment's name where it has one."""
        return self.id if self.experiment is None else f"{self.id} {self.experiment}"


@dataclass
class Ledger:
    """The studies of `spec` in the Optuna storage `storage`."""

    spec: SweepSpec
    storage: optuna.storages.BaseStorage
    live: dict[str, LiveTrial] = field(default_factory=dict)

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

    def _create(self, size: str) -> optuna.Study:
        search = self.spec.search
        run = self.spec.run_for(size, {})
        study = optuna.create_study(
            study_name=self.spec.study_name(size),
            storage=self.storage,
            direction="minimize",
            pruner=pruner_for(search.scheduler, self.spec.grace_steps(size), run.train.steps, search.reduction_factor),
        )
        if search.method == "grid":
            for params in limited(grid(self.spec.space), self.spec.trials_of(size), search.seed):
                study.enqueue_trial(params)
        if search.method == "experiments":
            for experiment in self.spec.experiments[: self.spec.trials_of(size)]:
                study.enqueue_trial({}, user_attrs={col.EXPERIMENT: experiment.name})
        return study

    @property
    def sizes_left(self) -> list[str]:
        """Sizes that have trials left to ask for, those with the fewest so far first."""
        left = [size for size, asked in self._asked.items() if asked < self._trials_of[size]]
        return sorted(left, key=self._asked.__getitem__)

    def ask(self, size: str) -> LiveTrial:
        """The next trial of a size that has trials left."""
        study = self.studies[size]
        study.sampler = sampler_for(self.spec.search, size, self._asked[size], self.spec.startup_trials(size))
        trial = study.ask(self._space)
        self._asked[size] += 1
        experiment = trial.user_attrs.get(col.EXPERIMENT)
        overrides = self.spec.experiment(experiment) if experiment else dict(trial.params)
        live = LiveTrial(f"{size}-{trial.number:04d}", size, experiment, self.spec.run_for(size, overrides), trial)
        # Few and large: every attribute is a transaction of its own, some milliseconds with SQLite.
        trial.set_user_attr(col.TRIAL, live.id)
        trial.set_user_attr(col.RUN, live.run.model_dump())
        trial.set_user_attr(col.COUNTS, _counts(live.run.model))
        self.live[live.id] = live
        return live

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
        elif live.trial.should_prune():
            live.status = col.PRUNED
        return live.status

    def fail(self, trial_id: str, message: str, error: str) -> None:
        """Note that a trial died of an error of its own; `end` tells the study."""
        live = self.live[trial_id]
        live.status, live.message, live.error = col.FAILED, message, error

    def end(self, trial_id: str) -> LiveTrial:
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

    def statuses(self) -> dict[str, str]:
        """Status of every trial that has been asked for, by trial id."""
        return {
            t.user_attrs[col.TRIAL]: t.user_attrs.get(col.STATUS, col.RUNNING)
            for study in self.studies.values()
            for t in study.get_trials(deepcopy=False)
            if col.TRIAL in t.user_attrs
        }


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
