"""The first lines of a sweep say what it will do, in the words of its file."""

import pytest

from sweeps.cli.introduction import introduction
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec

LR = {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}


def of(**fields):
    return introduction(SweepSpec.model_validate({"name": "mine", **fields}))


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"trials": 8}, "8 trials, proposed by optuna, weak ones end early (asha)"),
        ({"trials": 1, "method": "random", "scheduler": "none"}, "1 trial, drawn at random"),
        ({"trials": 8, "time": "2h", "method": "tpe", "scheduler": "none"}, "8 trials in at most 2h, proposed by tpe"),
        ({"time": "90m", "scheduler": "none"}, "as many trials as fit in 1h30m, proposed by optuna"),
    ],
)
def test_the_first_line_says_how_many_trials_there_are_and_where_they_come_from(search, said):
    assert of(space=LR, search=search) == [f"lmsweep mine: {said}", "Searched: optim.lr"]


def test_a_grid_is_every_point_of_it():
    space = {"optim.lr": [1e-3, 2e-3], "train.seed": [0, 1, 2]}
    lines = of(space=space, search={"method": "grid", "scheduler": "none"})
    assert lines == ["lmsweep mine: 6 trials, every point of a grid", "Searched: optim.lr, train.seed"]


def test_experiments_are_named():
    experiments = [{"name": "baseline"}, {"name": "post-norm", "optim.lr": 1e-3}]
    search = {"method": "experiments", "scheduler": "none"}
    lines = of(experiments=experiments, search=search, confirm={"top": 1, "seeds": 2})
    assert lines == [
        "lmsweep mine: 2 experiments, then up to 4 confirmation runs",
        "Experiments: baseline, post-norm",
    ]


def test_arms_and_sizes_are_named():
    assert introduction(load_spec("configs/quick.yaml"))[1] == (
        "Searched: optim.lr, optim.beta1, optim.beta2, optim.warmup_fraction; each for untied, tied; in the sizes xs, s"
    )


def test_a_sweep_that_varies_nothing_has_one_line():
    assert of(search={"trials": 1, "scheduler": "none"}) == ["lmsweep mine: 1 trial"]


def test_many_names_are_cut_short():
    space = {f"optim.{name}": LR["optim.lr"] for name in ("lr", "eps")}
    experiments = [{"name": f"e{n}", "optim.lr": 1e-3 * (n + 1)} for n in range(10)]
    lines = of(experiments=experiments, search={"method": "experiments", "scheduler": "none"}, space=space)
    assert lines[1] == "Experiments: e0, e1, e2, e3, e4, e5, e6, e7 and 2 more"
