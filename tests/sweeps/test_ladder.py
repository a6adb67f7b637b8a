"""`ladder:` makes sizes, and `transfer:` deals out the trials to them."""

import itertools

import pytest

from lmcore.errors import InputError
from lmcore.params import count_parameters
from sweeps.provenance.changes import check_changes
from sweeps.spec.ladder import LadderConfig
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.spec.transfer import LEAST, trials_by_size

SPACE = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
LADDER = {"params": [3e4, 5e5], "steps": 4, "aspect": 32, "tokens_per_parameter": [10]}


def spec(**fields):
    values = {"name": "a", "ladder": LADDER, "space": SPACE, "search": {"trials": 32}}
    return SweepSpec.model_validate(values | fields)


@pytest.mark.parametrize("aspect", [16, 32, 64, 128])
@pytest.mark.parametrize("params", [(1e5, 1e7), (1e6, 1e8), (1e7, 1e9)])
def test_models_have_the_parameters_asked_for_and_the_aspect_as_far_as_layers_are_whole(params, aspect):
    sizes = LadderConfig(params=params, steps=4, aspect=aspect).sizes({})
    runs = [SweepSpec(name="a", sizes=sizes, search={"trials": 1}).run_for(size["name"], {}) for size in sizes]
    for run, target in zip(runs, [params[0] * (params[1] / params[0]) ** (i / 3) for i in range(4)], strict=True):
        assert count_parameters(run.model).non_embedding == pytest.approx(target, rel=0.25)
        assert run.model.d_model % 32 == 0
        if target > 1e6:
            assert run.model.d_model / run.model.num_layers == pytest.approx(aspect, rel=0.6)


def test_each_ratio_of_tokens_makes_a_size_and_sizes_come_in_the_order_of_their_flops():
    sizes = LadderConfig(params=(1e6, 1e7), steps=2, tokens_per_parameter=(5, 20, 80)).sizes({})
    assert [size["name"] for size in sizes] == ["0.93M-x5", "0.93M-x20", "0.93M-x80", "11M-x5", "11M-x20", "11M-x80"]
    assert [size["train.tokens_per_parameter"] for size in sizes] == [5, 20, 80] * 2


def test_the_written_sweep_lists_the_sizes_and_reads_back_as_the_same(tmp_path):
    first = spec()
    (tmp_path / "sweep.yaml").write_text(dump_yaml(first))
    again = load_spec(tmp_path / "sweep.yaml")
    assert again == first
    assert again.transfers
    grown = load_spec(tmp_path / "sweep.yaml", ["ladder.params=[3e4, 5e5]", "ladder.steps=5"])
    assert len(grown.sizes) == 5
    with pytest.raises(InputError, match="sizes: must stay"):
        check_changes(first, grown, given=())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ladder": {**LADDER, "params": [5e5, 3e4]}}, "must be ascending"),
        ({"ladder": {**LADDER, "steps": 20}}, "must leave the models different shapes"),
        ({"ladder": {**LADDER, "tokens_per_parameter": [20, 5]}}, "must be ascending"),
        ({"ladder": {**LADDER, "head_dim": 12}}, "must be even"),
        ({"sizes": [{"name": "s"}]}, "must be left out with ladder"),
        ({"transfer": "on", "ladder": None}, "must have at least two sizes"),
        ({"transfer": "on", "search": {"time": 60.0}}, "must come with search.trials"),
        ({"transfer": "on", "search": {"method": "grid"}}, "must be off for the search method grid"),
        (
            {
                "ladder": None,
                "transfer": "on",
                "sizes": [{"name": "b", "train.steps": 9}, {"name": "a", "train.steps": 5}],
            },
            "must be in the order of their training FLOPs",
        ),
    ],
)
def test_what_makes_no_ladder_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        spec(**fields)


def test_each_size_has_half_the_trials_of_the_one_before_but_at_least_four():
    assert trials_by_size(32, 4) == [[16], [8], [4], [4]]
    assert [spec().trials_of(size) for size in spec().size_names] == [16, 8, 4, 4]
    for total in range(1, 200):
        for sizes in (2, 4, 9):
            for arms in (1, 2, 3):
                counts = trials_by_size(total, sizes, arms)
                assert sum(map(sum, counts)) == total
                assert all(a >= b for one, two in itertools.pairwise(counts) for a, b in zip(one, two, strict=True))
                if total >= LEAST * sizes * arms:
                    assert min(map(min, counts)) >= LEAST


def test_without_transfer_all_sizes_have_equally_many():
    assert [spec(transfer="off").trials_of(size) for size in spec().size_names] == [8, 8, 8, 8]
