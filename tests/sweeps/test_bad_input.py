"""Every mistake in a config or a flag is one line: the file and line or the option, the field, the rule, the remedy.

Mistakes in the data, and exit codes, are tested where those are found.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lmcore.errors import InputError
from sweeps.spec.load import load_spec

GOOD = """\
name: tiny
data:
  vocab_size: 512
model:
  d_model: 64
  num_heads: 4
train:
  steps: 100
optim:
  beta1: 0.9
search:
  method: random
  trials: 4
space:
  optim.lr: {low: 1e-3, high: 1e-1, log: true}
  optim.beta2: {choices: [0.9, 0.99]}
sizes:
  - {name: xs, model.d_ff: 64}
  - {name: s, model.d_ff: 128}
experiments:
  - {name: baseline}
  - {name: tied, model.tie_embeddings: true}
"""

BETA2 = "optim.beta2: {choices: [0.9, 0.99]}"

# (text to replace in GOOD, replacement, line of the error, field, fragments of the message)
MISTAKES = [
    # unknown keys and paths
    ("model:\n", "modle:\n", 4, "modle", ["is not a field", "did you mean model?"]),
    ("d_model:", "dmodel:", 5, "model.dmodel", ["is not a field", "did you mean model.d_model?"]),
    ("trials:", "trails:", 13, "search.trails", ["did you mean search.trials?"]),
    ("optim.lr:", "optim.lrate:", 15, "space.optim.lrate", ["did you mean optim.lr?"]),
    ("optim.lr:", "lr:", 15, "space.lr", ["did you mean optim.lr?"]),
    ("low: 1e-3", "lo: 1e-3", 15, "space.optim.lr.lo", ["did you mean low?"]),
    ("name: xs, model.d_ff", "name: xs, model.dff", 18, "sizes.xs.model.dff", ["did you mean model.d_ff?"]),
    ("model.tie_embeddings", "model.tied", 22, "experiments.tied.model.tied", ["did you mean model.tie_embeddings?"]),
    # wrong types
    ("steps: 100", "steps: '100'", 8, "train.steps", ["must be an integer (got '100')", "write 100 without quotes"]),
    ("steps: 100", "steps: true", 8, "train.steps", ["must be an integer (got true)"]),
    ("steps: 100", "steps: 99.5", 8, "train.steps", ["must be an integer (got 99.5)"]),
    ("beta1: 0.9", "beta1: high", 10, "optim.beta1", ["must be a number (got 'high')"]),
    ("d_model: 64", "d_model: [64]", 5, "model.d_model", ["must be an integer (got [64])"]),
    ("beta1: 0.9", "beta1: 1e-1x", 10, "optim.beta1", ["must be a number (got '1e-1x')"]),
    ("name: tiny", "name: 7", 1, "name", ["must be text (got 7)", "quote it"]),
    ("method: random", "method: bayes", 12, "search.method", ["'optuna'", "(got 'bayes')"]),
    ("trials: 4", "trials: 0", 13, "search.trials", ["must be > 0 (got 0)"]),
    ("trials: 4", "slots: 0", 13, "search.slots", ["must be 'auto' or > 0 (got 0)"]),
    ("trials: 4", "slots: all", 13, "search.slots", ["must be 'auto' or an integer (got 'all')"]),
    ("tie_embeddings: true", "tie_embeddings: yes", 22, "experiments.tied.model.tie_embeddings", ["true or false"]),
    ("{choices: [0.9, 0.99]}", "0.9", 16, "space.optim.beta2", ["must be {low: ..., high: ...} or {choices: [...]}"]),
    ("[0.9, 0.99]", "[0.9, big]", 16, "space.optim.beta2.choices", ["must be a number (got 'big')"]),
    ("  - {name: baseline}", "  - baseline", 21, "experiments.0", ["must be a mapping"]),
    # ranges
    ("low: 1e-3", "low: 0.1", 15, "space.optim.lr.low", ["must be < high (got low 0.1, high 0.1)", "widen"]),
    ("low: 1e-3", "low: 0.5", 15, "space.optim.lr.low", ["must be < high (got low 0.5, high 0.1)", "swap"]),
    ("low: 1e-3", "low: 0", 15, "space.optim.lr.low", ["must be > 0 with log: true (got 0)", "log: false"]),
    ("low: 1e-3", "low: -1", 15, "space.optim.lr.low", ["must be > 0 with log: true (got -1)"]),
    ("[0.9, 0.99]", "[]", 16, "space.optim.beta2.choices", ["must not be empty", "at least one"]),
    # beta >= 1
    ("beta1: 0.9", "beta1: 1.0", 10, "optim.beta1", ["must be < 1 (got 1.0)"]),
    ("[0.9, 0.99]", "[0.9, 1]", 16, "space.optim.beta2.choices", ["must be < 1 (got 1)"]),
    ("{choices: [0.9, 0.99]}", "{low: 0.9, high: 1.2}", 16, "space.optim.beta2.high", ["must be < 1 (got 1.2)"]),
    # warm-up beyond the run
    ("beta1: 0.9", "warmup_fraction: 1.5", 10, "optim.warmup_fraction", ["must be <= 1 (got 1.5)"]),
    (BETA2, "optim.warmup_fraction: {low: 0, high: 2}", 16, "space.optim.warmup_fraction.high", ["<= 1 (got 2.0)"]),
    # heads do not divide the width
    ("num_heads: 4", "num_heads: 3", 6, "model.num_heads", ["3 does not divide 64", "choose 2 heads"]),
    ("model.d_ff: 64", "model.num_heads: 5", 18, "sizes.xs.model.num_heads", ["5 does not divide 64"]),
    ("model.d_ff: 64", "model.d_model: 66", 18, "sizes.xs", ["model.num_heads: must divide d_model"]),
    (BETA2, "model.num_heads: [4, 7]", 16, "space.model.num_heads.choices", ["7 does not divide 64"]),
    (BETA2, "model.d_model: [64, 66]", 16, "space.model.d_model.choices", ["num_heads: must", "4 does not divide 66"]),
    ("tie_embeddings: true", "num_heads: 6", 22, "experiments.tied.model.num_heads", ["6 does not divide 64"]),
    # names
    ("name: tiny", "name: ../x", 1, "name", ["letter or digit", "(got '../x')"]),
    ("name: tiny", "name: a/b", 1, "name", ["(got 'a/b')"]),
    ("name: tiny", "name: a..b", 1, "name", ["without '..'", "(got 'a..b')"]),
    ("name: tiny", "name: ''", 1, "name", ["(got '')"]),
    ("name: tiny", f"name: {'x' * 65}", 1, "name", ["up to 63"]),
    ("name: xs", "name: ../x", 18, "sizes.0.name", ["(got '../x')"]),
    ("name: xs", f"name: {'x' * 33}", 18, "sizes.0.name", ["up to 31"]),
    ("name: s,", "name: XS,", 19, "sizes.XS.name", ["must be unique"]),
    ("name: tied", "name: baseline", 22, "experiments.baseline.name", ["must be unique", "rename"]),
    ("{name: xs, ", "{", 18, "sizes.0.name", ["must be given"]),
    # what may not vary, or not twice
    (BETA2, "data.source: [a, b]", 16, "space.data.source", ["must not vary", "comparable", "set source under data:"]),
    (BETA2, "data.seed: [0, -1]", 16, "space.data.seed.choices", ["must be >= 0 (got -1)"]),
    (BETA2, "train.device: [cpu, cuda]", 16, "space.train.device", ["must not vary", "set device under train:"]),
    ("model.d_ff: 64", "train.eval_windows: 8", 18, "sizes.xs.train.eval_windows", ["must not vary"]),
    ("model.tie_embeddings", "train.compile", 22, "experiments.tied.train.compile", ["must not vary"]),
    (BETA2, "model.context_length: [64, 128]", 16, "space.model.context_length", ["same validation windows", "sizes"]),
    ("tie_embeddings: true", "context_length: 64", 22, "experiments.tied.model.context_length", ["same validation"]),
    ("model.d_ff: 64", "model.vocab_size: 600", 18, "sizes.xs.model.vocab_size", ["must not vary"]),
    ("model.d_ff: 64", "optim.lr: 1e-3", 18, "sizes.xs.optim.lr", ["searched too", "remove space.optim.lr"]),
    ("d_model: 64", "vocab_size: 500", 5, "model.vocab_size", [">= the data's vocabulary of 512 (got 500)"]),
]  # fmt: skip


def message_of(tmp_path, text, overrides=(), **flags):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_spec(path, overrides, **flags)
    message = str(error.value)
    assert "\n" not in message
    return path, message


def test_the_config_that_the_mistakes_are_made_in_is_right(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    assert load_spec(path).size_names == ("xs", "s")


@pytest.mark.parametrize(("old", "new", "line", "field", "fragments"), MISTAKES)
def test_a_mistake_in_a_file_is_one_line_with_file_line_field_and_remedy(tmp_path, old, new, line, field, fragments):
    assert GOOD.count(old) >= 1
    path, message = message_of(tmp_path, GOOD.replace(old, new, 1))
    assert message.startswith(f"{path}:{line}: {field}: ")
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("name: [tiny\n", 2, "malformed YAML: while parsing a flow sequence"),
        ("name: a: b\n", 1, "malformed YAML: mapping values are not allowed here"),
        ("name: a\nname: b\n", 2, "duplicate key 'name'"),
        ("optim:\n  lr: 1e-3\n  lr: 1e-2\n", 3, "duplicate key 'lr'"),
        ("name: !!python/object/apply:os.system ['true']\n", 1, "tags are not allowed (got !!python/object/apply:"),
        ("name: !env HOME\n", 1, "tags are not allowed (got !env)"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 2, "aliases are not allowed (got *a)"),
        ("- 1\n", 1, "must be a mapping (got list)"),
    ],
)
def test_yaml_that_is_malformed_or_dangerous_is_one_line_with_file_and_line(tmp_path, text, line, fragment):
    path, message = message_of(tmp_path, text)
    assert message.startswith(f"{path}:{line}: ")
    assert fragment in message


@pytest.mark.parametrize(
    ("override", "option", "fragment"),
    [
        ("optim.lr", "--set", "must read PATH=VALUE (got 'optim.lr')"),
        ("opti.lr=1", "--set opti.lr", "is not a field; did you mean optim.lr?"),
        ("optim.learning_rate=1", "--set optim.learning_rate", "did you mean optim.lr?"),
        ("train.wramup=1", "--set train.wramup", "is not a field; choose one of train.steps,"),
        ("optim=3", "--set optim", "is not a field"),
        ("optim.lr=fast", "--set optim.lr", "must be a number (got 'fast')"),
        ("optim.lr=-1", "--set optim.lr", "must be > 0 (got -1)"),
        ("optim.lr=[1", "--set optim.lr", "malformed YAML"),
        ("optim.beta1=1", "--set optim.beta1", "must be < 1 (got 1)"),
        ("optim.warmup_fraction=1.1", "--set optim.warmup_fraction", "must be <= 1 (got 1.1)"),
        ("model.num_heads=3", "--set model.num_heads", "3 does not divide 64"),
        ("model.d_ff=64", "--set model.d_ff", "must not be set by every size as well (got xs, s)"),
        ("name=../x", "--set name", "(got '../x')"),
        ("space.optim.lr={low: 2, high: 1}", "--set space.optim.lr", "low: must be < high"),
        ("space.optim.nope=[1]", "--set space.optim.nope", "is not a field"),
        ("space.model.d_model=[64, 66]", "--set space.model.d_model", "4 does not divide 66"),
        ("space={}", "--set space", "must name at least one field for the search method random"),
        ("sizes=[{name: a, model.d_modl: 1}]", "--set sizes", "sizes.a.model.d_modl: is not a field"),
        ("optim.eps=!!python/name:os.system", "--set optim.eps", "tags are not allowed"),
    ],
)
def test_a_mistake_in_set_is_one_line_that_names_the_option(tmp_path, override, option, fragment):
    _, message = message_of(tmp_path, GOOD, [override])
    assert message.startswith(f"{option}: ")
    assert fragment in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trials": 0}, "--trials: must be > 0 (got 0)"),
        ({"trials": -3}, "--trials: must be > 0 (got -3)"),
        ({"seed": -1}, "--seed: must be >= 0 (got -1)"),
        ({"slots": 0}, "--slots: must be 'auto' or > 0 (got 0)"),
        ({"name": "../x"}, "--name: must begin with a letter or digit"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line_that_names_it(tmp_path, flags, message):
    assert message_of(tmp_path, GOOD, **flags)[1].startswith(message)


def test_a_set_value_that_makes_the_file_wrong_points_at_the_file(tmp_path):
    path, message = message_of(tmp_path, GOOD, ["model.d_model=66"])
    assert message.startswith(f"{path}:6: model.num_heads: must divide d_model, but 4 does not divide 66")


def test_entries_of_the_space_that_clash_are_both_named_and_no_other(tmp_path):
    text = GOOD.replace(BETA2, "optim.eps: [1e-8, 1e-6]\n  model.num_layers: [1, 2]\n  model.num_heads: [4, 5]")
    path, message = message_of(tmp_path, text, ["space.model.d_model=[80, 64]"])
    assert message.startswith(
        f"{path}:18: space.model.num_heads.choices: must divide d_model, but 5 does not divide 64"
    )
    assert message.endswith("(space.model.d_model gives 64)")


def test_experiments_without_any_listed_are_refused(tmp_path):
    text = GOOD[: GOOD.index("experiments:")]
    path, message = message_of(tmp_path, text, search="experiments")
    assert message.startswith(f"{path}: experiments: must list at least one")


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\); give the path"):
        load_spec(tmp_path / "nowhere.yaml")


def test_a_mistake_is_found_long_before_ray_could_start(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD.replace("0.99", "1.99"))
    code = (
        f"import sys, sweeps.spec.load as f\ntry: f.load_spec({str(path)!r})\nexcept f.InputError as e: print(e)\n"
        "print(sorted({'ray', 'torch', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "space.optim.beta2.choices: must be < 1 (got 1.99)" in done.stdout
    assert done.stdout.endswith("[]\n")  # nothing that takes seconds was imported
