"""Tune's suggest and complete reach the study, and a trial that Tune gives up is not lost."""

import math

import optuna
import pytest
from ray.tune.search import Searcher
from test_ledger import row, spec

from lmcore import columns as col
from sweeps.callbacks.base import Callback, Callbacks
from sweeps.study.ledger import Ledger
from sweeps.study.order import ArrivalOrder
from sweeps.tune.searcher import MAX_REQUEUES, StudySearcher
from sweeps.tune.trainable import KNOWN_STEP


class OneEngine:
    """A worker pool of one engine that always has room."""

    def __init__(self):
        self.trials = set()

    def offer(self, sizes):
        return 0, sizes[0]

    def submit(self, live, engine):
        self.trials.add(live.id)

    def release(self, trial, ended=True):
        self.trials.discard(trial)


@pytest.fixture
def parts():
    """Ledger, engine and searcher of two trials."""
    ledger, engine = Ledger(spec("random", trials=2), optuna.storages.InMemoryStorage()), OneEngine()
    return ledger, engine, StudySearcher(ArrivalOrder(ledger), engine, Callbacks([]))


def test_a_trial_whose_proxy_died_while_it_was_running_is_handed_out_again_from_its_last_row(parts):
    ledger, engine, searcher = parts
    first = searcher.suggest("a")
    ledger.report(first[col.TRIAL], row(10, 3.0))
    searcher.on_trial_complete("a", error=True)
    assert engine.trials == set()
    again = searcher.suggest("b")
    assert again == first | {KNOWN_STEP: 10}
    assert engine.trials == {first[col.TRIAL]}
    other = searcher.suggest("c")
    assert searcher.suggest("d") is None  # one of them may be paused, and go on
    for name, trial in (("b", again), ("c", other)):
        ledger.report(trial[col.TRIAL], row(40, 2.0))
        searcher.on_trial_complete(name)
    assert searcher.suggest("d") == Searcher.FINISHED
    assert set(ledger.statuses().values()) == {col.COMPLETE}
    assert len(ledger.statuses()) == 2


def test_a_paused_trial_keeps_its_place_in_the_study_and_is_another_trial_to_tune_when_it_goes_on(parts):
    ledger, engine, searcher = parts
    first, second = searcher.suggest("a"), searcher.suggest("b")
    ledger.report(first[col.TRIAL], row(10, 3.0))
    assert ledger.report(second[col.TRIAL], row(10, 3.5)) == col.PAUSED
    searcher.on_trial_complete("b")
    assert engine.trials == {first[col.TRIAL], second[col.TRIAL]}  # the scheduler has had its slot freed
    assert ledger.statuses() == {first[col.TRIAL]: col.RUNNING, second[col.TRIAL]: col.PAUSED}
    assert searcher.suggest("c") is None
    ledger.report(first[col.TRIAL], row(20, math.nan))
    searcher.on_trial_complete("a")
    again = searcher.suggest("d")  # what the other one left of the budget
    assert again == second | {KNOWN_STEP: 10}
    ledger.report(again[col.TRIAL], row(40, 2.0))
    searcher.on_trial_complete("d")
    assert searcher.suggest("e") == Searcher.FINISHED
    assert ledger.statuses() == {first[col.TRIAL]: col.DIVERGED, second[col.TRIAL]: col.COMPLETE}


def test_a_trial_whose_pause_ends_the_search_is_announced_once_as_pruned(parts):
    ledger, engine, _ = parts
    ended = []

    class Ends(Callback):
        def on_trial_end(self, trial):
            ended.append((trial.id, trial.status))

    callbacks = Callbacks([Ends()])
    searcher = StudySearcher(ArrivalOrder(ledger), engine, callbacks)
    ledger.on_given_up = callbacks.on_trial_end
    first, second = (searcher.suggest(name)[col.TRIAL] for name in "ab")
    ledger.report(first, row(40, 3.0))
    searcher.on_trial_complete("a")
    assert ledger.report(second, row(20, 3.5)) == col.PAUSED
    searcher.on_trial_complete("b")
    assert ended == [(first, col.COMPLETE), (second, col.PRUNED)]


def test_a_requeued_trial_is_left_after_tune_has_been_given_the_last_one(parts):
    ledger, _, searcher = parts
    for name in ("a", "b"):
        searcher.suggest(name)
    assert not ledger.sizes_left
    searcher.on_trial_complete("b", error=True)
    assert ledger.sizes_left


def test_a_trial_that_tune_gives_up_again_and_again_fails(parts):
    ledger, _, searcher = parts
    for time in range(MAX_REQUEUES + 1):
        trial = searcher.suggest(f"a{time}")[col.TRIAL]
        searcher.on_trial_complete(f"a{time}", error=True)
    assert ledger.statuses() == {trial: col.FAILED}
    assert "died again and again" in ledger.studies["main"].study.trials[0].user_attrs[col.MESSAGE]
