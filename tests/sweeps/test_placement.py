"""How trials are spread over workers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.engine.placement import Placement


def placement_of(workers, slots):
    placement = Placement(slots)
    for number in range(workers):
        placement.add_worker(number)
    return placement


def test_the_emptiest_worker_takes_the_next_trial_and_each_queues_one_more():
    placement = placement_of(2, {"xs": 2})
    workers = []
    for n in range(placement.capacity + placement.queue_capacity):
        workers.append(placement.free_worker())
        placement.place(f"t{n}", "xs", workers[-1])
    assert (placement.capacity, placement.queue_capacity, workers) == (4, 2, [0, 1, 0, 1, 0, 1])
    assert placement.free_worker() is None
    assert placement.remove("t1") == [1]
    assert placement.remove("t1") == []
    assert placement.free_worker() == 1


def test_a_worker_gets_more_of_the_size_that_it_has_and_workers_without_any_get_the_rarest():
    placement = placement_of(3, {"xs": 4, "s": 4, "m": 4})
    sizes = []
    for n in range(15):
        worker = placement.free_worker()
        sizes.append((worker, placement.best_size(worker, ["xs", "s", "m"])))
        placement.place(f"t{n}", sizes[-1][1], worker)
    assert sizes[:3] == [(0, "xs"), (1, "s"), (2, "m")]
    assert Counter(sizes) == {(0, "xs"): 5, (1, "s"): 5, (2, "m"): 5}
    placement.remove("t0")
    assert placement.best_size(0, ["s", "m"]) == "s"  # no xs left: the first of two that are as rare


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    workers=st.integers(1, 4),
    slots=st.dictionaries(st.sampled_from(["xs", "s", "m"]), st.integers(1, 9), min_size=1),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=120),
)
def test_no_worker_holds_more_than_its_slots_and_one_queued_trial_and_none_with_room_is_refused(workers, slots, steps):
    placement = placement_of(workers, slots)
    placed = {}
    for number, (arrives, pick) in enumerate(steps):
        if not arrives and placed:
            trial = sorted(placed)[pick % len(placed)]
            assert placement.remove(trial) == [placed.pop(trial)[0]]
        worker = placement.free_worker()
        on = [[size for e, size in placed.values() if e == there] for there in range(workers)]
        loads = [sum(1 / slots[size] for size in sizes) for sizes in on]
        without_newest = [sum(1 / slots[size] for size in sizes[:-1]) for sizes in on]
        assert (worker is None) == all(load > 1 - 1e-6 for load in without_newest)
        if arrives and worker is not None:
            assert loads[worker] == pytest.approx(
                min(load for load, rest in zip(loads, without_newest, strict=True) if rest < 1 - 1e-6)
            )
            size = placement.best_size(worker, sorted(slots))
            placement.place(f"t{number:03d}", size, worker)
            placed[f"t{number:03d}"] = worker, size
        assert len(placed) <= placement.capacity + placement.queue_capacity
        for there in range(workers):
            sizes = Counter(size for e, size in placed.values() if e == there)
            assert all(count <= slots[size] + 1 for size, count in sizes.items())


def test_a_trial_that_moved_is_released_on_its_new_worker_and_strangers_move_nowhere():
    placement = placement_of(3, {"xs": 1})
    placement.place("a", "xs", 0)
    for worker in (0, 2):
        placement.move("a", worker)
        placement.move("unknown", worker)
    assert placement.free_worker() == 0
    assert placement.remove("a") == [2]
    assert placement.remove("unknown") == []


def test_trials_of_a_worker_that_is_gone_count_until_they_report_from_another_and_may_be_anywhere():
    placement = placement_of(2, {"xs": 1})
    placement.place("a", "xs", 0)
    placement.place("b", "xs", 0)
    assert placement.remove_worker(0) == ["a", "b"]
    assert (placement.trials, placement.capacity, placement.load(1)) == (2, 1, 0)
    placement.move("a", 1)
    assert (placement.trials, placement.load(1)) == (2, 1)
    assert placement.remove("a") == [1]
    placement.add_worker(2)
    assert placement.remove("b") == [1, 2]
    assert placement.trials == 0


def test_a_closed_worker_takes_no_more_trials_and_keeps_those_that_it_has():
    placement = placement_of(2, {"xs": 2})
    placement.place("a", "xs", 0)
    placement.close_worker(0)
    assert [placement.free_worker(), placement.load(0)] == [1, 1]
    placement.close_worker(1)
    assert placement.free_worker() is None
