"""Which trials pause and which go on, against a reference that looks at all recorded losses each time."""

import random

import optuna
import pytest
from test_ledger import row, spec

from lmcore import columns as col
from sweeps.study.deadline import Deadline
from sweeps.study.ledger import Ledger
from sweeps.study.promotion import Ladder, Promotion
from sweeps.study.rungs import expected_training

LOSSES = 3.0, 5.0


class Reference:
    """The definition: tables of losses by trial and rung, searched from the beginning at every question."""

    def __init__(self, rungs, steps, factor):
        self.rungs, self.steps, self.factor = rungs, steps, factor
        self.losses = {rung: {} for rung in rungs}
        self.paused = {}

    def is_among_best(self, rung, number):
        here = self.losses[rung]
        better = [one for one in here if (here[one], one) < (here[number], number)]
        return len(better) < max(1, len(here) // self.factor)

    def report(self, number, loss, step):
        if step not in self.rungs:
            return True
        self.losses[step][number] = loss
        if not self.is_among_best(step, number):
            self.paused[number] = step
        return number not in self.paused

    def order(self, numbers):
        return sorted(numbers, key=lambda one: (-self.paused[one], self.losses[self.paused[one]][one], one))

    def promotable(self):
        return self.order([one for one, rung in self.paused.items() if self.is_among_best(rung, one)])


class Trial:
    """What `Promotion.start` needs of an Optuna trial."""

    def __init__(self, number):
        self.number, self.user_attrs = number, {}

    def set_user_attr(self, name, value):
        self.user_attrs[name] = value


@pytest.mark.parametrize("seed", range(20))
def test_pauses_and_promotions_are_those_of_the_definition_in_any_order_of_arrival(seed):
    rng = random.Random(seed)
    factor = rng.choice([2, 3, 4])
    ladder = Ladder.of("asha", grace_steps=10, steps=160, factor=factor, every=10)
    promotion, reference = Promotion(ladder, [], {}, []), Reference(ladder.rungs, 160, factor)
    running, started, ended = {}, 0, 0
    while ended < 40:
        if promotable := promotion.promotable:
            running[promotable[0]] = reference.paused.pop(promotable[0])
            promotion.resume(promotable[0])
        elif started < 60 and len(running) < 5:
            promotion.start(Trial(started))
            running[started] = 0
            started += 1
        if not running:
            break
        number = rng.choice(list(running))
        running[number] += 10
        step, loss = running[number], rng.choice([rng.uniform(*LOSSES), 4.0])
        goes_on = promotion.report(number, loss, step)
        assert goes_on == reference.report(number, loss, step)
        if step == 160 or rng.random() < 0.02:
            promotion.end(number, step)
            reference.paused.pop(number, None)
            del running[number]
            ended += 1
        elif not goes_on:
            promotion.pause(number)
            del running[number]
        assert promotion.promotable == reference.promotable()
        assert promotion.paused == reference.order(reference.paused)


def drive(ledger, loss_of, order=None):
    """Run all trials with up to three at a time, in an order drawn from `order`; steps trained by trial."""
    running, trained = {}, {}
    order = order or random.Random(0)
    while True:
        while len(running) < 3 and (sizes := ledger.sizes_left):
            live = ledger.ask(sizes[0])
            running[live.id] = live
            trained.setdefault(live.id, 0)
        if not running:
            return trained
        live = running[order.choice(sorted(running))]
        step = (live.last_row or {col.STEP: 0})[col.STEP] + 10
        trained[live.id] += 10
        if ledger.report(live.id, row(step, loss_of(live, step))) != col.RUNNING:
            ledger.end(live.id)
            del running[live.id]


def in_memory(**options):
    return Ledger(spec("random", **options), optuna.storages.InMemoryStorage())


@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
@pytest.mark.parametrize("seed", range(5))
def test_in_the_end_every_trial_is_complete_or_pruned_with_its_values_and_no_better_one_was_left(scheduler, seed):
    book = in_memory(trials=20, scheduler=scheduler)
    rng = random.Random(seed)
    losses = [rng.uniform(*LOSSES) for _ in range(20)]
    trained = drive(book, lambda live, step: losses[live.trial.number], rng)
    assert book.over
    trials = book.studies["main"].study.trials
    assert {trial.user_attrs[col.STATUS] for trial in trials} == {col.COMPLETE, col.PRUNED}
    best = min(trials, key=lambda trial: losses[trial.number])
    assert best.user_attrs[col.STATUS] == col.COMPLETE
    for trial in trials:
        assert trial.user_attrs.get(col.PAUSED_AT, None) == (
            max(trial.intermediate_values) if trial.user_attrs[col.STATUS] == col.PRUNED else None
        )
        assert trained[trial.user_attrs[col.TRIAL]] == max(trial.intermediate_values)  # no step was repeated


def test_a_trial_that_came_at_a_bad_moment_goes_on_when_its_rung_has_grown():
    book = in_memory(trials=6)
    losses = [3.0, 3.1, 3.5, 3.6, 3.7, 3.8]
    first, second = book.ask("main"), book.ask("main")
    assert book.report(first.id, row(10, losses[0])) == col.RUNNING
    assert book.report(second.id, row(10, losses[1])) == col.PAUSED
    assert (second.status, second.paused_at) == (col.PAUSED, 10)
    book.end(second.id)
    assert book.statuses() == {first.id: col.RUNNING, second.id: col.PAUSED}
    for number in (2, 3):
        live = book.ask("main")
        assert live.trial.number == number
        assert book.report(live.id, row(10, losses[number])) == col.PAUSED
        book.end(live.id)
    promoted = book.ask("main")  # two of four belong to the best by now
    assert promoted.id == second.id
    assert promoted.last_row[col.STEP] == 10
    assert (promoted.status, promoted.paused_at) == (col.RUNNING, None)
    assert book.ask("main").trial.number == 4


def test_the_highest_rung_goes_first_then_the_lowest_loss():
    ladder = Ladder((10, 20), 40, 2)
    promotion = Promotion(ladder, [], {}, [])
    for number, loss in enumerate([3.0, 3.1, 3.2, 3.3]):
        promotion.start(Trial(number))
        promotion.report(number, loss, 10)
        promotion.pause(number)
    for number, loss in ((2, 3.0), (3, 2.9)):
        promotion.resume(number)
        promotion.report(number, loss, 20)
        promotion.pause(number)
    assert promotion.paused == [3, 2, 0, 1]
    assert promotion.promotable == [3, 0, 1]


@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_what_diverged_trials_leave_of_the_budget_is_spent_on_the_best_paused_ones_and_no_more(scheduler):
    def loss_of(live, step):
        return float("nan") if live.trial.number % 2 else 3.0 + live.trial.number / 100

    spared = in_memory(trials=24, scheduler=scheduler)
    trained = sum(drive(spared, loss_of).values())
    promotion = spared.studies["main"].promotion
    assert promotion.budget * 0.8 <= trained <= promotion.budget
    if scheduler == "asha":
        assert promotion.budget == expected_training(24, (10, 20, 40), 2)


def test_at_least_one_trial_is_trained_to_its_end_whatever_is_left_of_the_budget():
    promotion = Promotion(Ladder((10,), 40, 2), [], {}, [])
    for number in (0, 1):
        promotion.start(Trial(number))
        promotion.report(number, 3.0 + number, 10)
    promotion.pause(1)
    assert promotion.spare(finished=False) == []  # the other one is on its way to the end
    promotion.end(0, 40)  # where it diverged
    assert promotion.budget == 2 * 10 + 30
    assert promotion.spare(finished=True) == []
    assert promotion.spare(finished=False) == [1]


def test_a_trial_that_diverges_at_a_rung_is_neither_paused_nor_promoted():
    book = in_memory(trials=2)
    first, second = book.ask("main"), book.ask("main")
    book.report(first.id, row(10, 3.0))
    assert book.report(second.id, row(10, 3.5, train_loss=float("inf"))) == col.DIVERGED
    book.end(second.id)
    assert not book.studies["main"].paused
    assert book.statuses()[second.id] == col.DIVERGED


def test_trials_of_hyperband_know_their_bracket_and_are_compared_within_it():
    book = in_memory(trials=12, scheduler="hyperband")
    drive(book, lambda live, step: 3.0 + live.trial.number / 100)
    trials = book.studies["main"].study.trials
    brackets = {trial.number: trial.user_attrs["bracket"] for trial in trials}
    assert set(brackets.values()) == {0, 1, 2}
    stopped_at = {
        brackets[trial.number]: max(trial.intermediate_values) for trial in trials if trial.state.name == "PRUNED"
    }
    assert min(step for bracket, step in stopped_at.items() if bracket == 1) == 20
    assert 2 not in stopped_at  # the last bracket stops nobody


def test_a_target_that_is_reached_ends_the_search_though_paused_trials_would_go_on():
    book = in_memory(trials=4, stop_at=3.0)
    first, *others = (book.ask("main") for _ in range(4))
    book.report(first.id, row(10, 2.9))
    for number, live in enumerate(others):
        assert book.report(live.id, row(10, 3.1 + number)) == col.PAUSED
        book.end(live.id)
    assert book.sizes_left == ["main"]
    book.report(first.id, row(40, 2.8))
    book.end(first.id)
    assert book.over
    assert list(book.statuses().values()) == [col.COMPLETE, col.PRUNED, col.PRUNED, col.PRUNED]


def test_given_up_trials_are_announced_before_the_study_is_told_the_least_promising_first():
    book = in_memory(trials=8)
    seen = []

    def given_up(live):
        frozen = book.studies["main"].study.trials[live.trial.number]
        seen.append((live.status, live.paused_at, live.last_row[col.VAL_LOSS], frozen.state.name))

    book.on_given_up = given_up
    drive(book, lambda live, step: 3.0 + live.trial.number / 100)
    assert len(seen) == list(book.statuses().values()).count(col.PRUNED)
    assert {(status, state) for status, _, _, state in seen} == {(col.PRUNED, "RUNNING")}
    assert seen == sorted(seen, key=lambda one: (one[1], -one[2]))


def test_a_resumed_sweep_finds_its_paused_trials_paused_and_hands_out_the_running_ones_first():
    storage = optuna.storages.InMemoryStorage()
    book, rows = Ledger(spec("random", trials=4), storage), {}
    handles = [book.ask("main") for _ in range(3)]
    for live, loss in zip(handles, (3.0, 3.1, 3.2), strict=True):
        status = book.report(live.id, row(10, loss))
        rows[live.id] = row(10, loss) | {col.STATUS: status}
    again = Ledger(spec("random", trials=4), storage, rows)
    assert again.statuses() == {"main-0000": col.RUNNING, "main-0001": col.PAUSED, "main-0002": col.PAUSED}
    assert again.unfinished == 1
    assert sorted(again.studies["main"].paused) == [1, 2]
    assert [again.ask("main").id for _ in range(2)] == ["main-0000", "main-0003"]


def test_a_paused_trial_whose_rest_does_not_fit_into_the_time_is_given_up():
    now = [0.0]
    deadline = Deadline(100.0, clock=lambda: now[0])
    book = Ledger(spec("random", trials=4, time=100), optuna.storages.InMemoryStorage(), deadline=deadline)
    first, *others = (book.ask("main") for _ in range(4))
    for number, live in enumerate((first, *others)):
        now[0] += 10  # a trial takes 40 s
        status = book.report(live.id, row(10, 3.0 + number))
        assert status == (col.PAUSED if number else col.RUNNING)
        if number:
            book.end(live.id)
    assert book.sizes_left == ["main"]  # 30 s of a paused trial and of the first one fit into the 60 s that are left
    now[0] = 75.0
    assert book.sizes_left == []
    book.report(first.id, row(40, 2.9))
    book.end(first.id)
    assert book.over
    assert list(book.statuses().values()) == [col.COMPLETE, col.PRUNED, col.PRUNED, col.PRUNED]
