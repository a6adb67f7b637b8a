"""Which confirmation runs are made, who is beaten, and who leads."""

import math

import numpy as np
import pytest

from sweeps.study.race import Candidate, race

SEEDS = 3


def run(arms, loss_of, seeds=SEEDS, at_a_time=None):
    """Run a race to its end; `loss_of(candidate, seed)`. Returns the standing and the runs that were made."""
    losses = {}
    while pending := (standing := race(arms, losses, seeds)).pending:
        for key in pending[:at_a_time]:
            assert key not in losses
            losses[key] = loss_of(*key)
    return standing, losses


def noisy(means, seed=0, sd=0.02):
    generator = np.random.default_rng(seed)
    shift = generator.normal(0, 0.1, 10)  # what a seed does to every setting
    table = {}

    def loss_of(candidate, number):
        key = candidate, number
        if key not in table:
            table[key] = means[candidate] + shift[number] + generator.normal(0, sd)
        return table[key]

    return loss_of


def arm(*pairs):
    return [Candidate(name, loss) for name, loss in pairs]


def test_candidates_that_cannot_be_told_apart_are_all_trained_under_every_seed():
    arms = {"xs": arm(("a", 4.0), ("b", 4.001), ("c", 4.002))}
    standing, losses = run(arms, noisy({"a": 4.0, "b": 4.0, "c": 4.0}))
    assert len(losses) == 9
    assert standing.beaten == {}
    assert standing.leaders == {"xs": "a"}


def test_who_is_far_behind_is_trained_no_more_and_says_under_how_many_seeds_it_was():
    arms = {arm_: arm((f"{arm_}1", 4.0), (f"{arm_}2", 4.5), (f"{arm_}3", 5.0)) for arm_ in ("t", "u")}
    means = {candidate.id: candidate.search_loss for listed in arms.values() for candidate in listed}
    standing, losses = run(arms, noisy(means))
    assert standing.leaders == {"t": "t1", "u": "u1"}
    assert standing.beaten["t3"] == 0  # its loss in the search says enough
    assert standing.beaten["t2"] == 1
    assert ("t2", 1) not in losses
    assert {key for key in losses if key[0] == "t1"} == {("t1", seed) for seed in range(SEEDS)}


def test_the_searchs_best_keeps_its_place_unless_another_beats_it_under_the_new_seeds():
    arms = {"xs": arm(("lucky", 3.9), ("good", 4.0)), "s": arm(("a", 3.0), ("b", 3.2))}
    close = run(arms, noisy({"lucky": 4.01, "good": 4.0, "a": 3.0, "b": 3.2}))[0]
    assert close.leaders["xs"] == "lucky"  # although the other's mean may be lower
    beaten = run(arms, noisy({"lucky": 4.4, "good": 4.0, "a": 3.0, "b": 3.2}))[0]
    assert beaten.leaders["xs"] == "good"
    assert "lucky" in beaten.beaten


def test_the_decisions_do_not_depend_on_the_order_in_which_runs_end():
    arms = {"xs": arm(("a", 4.0), ("b", 4.02), ("c", 4.1)), "s": arm(("d", 3.0), ("e", 3.01), ("f", 3.4))}
    means = {"a": 4.0, "b": 4.05, "c": 4.1, "d": 3.0, "e": 3.0, "f": 3.4}
    for seed in range(20):
        loss_of = noisy(means, seed)
        assert run(arms, loss_of) == run(arms, loss_of, at_a_time=1)


def test_a_run_that_was_asked_for_stays_asked_for_and_a_beaten_candidate_stays_beaten():
    generator = np.random.default_rng(3)
    for seed in range(60):
        means = {f"{a}{n}": 4.0 + generator.uniform(0, 0.15) for a in "tu" for n in range(6)}
        loss_of, losses, asked = noisy(means, seed), {}, set()
        arms = {
            a: arm(*sorted(((c, m) for c, m in means.items() if c[0] == a), key=lambda pair: pair[1])) for a in "tu"
        }
        beaten = {}
        while pending := (standing := race(arms, losses, SEEDS)).pending:
            asked |= set(pending)
            assert standing.beaten.items() >= beaten.items()
            beaten = standing.beaten
            key = pending[generator.integers(len(pending))]
            losses[key] = math.nan if generator.random() < 0.05 else loss_of(*key)
        assert asked == set(losses)
        assert standing.beaten.items() >= beaten.items()


def test_a_setting_that_diverges_under_a_seed_never_leads():
    arms = {"xs": arm(("hot", 3.9), ("cool", 4.0))}
    standing, losses = run(arms, lambda c, seed: math.inf if (c, seed) == ("hot", 1) else 4.0 + 0.01 * seed)
    assert standing.leaders == {"xs": "cool"}
    assert standing.beaten == {"hot": 2}
    assert ("hot", 2) not in losses


def test_an_arm_whose_candidates_all_diverge_has_no_leader_and_the_others_go_on():
    arms = {"xs": arm(("hot", 3.9)), "s": arm(("cool", 4.0))}
    standing, losses = run(arms, lambda c, seed: math.inf if c == "hot" else 4.0)
    assert standing.leaders == {"s": "cool"}
    assert len(losses) == 1 + SEEDS


def test_a_run_that_failed_is_left_out_and_not_run_again():
    arms = {"xs": arm(("a", 4.0), ("b", 4.0))}
    noise = noisy({"a": 4.0, "b": 4.0})
    standing, losses = run(arms, lambda c, seed: math.nan if (c, seed) == ("a", 0) else noise(c, seed))
    assert len(losses) == 6
    assert standing.leaders == {"xs": "a"}


@pytest.mark.parametrize("arms", [{}, {"xs": []}])
def test_without_candidates_the_race_is_over(arms):
    standing = race(arms, {}, SEEDS)
    assert (standing.pending, standing.leaders, standing.beaten) == ((), {}, {})


def test_one_candidate_is_trained_under_every_seed():
    standing, losses = run({"xs": arm(("a", 4.0))}, lambda c, seed: 4.0 + seed)
    assert len(losses) == SEEDS
    assert standing.leaders == {"xs": "a"}


def test_a_leader_whose_first_runs_diverge_does_not_beat_the_rest_of_its_arm():
    arms = {"xs": arm(("hot", 3.0), ("hotter", 3.1), ("cool", 4.0)), "s": arm(("a", 3.0), ("b", 3.01))}
    noise = noisy({"hot": 0.0, "hotter": 0.0, "cool": 4.0, "a": 3.0, "b": 3.0})
    standing, losses = run(arms, lambda c, seed: math.inf if c.startswith("hot") else noise(c, seed))
    assert standing.leaders["xs"] == "cool"
    assert {key for key in losses if key[0] == "cool"} == {("cool", seed) for seed in range(SEEDS)}


def test_a_candidate_that_only_fails_neither_leads_nor_beats_others_by_its_loss_in_the_search():
    arms = {"xs": arm(("broken", 3.0), ("whole", 4.0)), "s": arm(("a", 3.0), ("b", 3.01))}
    noise = noisy({"whole": 4.0, "a": 3.0, "b": 3.0})
    standing, losses = run(arms, lambda c, seed: math.nan if c == "broken" else noise(c, seed))
    assert standing.leaders["xs"] == "whole"
    assert len([key for key in losses if key[0] == "whole"]) == SEEDS
