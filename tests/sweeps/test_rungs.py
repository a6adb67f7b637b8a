"""Successive halving: where rungs are, who is among the best, what it costs, and how brackets are dealt."""

import random

import pytest

from sweeps.study.rungs import Rung, bracket_of, expected_training, rung_steps


@pytest.mark.parametrize(
    ("grace", "steps", "factor", "every", "rungs"),
    [
        (50, 200, 2, 25, (50, 100)),
        (50, 201, 2, 1, (50, 100, 200)),  # a rung lies below the last step
        (50, 200, 3, 25, (50, 150)),
        (2, 40, 2, 10, (10, 20)),  # 2, 4 and 8 round up to one report
        (15, 100, 3, 10, (20, 50)),
        (200, 200, 2, 25, ()),
        (300, 200, 2, 25, ()),
    ],
)
def test_rungs_lie_a_factor_apart_after_reports_and_below_the_end(grace, steps, factor, every, rungs):
    assert rung_steps(grace, steps, factor, every) == rungs


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_best_of_a_rung_are_the_lowest_n_over_factor_losses_and_at_least_one(factor):
    rng = random.Random(factor)
    rung, known = Rung(factor), {}
    for number in rng.sample(range(100), 40):
        known[number] = rng.choice([1.0, 1.5, 2.0, rng.random()])  # ties as well
        rung.add(number, known[number])
        in_order = sorted(known, key=lambda one: (known[one], one))
        assert [one for _, one in rung.best] == in_order[: max(1, len(known) // factor)]


def test_the_expected_training_is_that_of_the_trials_that_begin_each_interval():
    assert expected_training(16, (50, 100, 200), 2) == 16 * 50 + 8 * 50 + 4 * 100
    assert expected_training(2, (50, 100, 200), 2) == 2 * 50 + 1 * 50 + 1 * 100  # one goes on to the end
    assert expected_training(9, (50, 150, 200), 3) == 9 * 50 + 3 * 100 + 1 * 50
    assert expected_training(7, (200,), 3) == 7 * 200


def test_every_bracket_gets_the_same_share_of_the_training_whatever_the_number_of_trials():
    costs = [400, 500, 800]
    dealt = [bracket_of(number, costs) for number in range(3000)]
    trained = [dealt.count(bracket) * cost for bracket, cost in enumerate(costs)]
    assert max(trained) / min(trained) == pytest.approx(1, abs=0.01)
    for begin in range(0, 3000, 250):  # in any part of it, too
        part = dealt[begin : begin + 40]
        assert {part.count(0), part.count(1), part.count(2)} <= set(range(6, 21))
    assert [bracket_of(number, [1.0]) for number in range(5)] == [0] * 5
