"""Creates a study of a sweep, or opens it again, with a pruner and with the trials enqueued that a config lists."""

from contextlib import suppress

import optuna
from optuna.trial import TrialState

from lmcore import columns as col
from sweeps.spec.arms import StudyPlan
from sweeps.spec.space import grid, sample_grid
from sweeps.spec.start_with import start_settings
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.retry import first_attempts
from sweeps.study.schedulers import pruner_for

START_WITH = "start_with"
"""User attribute of a trial that begins with known values: their place in `sweeps.spec.start_with.start_settings`."""

METRIC_NAMES = {col.VAL_LOSS: "validation loss (nats per token)"}


def open_study(spec: SweepSpec, plan: StudyPlan, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study of `plan`: of a search, with every grid point, experiment and known setting enqueued that it lacks.

    On resume some may be missing: the driver was killed here, or the sweep has more trials now.

    Example:
        study = open_study(spec, spec.studies[0], open_storage(None, folder))
    """
    search = spec.search
    confirms = plan.phase == col.CONFIRM
    steps = spec.arm_run(plan).steps
    scheduler = "none" if confirms else search.scheduler
    study = optuna.create_study(
        study_name=spec.study_name(plan),
        storage=storage,
        direction="minimize",
        load_if_exists=True,  # a new sweep calls `check_unused` first
        pruner=pruner_for(scheduler, spec.grace_steps(plan.size), steps, search.reduction_factor),
    )
    if study.metric_names is None:
        study.set_metric_names([METRIC_NAMES[search.metric]])  # what optuna-dashboard calls the axis
    if confirms:
        return study
    queued, total = first_attempts(study.get_trials(deepcopy=False)), spec.trials_in(plan)
    if search.method == "grid":
        # Until a trial is asked for, Optuna keeps its grid point here alone.
        taken = [trial.system_attrs["fixed_params"] for trial in queued]
        whole = grid(spec.searched, spec.study_layout(plan).fields)
        points = [point for point in sample_grid(whole, total, search.seed) if point not in taken]
        for point in points[: total - len(queued)]:
            study.enqueue_trial(point)
    if search.method == "experiments":
        for experiment in spec.experiments[len(queued) : total]:
            study.enqueue_trial({}, user_attrs={col.EXPERIMENT: experiment.name})
    known = {trial.user_attrs.get(START_WITH): trial for trial in queued}
    for place, setting in enumerate(start_settings(spec, plan)):
        if place not in known:
            study.enqueue_trial(setting, user_attrs={START_WITH: place})
        elif known[place].state is TrialState.WAITING and known[place].system_attrs["fixed_params"] != setting:
            # The space has changed, and other proposals lead to these fields now.
            storage.set_trial_system_attr(known[place]._trial_id, "fixed_params", setting)
    return study


def asked_trials(spec: SweepSpec, storage: optuna.storages.BaseStorage) -> dict[str, int]:
    """Number of trials that each search study was asked for, by its id; studies that do not exist yet have none."""
    counts = {}
    asked = tuple(state for state in TrialState if state is not TrialState.WAITING)
    for plan in spec.studies:
        with suppress(KeyError):
            study_id = storage.get_study_id_from_name(spec.study_name(plan))
            counts[plan.id] = storage.get_n_trials(study_id, asked)
    return counts
