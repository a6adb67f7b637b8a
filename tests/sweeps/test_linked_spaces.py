"""Entries that depend on each other are checked as a whole before anything starts: every mistake is one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from linked_spaces import LABELS, LINKED, LR, WIDTH, linked

from lmcore.errors import InputError
from lmcore.runfile.paths import RUN_DEFAULTS
from sweeps.spec.cost import costliest
from sweeps.spec.load import load_spec
from sweeps.spec.space import JointChoices, Layout, Range, check_combinations, corners, distributions
from sweeps.spec.sweep_spec import dump_yaml

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
name: linked
model: {d_model: 64, num_heads: 4}
train: {steps: 100}
search: {method: random, trials: 4}
"""
FFN = "model.ffn: [swiglu, gelu]"
D_MODEL = "model.d_model: {low: 64, high: 256, step: 64}"
RATE = "optim.lr: {low: 1e-3, high: 1e-2, log: true}"


def write(tmp_path, *entries, extra=""):
    path = tmp_path / "linked.yaml"
    path.write_text(f"{HEAD}{extra}space:\n" + "".join(f"  {entry}\n" for entry in entries))
    return path


def message_of(path, overrides=(), **flags):
    with pytest.raises(InputError) as error:
        load_spec(path, overrides, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


BETA2 = "optim.beta2: {low: 0.9, high: 0.99, when: %s}"
NO_SEED = "must not compute a seed"

# (entries, place, fragments of the message)
MISTAKES = [
    # several fields at once
    (["width: [{model.d_model: 64, model.d_ff: 8}, {model.d_model: 128}]"], "width.choices", ["set the same fields"]),
    (["width: [{model.d_model: 64}, 3]"], "width.choices", ["all be mappings of fields (got also 3)"]),
    (["width: [{model.dmodel: 64}]"], "width.choices.model.dmodel", ["did you mean model.d_model?"]),
    (["width: [{train.device: cpu}]"], "width.choices.train.device", ["must not vary"]),
    (["width: [{}]"], "width.choices", ["must each set at least one field"]),
    (["width: [{model.d_model: 64}, {model.d_model: 64.0}]"], "width.choices", ["must be distinct"]),
    (["width: [{model.d_model: 64}, {model.d_model: 66}]"], "width.choices", ["4 does not divide 66", "choose 3"]),
    (["width: [{model.ffn: geglu}]"], "width.choices", ["model.ffn: must be", "(got 'geglu')"]),
    ([FFN, "width: [{model.ffn: gelu}]"], "width.choices", ["must not set model.ffn, which space.model.ffn sets too"]),
    (["a: [{model.d_ff: 8}]", "b: [{model.d_ff: 9}]"], "b.choices", ["which space.a sets too"]),
    (["model.d_ff: [{model.d_ff: 64}]"], "model.d_ff", ["name of its own", "call it width"]),
    (["model.width: [{model.d_ff: 64}]"], "model.width", ["without dots"]),
    (["width: {low: 1, high: 2}"], "width", ["is not a field"]),
    (["width: {choices: [{model.d_ff: 8}], times: '2'}"], "width.choices", ["must stand alone (got also times)"]),
    (["a: [{train.steps: 9}]", "train.tokens: [9000]"], "train.tokens", ["only budget", "space.a too"]),
    (["a: [{train.batch_size: 8, train.steps: 9}, {train.batch_size: 4, train.steps: 9}]"], "a", ["training tokens"]),
    # conditions
    (
        [BETA2 % "{model.fnn: gelu}"],
        "optim.beta2.when",
        ["got model.fnn, which is not a field; did you mean model.ffn?"],
    ),
    ([FFN, BETA2 % "{model.ffn: relu}"], "optim.beta2.when", ["(got 'relu', which", "choose from 'swiglu', 'gelu'"]),
    (
        [BETA2 % "{model.ffn: relu}"],
        "optim.beta2.when",
        ["hold in some trial (got {model.ffn: 'relu'}, which holds in"],
    ),
    ([BETA2 % "{model.num_layers: true}"], "optim.beta2.when", ["must hold in some trial"]),
    ([BETA2 % "{}"], "optim.beta2.when", ["must name at least one field"]),
    ([BETA2 % "{model.ffn: []}"], "optim.beta2.when", ["must list at least one value"]),
    ([BETA2 % "gelu"], "optim.beta2.when", ["must be a mapping"]),
    ([BETA2 % "{optim.beta2: 0.9}"], "optim.beta2.when", ["must not refer to itself (got optim.beta2)"]),
    ([RATE, BETA2 % "{optim.lr: 1e-3}"], "optim.beta2.when", ["a range without steps", "give space.optim.lr a step"]),
    ([D_MODEL, BETA2 % "{model.d_model: 96}"], "optim.beta2.when", ["(got 96, which space.model.d_model does not"]),
    ([D_MODEL, BETA2 % "{model.d_model: big}"], "optim.beta2.when", ["numbers (got 'big')"]),
    (["width: [{model.d_ff: 8}]", BETA2 % "{width: 8}"], "optim.beta2.when", ["sets several", "one of model.d_ff"]),
    (
        [FFN, "optim.beta2: {low: 0.9, high: 1.5, when: {model.ffn: gelu}}"],
        "optim.beta2.high",
        ["must be < 1 (got 1.5)"],
    ),
    (
        [
            "model.ffn: {choices: [gelu, relu], when: {model.norm: pre}}",
            "model.norm: {choices: [pre], when: {model.ffn: gelu}}",
        ],
        "model.ffn.when",
        ["must not refer to itself through others (got model.ffn -> model.norm -> model.ffn)"],
    ),
    # computed values
    (
        ["optim.lr: {low: 0.1, high: 1, times: sqrt(train.batchsize)}"],
        "optim.lr.times",
        ["did you mean train.batch_size?"],
    ),
    (
        ["optim.lr: {low: 0.1, high: 1, times: sqrt(optim.lr)}"],
        "optim.lr.times",
        ["must not refer to itself (got optim.lr)"],
    ),
    (
        ["optim.lr: {low: 0.1, high: 1, times: exp(2)}"],
        "optim.lr.times",
        ["must be made of + - * / ** sqrt(...)", "exp(2)"],
    ),
    (["optim.lr: {low: 0.1, high: 1, times: 2}"], "optim.lr.times", ["must be text (got 2)", "quote it"]),
    (
        [
            "optim.lr: {equals: optim.beta1}",
            "optim.beta1: {equals: 1 - optim.beta2}",
            "optim.beta2: {equals: optim.lr}",
            FFN,
        ],
        "optim.lr.equals",
        ["(got optim.lr -> optim.beta1 -> optim.beta2 -> optim.lr)"],
    ),
    (
        ["optim.lr: {low: 0.1, high: 1, times: 0.5 - optim.beta1}", "optim.beta1: {low: 0.1, high: 0.9}"],
        "optim.lr.times",
        ["must be > 0 (got", "computed from '0.5 - optim.beta1' with optim.beta1 0.5"],
    ),
    (
        ["optim.lr: {low: 0.1, high: 1, times: 1 / (optim.beta1 - 0.9)}", "optim.beta1: [0.95, 0.9]"],
        "optim.lr.times",
        ["must not divide by 0", "with optim.beta1 0.9"],
    ),
    (
        ["model.d_ff: {equals: 8 / 3 * model.d_model}", D_MODEL],
        "model.d_ff.equals",
        ["an integer", "(got 170.667 with model.d_model 64"],
    ),
    (
        ["model.num_heads: {equals: model.d_model / 64}", D_MODEL, "model.num_kv_heads: [2]"],
        "model.num_kv_heads.choices",
        ["2 does not divide 1"],
    ),
    (
        ["model.num_layers: {low: 1, high: 3, times: model.num_heads / 8}", FFN],
        "model.num_layers.times",
        ["(got 0.5 with"],
    ),
    (["model.num_layers: {equals: model.num_heads - 4}", FFN], "model.num_layers.equals", ["must be > 0 (got 0)"]),
    (
        ["model.d_ff: {equals: 4 * model.d_model, low: 3}", D_MODEL],
        "model.d_ff.equals",
        ["must stand alone (got also low)"],
    ),
    (["model.d_ff: {equals: 4 * model.ffn}", FFN], "model.d_ff.equals", ["must refer to numbers (got model.ffn"]),
    (["model.d_ff: {equals: 4 * train.tokens}", FFN], "model.d_ff.equals", ["train.tokens, which is null"]),
    (["model.ffn: {equals: 4 * model.d_model}", D_MODEL], "model.ffn.equals", ["not a number"]),
    (["train.seed: {equals: 4 * model.d_model}", D_MODEL], "train.seed.equals", [NO_SEED]),
    (["data.seed: {low: 1, high: 4, times: model.d_model}", D_MODEL], "data.seed.times", [NO_SEED]),
    (
        ["optim.clip_norm: {choices: [1, null], times: '2'}"],
        "optim.clip_norm.choices",
        ["must be numbers with times (got null)"],
    ),
    (["train.batch_size: [8, 16]", "train.steps: {equals: 64 * train.batch_size}"], "train.steps", ["training tokens"]),
]


@pytest.mark.parametrize(("entries", "place", "fragments"), MISTAKES)
def test_a_mistake_is_one_line_with_file_line_entry_rule_and_value(tmp_path, entries, place, fragments):
    path = write(tmp_path, *entries)
    message = message_of(path)
    name = max((entry.split(": ")[0] for entry in entries if place.startswith(entry.split(": ")[0])), key=len)
    line = 6 + [entry.split(": ")[0] for entry in entries].index(name)
    assert message.startswith(f"{path}:{line}: space.{place}: ")
    for fragment in fragments:
        assert fragment in message


def test_a_space_without_anything_to_search_is_refused(tmp_path):
    message = message_of(write(tmp_path, "model.d_ff: {equals: 4 * model.d_model}"))
    assert "space: must name at least one field for the search method random" in message


def test_a_size_may_not_set_what_a_group_sets(tmp_path):
    path = write(tmp_path, "width: [{model.d_ff: 8}]", extra="sizes: [{name: xs, model.d_ff: 16}]\n")
    assert "sizes.xs.model.d_ff: must not be searched too (got 16); remove space.width" in message_of(path)


@pytest.mark.parametrize(
    ("entry", "compared", "fragment"),
    [
        ("model.ffn: {choices: [gelu, relu], when: {model.norm: pre}}", "model.ffn", "(got model.ffn, which has when)"),
        ("model.d_ff: {choices: [8, 16], times: model.num_heads}", "model.d_ff", "(got model.d_ff, which has times)"),
        ("model.d_ff: {equals: 4 * model.d_model}", "model.d_ff", "(got model.d_ff, which is computed)"),
        ("seeds: [{train.seed: 0}, {train.seed: 1}]", "seeds", "must not vary a seed"),
        ("width: [{model.d_ff: 8}]", "width", "needs at least two choices"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, entry, compared, fragment):
    message = message_of(write(tmp_path, RATE, entry), compare=[compared])
    assert message.startswith("--compare: ")
    assert fragment in message


def test_set_leaves_out_what_is_for_other_values_with_a_note_and_does_not_split_a_group(tmp_path):
    path = write(tmp_path, RATE, FFN, BETA2 % "{model.ffn: gelu}", "model.d_ff: {equals: 4 * model.d_model}")
    spec = load_spec(path, ["model.ffn=swiglu", "model.d_ff=99"])
    assert set(spec.space) == {"optim.lr"}
    assert spec.notes == (
        "model.ffn is set and therefore optim.beta2, which is for model.ffn 'gelu', is left out",
        "model.ffn is set and therefore not searched",
        "model.d_ff is set and therefore not computed",
    )
    assert set(load_spec(path, ["model.ffn=gelu"]).space) == {"optim.lr", "optim.beta2", "model.d_ff"}
    message = message_of(write(tmp_path, "width: [{model.d_ff: 8, model.d_model: 64}]"), ["model.d_ff=9"])
    assert message.startswith("--set model.d_ff: must not be set as well, as the choices of space.width set it")
    path = write(tmp_path, "pair: [{train.batch_size: 8, train.steps: 20}, {train.batch_size: 16, train.steps: 10}]")
    assert message_of(path, ["train.tokens=9000"]).startswith("--set train.tokens: must not be set as well")
    spec = load_spec(path, ["space.pair=[{train.batch_size: 8, model.d_ff: 32}]", "train.tokens=9000"])
    assert spec.space["pair"].labels == ("batch_size=8, d_ff=32",)


def test_a_mistake_ends_the_command_with_code_2_and_without_ray(tmp_path):
    path = write(tmp_path, "optim.lr: {low: 0.1, high: 1, times: sqrt(train.batchsize)}")
    code = (
        "import sys; from sweeps.run import main\n"
        f"try: code = main(['--config', {str(path)!r}])\nexcept SystemExit as end: code = end.code\n"
        "print(code, sorted({'ray', 'torch', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("2 []\n")
    assert "did you mean train.batch_size?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_spaces_in_the_documentation_are_right(tmp_path):
    blocks = re.findall(r"^```yaml\n(space:.*?)^```$", (ROOT / "docs/howto/spaces.md").read_text(), flags=re.M | re.S)
    assert len(blocks) == 4
    for block in blocks:
        path = tmp_path / "linked.yaml"
        path.write_text(HEAD.replace("steps: 100", "tokens: 2e6") + "sizes: [{name: s, model.num_layers: 8}]\n" + block)
        assert load_spec(path).space


def test_a_spec_with_such_entries_is_read_back_as_it_was_written(tmp_path):
    spec = linked(confirm={"top": 0})
    path = tmp_path / "sweep.yaml"
    path.write_text(dump_yaml(spec))
    assert load_spec(path) == spec


def test_optuna_has_the_labels_of_a_group_and_nothing_of_what_is_computed():
    kinds = distributions(linked().space)
    assert kinds["width"].choices == LABELS
    assert set(kinds) == set(LINKED) - {"optim.min_lr_ratio"}
    both = JointChoices(choices=[{"train.seed": 0, "data.seed": 1}, {"train.seed": 1, "data.seed": 1}])
    assert both.labels == ("train.seed=0, data.seed=1", "train.seed=1, data.seed=1")


def test_corners_combine_what_others_refer_to_and_vary_these_one_by_one():
    space = linked().space
    layout = Layout(space, RUN_DEFAULTS)
    found = [layout.overrides(corner) for corner in corners(space)]
    assert {(o["model.d_model"], o["model.ffn"]) for o in found} == {
        (width, ffn) for width in (64, 128) for ffn in ("swiglu", "gelu")
    }
    ends = {(o["model.ffn"], o.get("optim.weight_decay")) for o in found}
    assert ends == {("swiglu", None), ("swiglu", 0.0), ("swiglu", 0.3), ("gelu", None)}
    rates = {(o["train.batch_size"], o["optim.lr"]) for o in found if "optim.lr" in o}
    assert (32, 1e-3 * 2**0.5) in rates
    assert len(rates) == 8
    assert {o["optim.min_lr_ratio"] for o in found} == {0.05, 0.1}


def test_a_long_range_that_an_expression_refers_to_is_sampled_unless_an_integer_is_computed_from_it():
    steps = Range(low=1, high=1e6)
    rate = Range(low=0.1, high=1, times="1 / model.num_layers")
    assert len(list(corners({"optim.lr": rate, "model.num_layers": steps}))) == 5 * 3
    computed = linked({"model.d_ff": {"equals": "4 * model.d_model"}, "model.d_model": [64, 96]}).space["model.d_ff"]
    with pytest.raises(ValueError, match=r"space\.model\.d_model: must leave at most 10,000 combinations"):
        check_combinations({"model.d_ff": computed, "model.d_model": steps})


def test_a_computed_value_may_be_computed_from_another_and_follow_a_budget():
    space = {
        "optim.lr": {**LR, "times": "optim.beta1"},
        "optim.beta1": {"equals": "1 - optim.min_lr_ratio"},
        "optim.min_lr_ratio": [0.1, 0.5],
        "train.steps": {"equals": "640 / train.batch_size"},
        "train.batch_size": [16, 32],
    }
    sweep = linked(space, search={"allow_unequal_budgets": False})  # all have 640 windows
    proposed = {"optim.lr": 0.01, "optim.min_lr_ratio": 0.5, "train.batch_size": 32}
    overrides = sweep.layout("main").overrides(proposed)
    assert overrides["optim.lr"] == 0.005
    run = sweep.run_for("main", overrides)
    assert (run.steps, run.train.batch_size, run.optim.beta1) == (20, 32, 0.5)
    assert type(overrides["train.steps"]) is int


def test_whether_an_entry_applies_does_not_depend_on_what_it_is_multiplied_by():
    rate = {"low": 0.1, "high": 1, "times": "1 / train.steps", "when": {"model.norm": "pre"}}
    sweep = linked({"optim.lr": rate, "train.steps": [10, 20]}, train={"steps": None})
    assert sweep.layout("main").searched == ("train.steps", "optim.lr")
    assert sweep.layout("main").overrides({"optim.lr": 0.5, "train.steps": 10})["optim.lr"] == 0.05


def test_the_most_expensive_trial_is_found_behind_groups_conditions_and_expressions():
    space = {
        "width": WIDTH,
        "model.ffn": ["gelu", "swiglu"],
        "model.num_layers": {"low": 1, "high": 6, "when": {"model.ffn": "swiglu"}},
    }
    run = costliest(linked(space), "main")
    assert (run.model.d_model, run.model.ffn, run.model.num_layers) == (128, "swiglu", 6)
    shrinking = {"model.d_ff": {"equals": "65536 / model.num_layers"}, "model.num_layers": [1, 2, 4]}
    assert costliest(linked(shrinking), "main").model.num_layers == 4


@pytest.mark.parametrize("method", ["random", "grid"])
def test_an_integer_range_with_steps_gives_a_field_its_steps_alone(method):
    space = {"model.d_model": {"low": 64, "high": 256, "step": 64}}
    sweep = linked(space, method=method)
    assert distributions(sweep.space)["model.d_model"].step == 64
    assert {corner["model.d_model"] for corner in corners(sweep.space)} == {64, 128, 192, 256}
    assert sweep.trials_of("main") == (4 if method == "grid" else 8)


def test_a_gaussian_process_that_conditions_make_a_tpe_is_noted_once(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "name: c\nspace:\n  model.ffn: [swiglu, gelu]\n  optim.lr: {low: 1e-3, high: 1e-1, when: {model.ffn: gelu}}\n"
    )
    note = "search.method gp is tpe here, as entries of the space apply in some trials only"
    spec = load_spec(tmp_path / "c.yaml", search="gp")
    assert spec.notes == (note,)
    (tmp_path / "again.yaml").write_text(dump_yaml(spec))
    assert load_spec(tmp_path / "again.yaml").notes == (note,)
    assert load_spec(tmp_path / "c.yaml").notes == ()
