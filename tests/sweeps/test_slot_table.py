"""Which trial sits where and what trains next: single rules, and a simulated engine that must never stall."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.engine.slot_table import Costs, Placement, SlotTable, Work

WORTHWHILE = Costs(single_s=1.0, batched_s=2.0)  # of four slots: half the price
DEAR = Costs(single_s=1.0, batched_s=4.0)  # together as long as one after the other


def table(slots=4, costs=WORTHWHILE, trials="abcd", now=0.0):
    """A table with a group of shape "x" whose trials are ready since `now`."""
    slot_table = SlotTable()
    slot_table.add_group("x", slots, costs)
    for trial in trials:
        slot_table.enter(trial, "x")
    while seated := slot_table.seat_next():
        slot_table.ready(seated[0], now)
    return slot_table


def end(slot_table, work, now, ready=()):
    """An interval has ended: rows are reported, and for `ready` the driver has already decided to go on."""
    slot_table.rests(work.shape, now)
    for trial in work.trials:
        slot_table.reported(trial)
    for trial in ready:
        slot_table.ready(trial, now)


def test_a_shape_gets_slots_when_somebody_waits_for_it():
    slot_table = SlotTable()
    assert slot_table.shape_in_need() is None
    slot_table.enter("a", "x")
    slot_table.enter("b", "y")
    assert slot_table.shape_in_need() == ("x", "a")
    slot_table.add_group("x", 2, WORTHWHILE)
    assert slot_table.shape_in_need() == ("y", "b")


def test_a_free_slot_goes_to_the_first_in_line_of_its_shape():
    slot_table = table(slots=2, trials="")
    slot_table.add_group("y", 1, WORTHWHILE)
    for trial, shape in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "x")]:
        slot_table.enter(trial, shape)
    assert [slot_table.seat_next() for _ in range(4)] == [("a", 0), ("b", 1), ("d", 0), None]
    slot_table.leave("c")
    slot_table.leave("a")
    assert slot_table.seat_next() == ("e", 0)
    assert slot_table.seated("x") == ["e", "b"]
    assert slot_table.seat_next() is None


def test_a_trial_that_enters_again_or_leaves_twice_changes_nothing():
    slot_table = table()
    slot_table.enter("a", "x")
    assert (slot_table.state("a"), slot_table.slot("a")) == ("ready", 0)
    slot_table.leave("a")
    slot_table.leave("a")
    slot_table.reported("a")
    assert slot_table.trials == ["b", "c", "d"]


def test_a_full_house_trains_as_one_program_at_once():
    assert table().next_work(0.0) == Work("x", ("a", "b", "c", "d"), batched=True)


def test_a_group_waits_for_missing_slots_for_their_part_of_an_interval_and_not_longer():
    slot_table = table()
    first = slot_table.next_work(0.0)
    end(slot_table, first, 10.0, ready="ac")
    assert slot_table.next_work(10.0) == pytest.approx(2.0 * 2 / 4)  # for b and d
    assert slot_table.next_work(10.6) == pytest.approx(0.4)
    slot_table.ready("b", 10.7)
    work = slot_table.next_work(10.7)
    assert work == Work("x", ("a", "c", "b"), batched=True)  # d alone is worth 0.5 s, and those are over


def test_the_last_one_that_was_waited_for_starts_the_interval_at_once():
    slot_table = table()
    end(slot_table, slot_table.next_work(0.0), 10.0, ready="abc")
    assert slot_table.next_work(10.0) == pytest.approx(0.5)
    slot_table.ready("d", 10.4)
    assert slot_table.next_work(10.4) == Work("x", ("a", "b", "c", "d"), batched=True)


def test_a_slot_that_was_waited_for_in_vain_is_waited_for_again_only_after_it_came_or_got_another_trial():
    slot_table = table()
    end(slot_table, slot_table.next_work(0.0), 10.0, ready="abc")
    late = slot_table.next_work(10.5)
    assert late.trials == ("a", "b", "c")
    end(slot_table, late, 12.0, ready="abc")
    assert slot_table.next_work(12.0) == Work("x", ("a", "b", "c"), batched=True)  # nobody waits for d again
    slot_table.ready("d", 13.0)
    end(slot_table, Work("x", ("a", "b", "c"), True), 14.0, ready="abc")
    whole = slot_table.next_work(14.0)
    assert sorted(whole.trials) == ["a", "b", "c", "d"]
    end(slot_table, whole, 16.0, ready="abc")
    assert slot_table.next_work(16.0) == pytest.approx(0.5)  # d came, and so is worth waiting for
    again = slot_table.next_work(16.5)
    slot_table.leave("d")
    end(slot_table, again, 18.0, ready="abc")
    assert slot_table.next_work(18.0) == pytest.approx(0.5)  # somebody may come to refill its slot


def test_a_trial_whose_checkpoint_is_still_being_written_is_waited_for_like_one_that_is_reported():
    slot_table = table(slots=2, costs=Costs(1.0, 1.2), trials="ab")
    work = slot_table.next_work(0.0)
    slot_table.rests("x", 10.0)
    slot_table.reported("a")  # b has trained too, and its row follows when its checkpoint is on disk
    slot_table.ready("a", 10.0)
    assert slot_table.next_work(10.0) == pytest.approx(0.6)
    slot_table.reported("b")
    slot_table.ready("b", 10.1)
    assert slot_table.next_work(10.1) == work


def test_nobody_waits_where_training_together_is_not_cheaper():
    slot_table = table(costs=DEAR)
    trained = []
    for trial in "abcd":
        work = slot_table.next_work(0.0)
        assert work == Work("x", (trial,), batched=False)
        end(slot_table, work, 1.0)
        trained.append(work.trials)
    assert slot_table.next_work(4.0) is None


def test_a_batched_interval_is_for_as_many_ready_slots_as_make_it_cheaper():
    for count, batched in [(1, False), (2, False), (3, True), (4, True)]:  # 2 s together against 1 s each
        slot_table = table(trials="abcd"[:count])
        wait = slot_table.next_work(0.0)
        work = slot_table.next_work(wait) if count < 4 else wait
        assert work.batched == batched
        assert len(work.trials) == (count if batched else 1)


def test_the_oldest_ready_work_comes_first_so_that_shapes_take_turns():
    slot_table = SlotTable()
    for shape in "xyz":
        slot_table.add_group(shape, 1, DEAR)
        slot_table.enter(shape * 2, shape)
        slot_table.ready(slot_table.seat_next()[0], 0.0)
    turns = []
    for now in range(1, 10):
        work = slot_table.next_work(float(now))
        turns.append(work.shape)
        end(slot_table, work, now + 0.5)
        slot_table.ready(work.trials[0], now + 0.5)  # the driver answers at once
    assert turns == ["x", "y", "z"] * 3


def test_another_shape_trains_while_a_group_waits_for_its_missing_slots():
    slot_table = table(trials="abc")
    slot_table.add_group("y", 1, DEAR)
    slot_table.enter("other", "y")
    slot_table.ready(slot_table.seat_next()[0], 0.1)
    assert slot_table.next_work(0.2) == Work("y", ("other",), batched=False)
    assert slot_table.next_work(0.2) == pytest.approx(0.3)


def test_trials_of_a_withdrawn_group_keep_their_places_in_line():
    slot_table = table(slots=3, trials="abcde")
    slot_table.next_work(0.0)
    slot_table.leave("b")
    assert slot_table.remove_group("x") == ["a", "c"]
    assert slot_table.shapes == []
    assert slot_table.shape_in_need() == ("x", "a")
    slot_table.add_group("x", 1, WORTHWHILE)
    order = []
    while seated := slot_table.seat_next():
        order.append(seated[0])
        slot_table.leave(seated[0])
    assert order == ["a", "c", "d", "e"]


def test_a_report_of_a_trial_that_lost_its_slot_does_not_take_it_out_of_the_line():
    """Its checkpoint was being written when memory ran out for a neighbour."""
    slot_table = table(slots=2, trials="ab")
    slot_table.next_work(0.0)
    slot_table.remove_group("x")
    slot_table.reported("a")
    slot_table.add_group("x", 1, WORTHWHILE)
    assert slot_table.seat_next() == ("a", 0)


# A simulated engine that drives the table as `sweeps.engine.worker` does, with a driver that answers when it likes.


@dataclass
class Simulated:
    """What the simulation knows of a trial, independently of the table."""

    shape: str
    intervals: int
    trained: int = 0
    ready: bool = False
    slot: int | None = None
    seats: int = 0
    """Counts its seats taken and lost, so that an event of an earlier one is told apart."""


class SimulatedEngine:
    """Its device does one thing at a time, and the clock runs from event to event."""

    def __init__(self, rng, slots, costs, decision_s, failures):
        self.rng = rng
        self.slots = slots
        self.costs = costs
        self.decision_s = decision_s
        self.failures = failures
        self.now = 0.0
        self.idle_s = 0.0  # waited although something was ready
        self.allowed_s = 0.0  # that patience can account for
        self.table = SlotTable()
        self.trials = {}
        self.ended = {}
        self.events = []
        self.numbers = itertools.count()

    def later(self, seconds, happens, *arguments):
        self.events.append((self.now + seconds, next(self.numbers), happens, arguments))

    def until(self, time):
        """Let the clock run to `time`; what happens on the way happens at its own moment."""
        while self.events and min(self.events)[0] <= time:
            event = min(self.events)
            self.events.remove(event)
            self.now = max(self.now, event[0])
            event[2](*event[3])
        self.now = max(self.now, time)

    def enters(self, trial, shape, intervals):
        self.trials[trial] = Simulated(shape, intervals)
        self.table.enter(trial, shape)

    def leaves(self, trial):
        self.table.leave(trial)
        if trial in self.trials:
            gone = self.ended[trial] = self.trials.pop(trial)
            self.allowed_s += self.costs[gone.shape].batched_s  # the others may begin to wait anew

    def saved(self, trial, seat):
        if trial in self.trials and self.trials[trial].seats == seat:
            self.trials[trial].trained += 1  # what is not saved is trained again
            self.report(trial)

    def report(self, trial):
        self.table.reported(trial)
        self.later(self.rng.uniform(0, self.decision_s), self.decided, trial, self.trials[trial].seats)

    def decided(self, trial, seat):
        here = self.trials.get(trial)
        if here is None or here.seats != seat:
            return
        if here.trained == here.intervals:
            self.leaves(trial)
        else:
            self.goes_on(trial)

    def goes_on(self, trial):
        here = self.trials[trial]
        here.ready = True
        self.table.ready(trial, self.now)
        # A slot's part of an interval: once for its coming, and once for the next time that it is waited for in vain.
        self.allowed_s += 2 * self.costs[here.shape].batched_s / self.slots[here.shape]

    def run(self):
        """Until every trial has left."""
        waits = 0
        while self.trials or self.events:
            self.check_seats()
            if need := self.table.shape_in_need():
                self.offer(need[0])
            elif seated := self.table.seat_next():
                self.load(*seated)
            else:
                work = self.table.next_work(self.now)
                ready = [trial for trial, here in self.trials.items() if here.ready]
                if isinstance(work, Work):
                    waits = 0
                    self.train(work)
                elif work is None:
                    assert not ready, f"{ready} are ready, and nothing would ever train them"
                    assert self.events, f"{list(self.trials)} are left, and nothing would ever happen"
                    self.until(min(self.events)[0])
                else:
                    assert ready
                    assert work > 0
                    waits += 1
                    assert waits < 1000, "it waits for ever"
                    began = self.now
                    next_event = min(self.events)[0] if self.events else math.inf
                    self.until(max(min(began + work, next_event), math.nextafter(began, math.inf)))
                    self.idle_s += self.now - began

    def check_seats(self):
        """No two trials in a slot, and the table's seats are those that were given."""
        for shape in self.table.shapes:
            seats = {trial: self.table.slot(trial) for trial in self.table.seated(shape)}
            assert len(set(seats.values())) == len(seats)
            assert all(0 <= slot < self.slots[shape] for slot in seats.values())
            assert seats == {
                trial: here.slot for trial, here in self.trials.items() if here.shape == shape and here.slot is not None
            }

    def offer(self, shape):
        self.until(self.now + self.rng.uniform(0, 0.1))
        self.table.add_group(shape, self.slots[shape], self.costs[shape])
        self.allowed_s += self.costs[shape].batched_s

    def load(self, trial, slot):
        here = self.trials[trial]
        line = [name for name, other in self.trials.items() if other.shape == here.shape and other.slot is None]
        assert trial == line[0], "not the first in line"
        here.slot = slot
        here.seats += 1
        self.until(self.now + self.rng.uniform(0, 0.2))
        if trial in self.trials:  # it may have left while it was loaded
            if here.trained:
                self.report(trial)
            else:
                self.goes_on(trial)

    def train(self, work):
        costs = self.costs[work.shape]
        for trial in work.trials:
            here = self.trials[trial]
            assert here.shape == work.shape
            assert here.ready, f"{trial} trains though nobody let it"
            here.ready = False
        assert work.batched == (len(work.trials) * costs.single_s > costs.batched_s)
        assert work.batched or len(work.trials) == 1
        seconds = (costs.batched_s if work.batched else costs.single_s) * self.rng.uniform(0.1, 2.0)
        if self.rng.random() < self.failures:
            self.until(self.now + seconds * self.rng.random())
            self.run_out_of_memory(work.shape)
            return
        self.until(self.now + seconds)
        self.table.rests(work.shape, self.now)
        for trial in work.trials:
            if trial in self.trials:
                self.later(self.rng.uniform(0, 0.3), self.saved, trial, self.trials[trial].seats)

    def run_out_of_memory(self, shape):
        """Half the slots for the same trials, which continue from their checkpoints."""
        back = self.table.remove_group(shape)
        for trial, here in self.trials.items():
            if here.shape == shape:
                assert (trial in back) == (here.slot is not None)
                here.slot, here.ready, here.seats = None, False, here.seats + 1
        self.slots[shape] = max(1, self.slots[shape] // 2)
        self.allowed_s += self.costs[shape].batched_s


# Derandomized: the same sweeps of 300 every time.
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    rng=st.randoms(use_true_random=False),
    shapes=st.lists(st.tuples(st.integers(1, 8), st.floats(0.01, 3.0), st.floats(0.1, 1.5)), min_size=1, max_size=3),
    trials=st.integers(1, 20),
    decision_s=st.sampled_from([0.0, 0.05, 1.0, 20.0]),
    failures=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_whatever_happens_every_trial_gets_its_intervals_and_the_device_waits_no_longer_than_patience_allows(
    rng, shapes, trials, decision_s, failures
):
    """Shapes are (slots, single_s, batched_s as a part of all slots one after the other)."""
    names = "xyz"[: len(shapes)]
    engine = SimulatedEngine(
        rng,
        {name: slots for name, (slots, _, _) in zip(names, shapes, strict=True)},
        {name: Costs(single, part * slots * single) for name, (slots, single, part) in zip(names, shapes, strict=True)},
        decision_s,
        failures,
    )
    stopped = set()
    for n in range(trials):
        arrival = rng.uniform(0, 10.0)
        engine.later(arrival, engine.enters, f"t{n}", rng.choice(names), rng.randint(1, 6))
        if rng.random() < 0.2:  # at any moment: in line, ready, training, reported or gone
            engine.later(arrival + rng.uniform(0, 20.0), engine.leaves, f"t{n}")
            stopped.add(f"t{n}")
    engine.run()
    assert set(engine.ended) == {f"t{n}" for n in range(trials)}
    for trial, here in engine.ended.items():
        assert here.trained == here.intervals or trial in stopped
        assert here.trained <= here.intervals
    assert engine.table.trials == []
    assert engine.idle_s <= engine.allowed_s + 1e-9


def test_the_emptiest_engine_takes_the_next_trial_and_each_has_one_more_in_line_and_no_more():
    placement = Placement(2, {"xs": 2})
    engines = []
    for n in range(placement.capacity + placement.in_line):
        engines.append(placement.free_engine())
        placement.put(f"t{n}", "xs", engines[-1])
    assert (placement.capacity, placement.in_line, engines) == (4, 2, [0, 1, 0, 1, 0, 1])
    assert placement.free_engine() is None
    assert placement.remove("t1") == 1
    assert placement.remove("t1") is None
    assert placement.free_engine() == 1


def test_an_engine_gets_more_of_the_size_that_it_has_and_engines_without_any_get_the_rarest():
    placement = Placement(3, {"xs": 4, "s": 4, "m": 4})
    sizes = []
    for n in range(15):
        engine = placement.free_engine()
        sizes.append((engine, placement.best_size(engine, ["xs", "s", "m"])))
        placement.put(f"t{n}", sizes[-1][1], engine)
    assert sizes[:3] == [(0, "xs"), (1, "s"), (2, "m")]
    assert Counter(sizes) == {(0, "xs"): 5, (1, "s"): 5, (2, "m"): 5}
    placement.remove("t0")
    assert placement.best_size(0, ["s", "m"]) == "s"  # no xs left: the first of two that are as rare


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    engines=st.integers(1, 4),
    slots=st.dictionaries(st.sampled_from(["xs", "s", "m"]), st.integers(1, 9), min_size=1),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=120),
)
def test_no_engine_ever_holds_more_than_its_slots_and_one_in_line_and_room_is_never_refused(engines, slots, steps):
    placement = Placement(engines, slots)
    placed = {}
    for number, (comes, pick) in enumerate(steps):
        if not comes and placed:
            trial = sorted(placed)[pick % len(placed)]
            assert placement.remove(trial) == placed.pop(trial)[0]
        engine = placement.free_engine()
        on = [[size for e, size in placed.values() if e == there] for there in range(engines)]
        loads = [sum(1 / slots[size] for size in sizes) for sizes in on]
        without_newest = [sum(1 / slots[size] for size in sizes[:-1]) for sizes in on]
        assert (engine is None) == all(load > 1 - 1e-6 for load in without_newest)
        if comes and engine is not None:
            assert loads[engine] == pytest.approx(
                min(load for load, rest in zip(loads, without_newest, strict=True) if rest < 1 - 1e-6)
            )
            size = placement.best_size(engine, sorted(slots))
            placement.put(f"t{number:03d}", size, engine)
            placed[f"t{number:03d}"] = engine, size
        assert len(placed) <= placement.capacity + placement.in_line
        for there in range(engines):
            sizes = Counter(size for e, size in placed.values() if e == there)
            assert all(count <= slots[size] + 1 for size, count in sizes.items())
