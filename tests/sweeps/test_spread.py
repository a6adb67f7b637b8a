"""The first trials of a study: spread over the full space, with balanced choices, the same for all arms of a size."""

from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_ledger import in_memory, spec

from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.spread import spread_point

SPACE = {
    "optim.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "optim.beta1": FloatDistribution(0.8, 0.95, step=0.05),
    "model.d_ff": IntDistribution(16, 256, log=True),
    "train.batch_size": IntDistribution(4, 16, step=4),
    "optim.beta2": CategoricalDistribution((0.9, 0.95, 0.99)),
    "model.ffn": CategoricalDistribution(("swiglu", "gelu")),
}


@pytest.mark.parametrize("startup", [1, 4, 7, 10])
@pytest.mark.parametrize("seed", range(5))
def test_every_choice_appears_equally_often_within_one(startup, seed):
    points = [spread_point(SPACE, seed, index, startup) for index in range(startup)]
    for name, distribution in SPACE.items():
        assert all(distribution._contains(distribution.to_internal_repr(point[name])) for point in points)
        if isinstance(distribution, CategoricalDistribution):
            counts = Counter(point[name] for point in points)
            most, least = (f(counts[choice] for choice in distribution.choices) for f in (max, min))
            assert most - least <= 1


def test_points_are_spread_more_evenly_than_random_ones():
    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}

    def cells(points):  # of a grid of 4 x 4, those that have a point
        return len({(int(4 * a), int(4 * b)) for a, b in points})

    spread = [cells(tuple(spread_point(space, seed, i, 16).values()) for i in range(16)) for seed in range(20)]
    random = [cells(np.random.default_rng(seed).random((16, 2))) for seed in range(20)]
    assert min(spread) > np.mean(random)


def test_a_sequence_goes_on_after_the_startup_and_follows_from_its_seed():
    points = [tuple(spread_point(SPACE, 0, index, 4).values()) for index in range(12)]
    assert len(set(points)) == 12
    assert points == [tuple(spread_point(SPACE, 0, index, 4).values()) for index in range(12)]
    assert points[0] != tuple(spread_point(SPACE, 1, 0, 4).values())


@pytest.mark.parametrize("method", ["optuna", "tpe", "gp", "cmaes"])
def test_trials_asked_before_any_has_ended_are_balanced_points_of_one_sequence(method):
    book = in_memory(method, trials=12, startup_trials=6)
    params = [book.ask("main").trial.params for _ in range(6)]
    assert Counter(one["model.tie_embeddings"] for one in params) == {True: 3, False: 3}
    logs = sorted((np.log10(one["optim.lr"]) + 4) / 3 for one in params)
    assert max(np.diff([0.0, *logs, 1.0])) < 0.45


def test_arms_of_a_size_begin_with_the_same_points():
    given = spec("optuna", trials=8)
    sweep = SweepSpec.model_validate({**dict(given), "compare": ["model.tie_embeddings"]})
    book = Ledger(sweep, optuna.storages.InMemoryStorage())
    params = {"main-tied": [], "main-untied": []}
    for _ in range(6):
        live = book.ask("main")
        params[live.plan.id].append(live.trial.params)
    assert params["main-tied"] == params["main-untied"]
