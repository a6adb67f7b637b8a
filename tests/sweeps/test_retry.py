"""`--resume --retry failed`: failed trials are trained again as new ones, once, and what was recorded of them stays."""

import optuna
import pytest
from optuna.trial import TrialState

from lmcore import columns as col
from sweeps.cli.options import parse
from sweeps.run import main
from sweeps.spec.settings import METHODS
from sweeps.study.ledger import Ledger
from sweeps.study.retry import RETRY_OF, retry_failed
from tests.sweeps.test_confirmation import loss_of
from tests.sweeps.test_confirmation import spec as confirmed
from tests.sweeps.test_ledger import row
from tests.sweeps.test_ledger import spec as searched


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


def drive(spec, storage, failing=(), stop_after=None):
    """Train what is left of the sweep, one trial after the other; trials in `failing` fail. Returns the handles."""
    ledger, ended = Ledger(spec, storage), []
    while not ledger.over and (stop_after is None or len(ended) < stop_after):
        live = ledger.ask(ledger.sizes_left[0])
        if live.id in failing:
            ledger.fail(live.id, "RuntimeError: boom", "Traceback")
        else:
            for step in range(10, live.run.steps + 1, 10):
                ledger.report(live.id, row(step, loss_of(live.run)))
        ended.append(ledger.end(live.id))
    return ended


def trials_of(storage, spec, number=0):
    return optuna.load_study(study_name=spec.study_name(spec.studies[number]), storage=storage).trials


@pytest.mark.parametrize("method", METHODS)
def test_a_failed_trial_is_trained_again_with_its_setting_under_a_new_id_and_stays_as_it_was(storage, method):
    spec = searched(method, trials=6, scheduler="none")
    before = drive(spec, storage, failing={"main-0001", "main-0004"})
    kept = [trials_of(storage, spec)[number] for number in (1, 4)]
    assert retry_failed(spec, storage) == ["main-0001", "main-0004"]
    again = drive(spec, storage)
    assert [live.id for live in again] == ["main-0006", "main-0007"]
    assert [live.run for live in again] == [before[1].run, before[4].run]
    assert [live.status for live in again] == [col.COMPLETE, col.COMPLETE]
    assert [live.experiment for live in again] == [before[1].experiment, before[4].experiment]
    after = trials_of(storage, spec)
    assert [after[number] for number in (1, 4)] == kept
    assert [trial.user_attrs.get(RETRY_OF) for trial in after[6:]] == ["main-0001", "main-0004"]


def test_a_trial_is_trained_again_once_unless_it_fails_again(storage):
    spec = searched("random", trials=3, scheduler="none")
    drive(spec, storage, failing={"main-0001"})
    assert retry_failed(spec, storage) == ["main-0001"]
    assert retry_failed(spec, storage) == []  # the driver was killed before it asked for it
    drive(spec, storage, failing={"main-0003"})
    assert retry_failed(spec, storage) == ["main-0003"]
    drive(spec, storage)
    assert retry_failed(spec, storage) == []
    states = [trial.state for trial in trials_of(storage, spec)]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("method", ["random", "grid", "experiments"])
def test_trials_that_were_not_asked_for_yet_are_still_trained(storage, method):
    spec = searched(method, trials=6, scheduler="none")
    drive(spec, storage, failing={"main-0001"}, stop_after=3)
    retry_failed(spec, storage)
    drive(spec, storage)
    trials = trials_of(storage, spec)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) == 6
    runs = [str(trial.user_attrs[col.RUN]) for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(set(runs)) == len(runs) or method == "experiments"  # experiments repeat learning rates
    more = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 8})})
    drive(more, storage)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials_of(storage, spec)) == 8


def test_a_failed_confirmation_run_is_trained_again_under_its_seed_and_counts(storage):
    spec = confirmed()
    first = drive(spec, storage)
    victim = next(live for live in first if live.of is not None)
    other = optuna.storages.InMemoryStorage()
    ended = drive(spec, other, failing={victim.id})
    failed = next(live for live in ended if live.id == victim.id)
    assert retry_failed(spec, other) == [victim.id]
    assert not Ledger(spec, other).over
    again = drive(spec, other)
    assert [live.of for live in again if live.run == failed.run] == [failed.of]
    assert Ledger(spec, other).over
    assert Ledger(spec, other).winners("main") == Ledger(spec, storage).winners("main")


def test_it_is_for_a_sweep_that_is_resumed(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--retry", "failed"])
    assert stop.value.code == 2
    assert "--retry: is for a sweep that is resumed (got failed); add --resume RUN" in capsys.readouterr().err
    assert parse(["--resume", "runs/x", "--retry", "failed"]).retry == "failed"


def test_where_resume_auto_starts_a_sweep_a_note_says_that_nothing_is_tried_again(in_tmp, capsys):
    assert main(["--name", "new", "--resume", "auto", "--retry", "failed", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Note: runs/new holds no sweep yet, so --retry has no effect.\n")
    assert "are not counted" not in printed
