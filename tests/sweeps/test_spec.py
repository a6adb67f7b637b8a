"""A spec resolves as its file, `--set` and flags say, deals out its trials, and survives being written and read."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcore.config import DEFAULT_VOCAB_SIZE, FIELD_ROLES, RunSpec
from lmcore.errors import InputError
from lmcore.runfile.paths import RUN_DEFAULTS, apply, describe
from sweeps.spec.load import load_spec
from sweeps.spec.settings import SearchConfig, TrackingConfig
from sweeps.spec.sizes import Experiment, Size
from sweeps.spec.space import Choices, Range
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
SPACE = {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
TWO_SIZES = [{"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 96}]


def load(tmp_path, text, overrides=(), **flags):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return load_spec(path, overrides, **flags)


def reread(tmp_path, spec):
    path = tmp_path / "sweep.yaml"
    path.write_text(dump_yaml(spec))
    return load_spec(path)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid_and_reads_back_equal_from_its_dump(tmp_path, config):
    spec = load_spec(config)
    assert spec.name == config.stem
    assert reread(tmp_path, spec) == spec


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True),
    source=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    lr=st.floats(1e-12, 1e3),
    clip_norm=st.none() | st.floats(1e-3, 10),
    low=st.floats(0, 0.5),
    width=st.floats(1e-3, 0.4),
    seed=st.integers(0, 2**63 - 1),
    vocab_size=st.none() | st.integers(1, 10**6),
    method=st.sampled_from(["optuna", "random", "grid", "experiments"]),
    trials=st.none() | st.integers(1, 1000),
)
def test_any_spec_reads_back_equal_from_its_dump(
    tmp_path, name, source, lr, clip_norm, low, width, seed, vocab_size, method, trials
):
    spec = SweepSpec.model_validate(
        {
            "name": name,
            "data": {"source": source, "vocab_size": vocab_size},
            "model": {"vocab_size": 10**6},
            "optim": {"lr": lr, "clip_norm": clip_norm},
            "search": {"method": method, "trials": trials, "seed": seed},
            "space": {"optim.beta1": {"low": low, "high": low + width}, "model.norm": ["pre", "none"]},
            "sizes": TWO_SIZES,
            "experiments": [{"name": name, "optim.beta2": low}],
        }
    )
    assert reread(tmp_path, spec) == spec


def test_a_spec_is_frozen():
    spec = load_spec(CONFIGS / "quick.yaml")
    with pytest.raises(ValidationError):
        spec.name = "other"


def test_set_changes_the_file_and_flags_change_both(tmp_path):
    text = "search: {trials: 3, seed: 1, method: random}\nspace: {optim.lr: [1e-3, 1e-2]}"
    assert load(tmp_path, text).search.trials == 3
    assert load(tmp_path, text, ["search.trials=4"]).search.trials == 4
    spec = load(tmp_path, text, ["search.trials=4", "search.seed=9"], trials=5, wandb="off", name="mine", seed=None)
    assert (spec.search.trials, spec.search.seed, spec.tracking.wandb, spec.name) == (5, 9, "off", "mine")


def test_a_set_value_is_read_as_yaml(tmp_path):
    sets = [
        "train.steps=2e2",
        "optim.clip_norm=null",
        "train.compile=false",
        "data.source=a b.txt",
        "tracking.wandb=off",
    ]
    spec = load(tmp_path, "space: {optim.lr: [1e-3, 1e-2]}", sets)
    assert (spec.train.steps, spec.optim.clip_norm, spec.train.compile) == (200, None, False)
    assert (spec.data.source, spec.tracking.wandb) == ("a b.txt", "off")


def test_without_a_name_a_sweep_is_named_after_its_file(tmp_path):
    assert load(tmp_path, "search: {trials: 1}").name == "tiny"


def test_a_section_left_empty_means_its_defaults(tmp_path):
    spec = load(tmp_path, "search: {trials: 1}\nsizes:\nspace:\n  # optim.lr: [1, 2]\n")
    assert (spec.sizes, spec.space) == ((), {})


def test_a_field_that_is_set_is_removed_from_the_space_with_a_note(tmp_path):
    spec = load_spec(CONFIGS / "quick.yaml", ["optim.lr=1e-3"])
    assert "optim.lr" not in spec.space
    assert spec.run_for("xs", {}).optim.lr == 1e-3
    assert spec.notes == ("optim.lr is set and therefore not searched",)
    assert reread(tmp_path, spec).notes == spec.notes


def test_setting_an_entry_of_the_space_searches_it_differently():
    spec = load_spec(CONFIGS / "quick.yaml", ["space.optim.beta2=[0.9, 0.99]"])
    assert spec.space["optim.beta2"].choices == (0.9, 0.99)


def test_setting_what_every_size_sets_is_refused_until_the_sizes_are_removed():
    with pytest.raises(
        InputError, match=r"^--set model\.d_model: must not be set by every size .*add --set 'sizes=\[\]'"
    ):
        load_spec(CONFIGS / "quick.yaml", ["model.d_model=64"])
    spec = load_spec(CONFIGS / "quick.yaml", ["model.d_model=64", "sizes=[]"])
    assert spec.run_for("main", {}).model.d_model == 64


def test_setting_what_some_sizes_set_applies_to_the_others_with_a_note(tmp_path):
    text = "search: {trials: 1}\nsizes:\n- {name: xs, model.d_ff: 16}\n- {name: s}"
    spec = load(tmp_path, text, ["model.d_ff=32"])
    assert [spec.run_for(size, {}).model.d_ff for size in ("xs", "s")] == [16, 32]
    assert spec.notes == ("model.d_ff is set, but xs set their own",)


def test_a_run_is_base_then_size_then_overrides(tmp_path):
    spec = load_spec(CONFIGS / "quick.yaml")
    overrides = {"optim.lr": 0.01, "model.tie_embeddings": True}
    size = {"model.d_model": 64, "model.d_ff": 176}
    assert spec.run_for("xs", overrides) == apply(spec.base, size | overrides)
    with pytest.raises(KeyError):
        spec.run_for("xl", {})


def test_without_sizes_there_is_one_called_main():
    assert SweepSpec(name="a", space=SPACE).size_names == ("main",)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, [8, 8]),
        ({"trials": 5}, [3, 2]),
        ({"trials": 1}, [1, 0]),
        ({"method": "grid"}, [6, 6]),
        ({"method": "grid", "trials": 7}, [4, 3]),
        ({"method": "grid", "trials": 100}, [6, 6]),
        ({"method": "experiments"}, [2, 2]),
        ({"method": "experiments", "trials": 3}, [2, 1]),
    ],
)
def test_trials_are_dealt_out_to_the_sizes_in_turn(search, expected):
    spec = SweepSpec(
        name="a",
        search=search,
        space={"optim.lr": {"low": 1e-3, "high": 1e-2}, "optim.beta1": [0.8, 0.9]},
        sizes=TWO_SIZES,
        experiments=[{"name": "baseline"}, {"name": "tied", "model.tie_embeddings": True}],
    )
    assert [spec.trials_of(size) for size in spec.size_names] == expected


@pytest.mark.parametrize(("trials", "expected"), [(1, 4), (16, 4), (24, 6), (400, 10)])
def test_a_quarter_of_the_trials_but_four_to_ten_are_random(trials, expected):
    spec = SweepSpec(name="a", space=SPACE, search={"trials": trials})
    assert spec.startup_trials(spec.studies[0]) == expected
    given = SweepSpec(name="a", space=SPACE, search={"startup_trials": 2})
    assert given.startup_trials(given.studies[0]) == 2


@pytest.mark.parametrize(("steps", "every", "expected"), [(200, 25, 50), (200, 40, 40), (20, 25, 25), (1000, 10, 250)])
def test_no_trial_is_stopped_before_a_quarter_of_its_steps_and_one_report(steps, every, expected):
    train = {"steps": steps, "eval_every": every}
    assert SweepSpec(name="a", space=SPACE, train=train).grace_steps("main") == expected
    assert SweepSpec(name="a", space=SPACE, train=train, search={"grace_steps": 7}).grace_steps("main") == 7


@pytest.mark.parametrize(
    ("text", "known", "vocab_size"),
    [
        ("data: {source: stdlib}", True, DEFAULT_VOCAB_SIZE),
        ("data: {source: texts, vocab_size: 512}", True, 512),
        ("data: {vocab_size: 512}\nmodel: {vocab_size: 640}", True, 640),
        ("data: {source: a.bin, vocab_size: 300}", True, 300),
        ("data: {source: a.bin}", False, 50),
        ("data: {source: a.npy}", False, 50),
        ("data: {source: texts, tokenizer: tokenizer.json}", False, 50),
    ],
)
def test_the_vocabulary_is_the_datas_own_unless_the_model_is_given_one(tmp_path, text, known, vocab_size):
    spec = load(tmp_path, f"{text}\nsearch: {{trials: 1}}")
    assert spec.vocab_size_known is known
    assert reread(tmp_path, spec).vocab_size_known is known
    resolved = spec.with_vocab_size(50)
    assert resolved.vocab_size_known
    assert resolved.model.vocab_size == vocab_size
    assert reread(tmp_path, resolved) == resolved


def test_a_folder_that_is_named_like_a_token_file_holds_text(tmp_path):
    folder = tmp_path / "texts.bin"
    text = f"data: {{source: '{folder}'}}\nsearch: {{trials: 1}}"
    assert not load(tmp_path, text).vocab_size_known
    folder.mkdir()
    assert load(tmp_path, text).model.vocab_size == DEFAULT_VOCAB_SIZE


def test_a_vocabulary_smaller_than_the_datas_is_refused_when_the_data_are_known(tmp_path):
    spec = load(tmp_path, "data: {source: a.bin}\nmodel: {vocab_size: 100}\nsearch: {trials: 1}")
    assert spec.with_vocab_size(100) == spec
    with pytest.raises(InputError, match=r"model\.vocab_size: must be >= the data's vocabulary of 101 \(got 100\)"):
        spec.with_vocab_size(101)


def test_a_single_run_is_a_sweep_of_one_trial_that_trains_exactly_it(tmp_path):
    spec = load_spec(CONFIGS / "quick.yaml")
    run = spec.run_for("xs", {"optim.lr": 0.01, "model.tie_embeddings": True})
    alone = reread(tmp_path, spec.single("best-xs", run))
    assert alone.name == "best-xs"
    assert alone.trials_of("main") == 1
    assert alone.run_for("main", {}) == run


def test_studies_are_named_after_sizes_and_in_a_shared_storage_after_the_sweep_too():
    spec = load_spec(CONFIGS / "quick.yaml")
    assert [spec.study_name(plan) for plan in spec.studies] == ["xs-untied", "xs-tied", "s-untied", "s-tied"]
    shared = load_spec(CONFIGS / "quick.yaml", ["search.storage=sqlite:///all.db"], name="mine")
    assert shared.study_name(shared.studies[0]) == "mine/xs-untied"
    assert shared.study_name(shared.confirmations[-1]) == "mine/s-tied/confirm"
    plain = SweepSpec(name="a", space=SPACE, sizes=[{"name": "xs"}, {"name": "s"}])
    assert [plain.study_name(plan) for plan in plain.studies] == ["xs", "s"]
    assert plain.confirmations == ()


def test_the_longest_context_is_that_of_the_size_that_has_the_longest():
    sizes = [{"name": "short", "model.context_length": 64}, {"name": "long", "model.context_length": 256}]
    assert SweepSpec(name="a", space=SPACE, sizes=[*sizes, {"name": "base"}]).longest_context() == 256
    assert SweepSpec(name="a", space=SPACE, sizes=[sizes[0], {"name": "base"}]).longest_context() == 128
    assert SweepSpec(name="a", space=SPACE, model={"context_length": 32}).longest_context() == 32


def test_an_absolute_spec_names_the_same_data_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = {"source": "texts/a.txt", "val_source": "../b.txt", "tokenizer": "~/tokenizer.json", "val_fraction": 0.1}
    spec = SweepSpec(name="a", data=data, space=SPACE, sizes=TWO_SIZES)
    absolute = spec.absolute()
    assert Path(absolute.data.source) == tmp_path / "here" / "texts" / "a.txt"
    assert Path(absolute.data.val_source).resolve() == tmp_path / "b.txt"
    assert Path(absolute.data.tokenizer) == tmp_path / "home" / "tokenizer.json"
    monkeypatch.chdir(tmp_path / "there")
    assert reread(tmp_path, absolute).absolute() == absolute
    assert absolute.model_copy(update={"data": spec.data}) == spec


def test_an_absolute_spec_keeps_the_standard_library_what_is_not_given_and_the_unknown_vocabulary():
    spec = SweepSpec(name="a", data={"source": "stdlib", "val_source": "stdlib"}, space=SPACE)
    assert spec.absolute() == spec
    assert SweepSpec(name="a", space=SPACE).absolute().data.tokenizer is None
    assert not SweepSpec(name="a", data={"source": "a.bin"}, space=SPACE).absolute().vocab_size_known


def test_an_experiment_is_found_by_its_name():
    spec = load_spec(CONFIGS / "ablation.yaml")
    assert spec.experiment("ungated-ffn") == {"model.ffn": "gelu", "model.d_ff": 384}
    assert spec.experiment("baseline") == {}


UNEQUAL = {"search": {"allow_unequal_budgets": True}}


def test_fields_that_constrain_one_another_are_checked_together_not_one_by_one():
    space = {"model.d_model": [96, 192], "model.num_heads": [3, 6]}
    assert SweepSpec(name="a", space=space).run_for("main", {"model.d_model": 96, "model.num_heads": 3})


def test_a_clash_is_found_however_large_the_rest_of_the_space_is():
    space = {
        "model.num_heads": [4, 5],
        "model.num_layers": {"low": 1, "high": 64},
        "model.d_ff": {"low": 64, "high": 256, "step": 2},
    }
    with pytest.raises(ValidationError, match="5 does not divide 128"):
        SweepSpec(name="a", space=space)


def test_every_batch_of_a_range_is_checked_against_the_micro_batch_of_the_base_run():
    train = {"micro_batch_size": 8}
    SweepSpec(name="a", train=train, space={"train.batch_size": {"low": 8, "high": 32, "step": 8}}, **UNEQUAL)
    with pytest.raises(ValidationError, match="micro_batch_size: must divide batch_size, but 8 does not") as error:
        SweepSpec(name="a", train=train, space={"train.batch_size": {"low": 8, "high": 32}}, **UNEQUAL)
    assert str(describe(error.value)).startswith("space.train.batch_size")


def test_key_value_heads_that_do_not_divide_all_query_heads_are_refused_with_the_entries_that_take_part():
    space = {"model.num_heads": [4, 8], "model.num_kv_heads": [None, 2, 8]}
    with pytest.raises(ValidationError, match="must divide num_heads, but 8 does not divide 4; choose 4") as error:
        SweepSpec(name="a", space=space)
    message = str(describe(error.value))
    assert message.startswith("space.model.num_kv_heads.choices: must divide")
    assert message.endswith("(space.model.num_heads gives 4)")


def test_more_heads_and_widths_than_can_be_checked_are_refused_at_once():
    space = {"model.d_model": {"low": 4, "high": 4e9, "step": 4}}
    with pytest.raises(ValidationError, match=r"combinations of model\.d_model to check \(got 1,000,000,000\)"):
        SweepSpec(name="a", space=space)


def test_a_rule_over_width_heads_and_positions_names_every_entry_that_takes_part():
    space = {"model.ffn": ["gelu", "relu"], "model.num_heads": [4, 128], "model.positions": ["none", "rope"]}
    with pytest.raises(ValidationError, match="rope needs an even number") as error:
        SweepSpec(name="a", space=space)
    message = str(describe(error.value))
    assert message.startswith("space.model.num_heads.choices: model: rope needs")
    assert message.endswith("(space.model.positions gives 'rope')")


def test_a_value_that_is_wrong_alone_names_its_own_entry_only():
    space = {"model.num_heads": [4, 8], "model.d_model": [128, 0]}
    with pytest.raises(ValidationError) as error:
        SweepSpec(name="a", space=space)
    assert str(describe(error.value)).startswith("space.model.d_model.choices: must be > 0 (got 0)")
    assert "num_heads" not in str(describe(error.value))


@pytest.mark.parametrize("path", [path for path, role in FIELD_ROLES.items() if role == "sweep constant"])
@pytest.mark.parametrize("section", ["space", "sizes", "experiments"])
def test_a_sweep_constant_may_not_vary(path, section):
    value = RUN_DEFAULTS[path]
    varied = {path: [value]} if section == "space" else [{"name": "a", path: value}]
    with pytest.raises(ValidationError, match="must not vary, so that all trials of a sweep stay comparable; set "):
        SweepSpec.model_validate({"name": "a", "search": {"trials": 1}, section: varied})


def test_the_data_seed_may_vary_like_any_other_hyperparameter():
    spec = SweepSpec.model_validate(
        {
            "name": "a",
            "data": {"source": "stdlib"},
            "space": {"data.seed": [0, 1], "optim.lr": {"low": 1e-3, "high": 1e-2}},
            "sizes": [{"name": "xs"}, {"name": "s", "model.d_model": 64}],
            "experiments": [{"name": "other-batches", "data.seed": 5}],
        }
    )
    assert [spec.run_for("s", {"data.seed": seed}).data.seed for seed in (0, 1)] == [0, 1]
    assert spec.run_for("xs", spec.experiment("other-batches")).data.seed == 5
    assert spec.run_for("s", {"data.seed": 1}).static_signature == spec.run_for("s", {}).static_signature
    sized = SweepSpec.model_validate({"name": "a", "search": {"trials": 1}, "sizes": [{"name": "a", "data.seed": 3}]})
    assert sized.run_for("a", {}).data.seed == 3


def test_trials_of_one_size_are_validated_on_the_same_windows():
    rule = r"must not vary within a size, .*the same validation windows; list sizes"
    for varied in (
        {"space": {"model.context_length": [64]}},
        {"experiments": [{"name": "a", "model.context_length": 64}]},
    ):
        with pytest.raises(ValidationError, match=rule):
            SweepSpec.model_validate({"name": "a", "search": {"trials": 1}, **varied})


def test_numbers_inside_a_range_of_the_model_are_checked_too():
    with pytest.raises(ValidationError, match="3 does not divide 128"):
        SweepSpec(name="a", space={"model.num_heads": {"low": 1, "high": 4}})


@pytest.mark.parametrize("config", [SweepSpec, SearchConfig, TrackingConfig, Range, Choices, Size, Experiment])
def test_every_field_is_described_by_a_sentence_from_which_the_reference_is_generated(config):
    for name, field in config.model_fields.items():
        assert field.description, name
        assert field.description[0].isupper(), name
        assert field.description.endswith("."), name


def test_the_defaults_of_a_spec_are_lmcores():
    assert SweepSpec(name="a", space=SPACE).base == RunSpec()


def test_one_file_may_search_a_field_and_list_experiments_that_set_it():
    spec = SweepSpec.model_validate(
        {
            "name": "both",
            "space": {"optim.lr": {"low": 1e-3, "high": 1e-2}},
            "experiments": [{"name": "high", "optim.lr": 1e-1}],
        }
    )
    assert spec.run_for("main", spec.experiment("high")).optim.lr == 1e-1


def test_arms_whose_null_means_all_are_named_so():
    space = {"model.num_kv_heads": [None, 2], "optim.clip_norm": [None, 1.0], "optim.lr": [0.1, 0.2]}
    spec = SweepSpec(name="a", space=space, compare=["model.num_kv_heads", "optim.clip_norm"])
    assert [arm.name for arm in spec.arms] == [
        *("all-kv_heads-no-clip_norm", "all-kv_heads-clip_norm1", "num_kv_heads2-no-clip_norm"),
        "num_kv_heads2-clip_norm1",
    ]
