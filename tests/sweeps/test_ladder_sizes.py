"""`ladder:` makes sizes, and `transfer:` deals out the trials to them."""

import itertools

import pytest

from lmcore.errors import InputError
from lmcore.params import count_parameters, flops_per_token
from sweeps.provenance.changes import check_changes
from sweeps.spec.ladder import LadderConfig
from sweeps.spec.load import load_kept, load_spec
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
    again = load_kept(tmp_path / "sweep.yaml")
    assert again == first
    assert again.transfers
    grown = load_kept(tmp_path / "sweep.yaml", ["ladder.params=[3e4, 5e5]", "ladder.steps=5"])
    assert len(grown.sizes) == 5
    with pytest.raises(InputError, match="sizes: must stay"):
        check_changes(first, grown, given=())
    without = load_kept(tmp_path / "sweep.yaml", ["transfer=off"], trials=64)
    check_changes(first, without, given=())
    with pytest.raises(InputError, match=r"search\.trials: must not shrink"):
        check_changes(first, load_kept(tmp_path / "sweep.yaml", ["transfer=off"]), given=())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ladder": {**LADDER, "params": [5e5, 3e4]}}, "must be ascending"),
        ({"ladder": {**LADDER, "steps": 20}}, "must leave the models different shapes"),
        ({"ladder": {**LADDER, "tokens_per_parameter": [20, 5]}}, "must be ascending"),
        ({"ladder": {**LADDER, "head_dim": 12}}, "must be even"),
        ({"ladder": {**LADDER, "aspect": 1e6}}, "must allow a model of about"),
        ({"search": {"trials": 3}}, "must be at least 1 for each size and arm"),
        (
            {"space": {"model.positions": {"choices": ["rope", "none"]}}, "transfer": "on"},
            "must have a number to search",
        ),
        (
            {"ladder": None, "transfer": "on", "sizes": [{"name": "s", "train.steps": 9}, {"name": "next"}]},
            "must not be called next",
        ),
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


@pytest.mark.parametrize("vocab_size", [256, 512, 2048, 50257])
@pytest.mark.parametrize("steps", [3, 5, 6])
@pytest.mark.parametrize("params", [(1e5, 1e7), (1e6, 3e7)])
def test_sizes_do_not_depend_on_the_vocabulary_which_may_not_be_known_yet(vocab_size, steps, params):
    ladder = {"params": params, "steps": steps, "tokens_per_parameter": [5, 20]}
    first = spec(ladder=ladder, search={"trials": 64}, data={"source": "somewhere.bin"})
    known = first.with_vocab_size(vocab_size)
    assert known.sizes == first.sizes
    flops = [flops_per_token(run.model) * run.steps for run in (known.run_for(size, {}) for size in known.size_names)]
    assert all(after > 0.5 * before for before, after in itertools.pairwise(flops))


def test_key_value_heads_divide_the_heads_of_every_size():
    ladder = {"params": [1e6, 1e8], "steps": 4}
    for size in spec(ladder=ladder, model={"num_kv_heads": 2}).size_names:
        run = spec(ladder=ladder, model={"num_kv_heads": 2}).run_for(size, {})
        assert run.model.num_heads % 2 == 0


def test_what_a_ladder_leaves_unused_is_said(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "ladder: {params: [3e4, 5e5], tokens_per_parameter: [10]}\nmodel: {d_model: 64}\ntrain: {tokens: 1e6}\n"
        "space: {optim.lr: {low: 1e-4, high: 1e-1, log: true}}\nsearch: {trials: 32}\n"
    )
    assert load_spec(path).notes == (
        "model.d_model has no effect, as ladder sets it in every size",
        "train.tokens has no effect, as ladder sets it in every size",
    )
    timed = load_spec(path, ["search.trials=null", "search.time=60"])
    assert any(note.startswith("transfer is off: it must come with search.trials") for note in timed.notes)
    assert not timed.transfers
    with pytest.raises(InputError, match=r"add --set ladder.tokens_per_parameter=null"):
        load_spec(path, ["train.steps=5"])
    path.write_text(path.read_text() + "sizes: [{name: s}]\n")
    with pytest.raises(InputError, match=r"sizes: must be left out with ladder, which makes them \(got 1\)"):
        load_spec(path)


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
