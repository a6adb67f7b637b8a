"""Another scheduler on resume: what was decided stays, and the new rules know the rungs of earlier trials."""

import optuna
import pytest
from optuna.trial import TrialState
from test_ledger import row, spec

from lmcore import columns as col
from sweeps.spec.settings import SCHEDULERS
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger


def train(ledger, losses, upto=40, rows=None):
    """Run the next trial with this loss at every report, as far as `upto`; returns its handle. `rows` gets its last."""
    live = ledger.ask("main")
    begun = 0 if live.last_row is None else live.last_row[col.STEP]
    for step in range(begun + 10, upto + 1, 10):
        status = ledger.report(live.id, row(step, losses))
        if rows is not None:
            rows[live.id] = row(step, losses) | {col.STATUS: status}
        if status != col.RUNNING:
            break
    if upto == 40 or live.status != col.RUNNING:
        ledger.end(live.id)
    return live


def changed(sweep, **search):
    return SweepSpec.model_validate({**dict(sweep), "search": {**sweep.search.model_dump(), **search}})


@pytest.mark.parametrize("after", SCHEDULERS)
@pytest.mark.parametrize("before", SCHEDULERS)
def test_every_scheduler_may_follow_every_other_and_leaves_ended_trials_as_they_are(before, after):
    storage, sweep, rows = optuna.storages.InMemoryStorage(), spec("random", trials=12, scheduler=before), {}
    ledger = Ledger(sweep, storage)
    for loss in (2.0, 3.0, 2.5, 1.5, 4.0):
        train(ledger, loss, rows=rows)
    train(ledger, 2.2, upto=10, rows=rows)
    ended = {trial: status for trial, status in ledger.statuses().items() if status not in col.UNFINISHED}
    again = Ledger(changed(sweep, scheduler=after), storage, rows)
    while again.sizes_left:
        train(again, 2.1)
    assert again.over
    assert ended.items() <= again.statuses().items()
    assert len(again.statuses()) == 12
    assert not any(t.state is TrialState.RUNNING for t in again.studies["main"].study.get_trials())


def test_asha_after_none_compares_with_the_trials_that_none_let_finish():
    storage, sweep = optuna.storages.InMemoryStorage(), spec("random", trials=12, scheduler="none", grace_steps=10)
    ledger = Ledger(sweep, storage)
    for _ in range(4):
        train(ledger, 2.0)
    again = Ledger(changed(sweep, scheduler="asha-stop"), storage)
    assert train(again, 2.5).status == col.PRUNED
    assert train(again, 1.5).status == col.COMPLETE
    pausing = Ledger(changed(sweep, scheduler="asha"), storage)
    assert train(pausing, 2.5).status == col.PAUSED
    assert train(pausing, 1.4).status == col.COMPLETE


def test_other_rungs_of_asha_are_those_of_the_new_factor_for_earlier_trials_as_well():
    storage = optuna.storages.InMemoryStorage()
    sweep = spec("random", trials=12, scheduler="asha-stop", grace_steps=10, reduction_factor=3)
    train(Ledger(sweep, storage), 2.0)
    after = changed(sweep, reduction_factor=2)
    resumed = Ledger(after, storage).studies["main"].early_stopping
    rungs = [name for name in resumed._copy.get_trials()[0].system_attrs if name.startswith("completed_rung")]
    fresh = optuna.storages.InMemoryStorage()
    train(Ledger(after, fresh), 2.0)
    memory = optuna.load_study(study_name="main", storage=fresh).trials[0].user_attrs["early_stopping"]["memory"]
    assert sorted(rungs) == sorted(memory)
    twice = Ledger(after, storage).studies["main"].early_stopping
    assert twice._copy.get_trials()[0].system_attrs == resumed._copy.get_trials()[0].system_attrs
