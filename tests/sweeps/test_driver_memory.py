"""The driver of a sweep does not grow with trials that have ended, and what it forgets changes no result."""

import random

import optuna
import pytest

from lmcore import columns as col
from sweeps.callbacks.utilization import Utilization
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.shared_parts import share_parts
from sweeps.study.storage import open_storage

SPEC = {
    "name": "memory",
    "space": {"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}},
    "search": {"method": "random", "scheduler": "median", "trials": 6},
}


def ended(**attributes):
    return optuna.create_trial(value=0.0, user_attrs=attributes)


def test_ended_trials_share_what_is_equal_and_nothing_else():
    model = ended(run={"data": {"seed": 0, "source": "stdlib"}, "optim": {"lr": 0.1}}, last=[1, 2.0])
    trial = ended(run={"data": {"seed": 0, "source": "stdlib"}, "optim": {"lr": 0.2}}, last=[1, 2.0], more=None)
    before = str(trial.user_attrs)
    share_parts(trial, model)
    assert str(trial.user_attrs) == before
    assert trial.user_attrs["run"]["data"] is model.user_attrs["run"]["data"]
    assert trial.user_attrs["last"] is model.user_attrs["last"]
    assert trial.user_attrs["run"]["optim"] == {"lr": 0.2}


@pytest.mark.parametrize("value", [{"a": 1.0}, {"a": True}, [1.0], {"a": 1, "b": 2}, {}, None])
def test_equal_numbers_of_different_types_are_not_shared(value):
    trial = ended(x=value)
    share_parts(trial, ended(x={"a": 1}))
    assert repr(trial.user_attrs["x"]) == repr(value)


def report(step, loss):
    row = dict.fromkeys(col.REPORT_COLUMNS, 1.0) | dict.fromkeys(col.FINAL_COLUMNS)
    return row | {col.STEP: step, col.VAL_LOSS: loss}


def test_runs_of_ended_trials_are_kept_once_by_a_driver_and_by_the_one_that_resumes(tmp_path):
    spec = SweepSpec.model_validate(SPEC)
    ledger = Ledger(spec, open_storage(None, RunFolder(tmp_path)))
    for loss in (3.0, 4.0, 5.0):
        live = ledger.ask("main")
        for step in (live.run.steps // 2, live.run.steps):
            if ledger.report(live.id, report(step, loss)) != col.RUNNING:
                break
        ledger.end(live.id)
    ledger.ask("main")  # reads what has ended
    for driver in (ledger, Ledger(spec, open_storage(None, RunFolder(tmp_path)))):
        study = driver.studies["main"].study
        first, second, _ = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))[:3]
        fresh = optuna.load_study(study_name=study.study_name, storage=open_storage(None, RunFolder(tmp_path)))
        for trial in (first, second):
            assert trial == fresh.get_trials()[trial.number]
        assert first.user_attrs[col.RUN]["model"] is second.user_attrs[col.RUN]["model"]
        assert first.distributions is second.distributions


def share_of_all(engines, rows):
    """The definition of utilization, from all rows at once."""
    starts = {}
    for row in rows:
        starts[row["trial"]] = min(row["began_at"], starts.get(row["trial"], row["began_at"]))
    first, last = min(starts.values()), max(starts.values())
    used = sum(max(0.0, min(row["reported_at"], last) - row["began_at"]) / row["width"] for row in rows)
    return used / (engines * (last - first))


def test_utilization_computed_as_rows_arrive_is_that_of_all_rows():
    rng, rows, now = random.Random(0), [], {0: 0.0, 1: 0.3}
    utilization = Utilization(engines=2)
    for number in range(60):
        engine, steps = number % 2, rng.randint(1, 4)
        for _ in range(steps):
            end = now[engine] + rng.uniform(0.5, 2.0)
            row = {"trial": f"t{number}", "engine": engine, "width": rng.choice([1, 2])}
            rows.append(row | {"began_at": now[engine], "reported_at": end})
            now[engine] = end + rng.uniform(0, 0.2)
    rows.sort(key=lambda row: row["reported_at"])
    for row in rows:
        utilization.on_report(None, row)
    assert utilization.share == pytest.approx(share_of_all(2, rows))
    assert len(utilization._newer) < 10


@pytest.mark.ray
def test_tune_forgets_trials_that_have_ended(cluster, tmp_path):
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler

    from sweeps.tune.ended_trials import forget_ended

    held = []

    class Forgetting(FIFOScheduler):
        def choose_trial_to_run(self, tune_controller):
            forget_ended(tune_controller)
            held.append(len(tune_controller.get_trials()))
            return super().choose_trial_to_run(tune_controller)

    class Trainable(tune.Trainable):
        def step(self):
            return {"loss": 1.0, "done": self.iteration == 2}

        def reset_config(self, new_config):
            return True

        def save_checkpoint(self, checkpoint_dir):
            return None

    tune.Tuner(
        tune.with_resources(Trainable, {"cpu": 1}),
        param_space={"lr": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            num_samples=12,
            max_concurrent_trials=2,
            reuse_actors=True,
            metric="loss",
            mode="min",
            scheduler=Forgetting(),
            search_alg=None,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert max(held) <= 4
