"""Words of wandb's sweeps and Ray Tune are answered with ours."""

import pytest

from lmcore.errors import InputError
from sweeps.spec.load import load_spec

WORD = "which is a word of wandb or Ray Tune"


def answer(tmp_path, text, *overrides):
    """The line that refuses a sweep's file, from its place on."""
    file = tmp_path / "other.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load_spec(file, overrides)
    line = str(refused.value)
    assert line.isprintable()
    return line.partition(": ")[2]


@pytest.mark.parametrize(
    ("entry", "word", "ours"),
    [
        ("{values: [0.9, 0.99]}", "values", "{choices: [0.9, 0.99]}"),
        ("{min: 0.1, max: 0.2}", "min", "{low: 0.1, high: 0.2}"),
        ("{distribution: uniform, min: 0.1, max: 0.2}", "min", "{low: 0.1, high: 0.2}"),
        ("{distribution: log_uniform_values, min: 0.1, max: 0.2}", "min", "{low: 0.1, high: 0.2, log: true}"),
        ("{distribution: constant}", "distribution", "{low: ..., high: ...}"),
        ("{loguniform: [1e-4, 1e-1]}", "loguniform", "{low: 0.0001, high: 0.1, log: true}"),
        ("{uniform: [0, 1]}", "uniform", "{low: 0, high: 1}"),
        ("{choice: [1, 2]}", "choice", "{choices: [1, 2]}"),
        ("{grid_search: [1, 2]}", "grid_search", "{choices: [1, 2]}"),
        ("{lower: 1, upper: 2}", "lower", "{low: 1, high: 2}"),
        ("{quniform: [0, 1, 0.1]}", "quniform", "{low: 0, high: 1, step: 0.1}"),
        ("tune.loguniform(1e-4, 1e-1)", "loguniform", "{low: 1e-4, high: 1e-1, log: true}"),
        ("'ray.tune.choice([1, 2])'", "choice", "{choices: [1, 2]}"),
        ("uniform(0, 1)", "uniform", "{low: 0, high: 1}"),
    ],
)
def test_an_entry_of_the_space_in_their_words_is_answered_with_the_same_entry_in_ours(tmp_path, entry, word, ours):
    line = answer(tmp_path, f"space:\n  optim.lr: {entry}\n")
    assert line.startswith("space.optim.lr: must be written as ")
    assert f"(got {word}, {WORD})" in line
    assert line.endswith(f"; write {ours}")


def test_a_single_value_of_wandb_belongs_outside_the_space(tmp_path):
    rule = "must have several values to choose from (got value, which is a word of wandb)"
    line = answer(tmp_path, "space: {optim.lr: {value: 3}}\n")
    assert line == f"space.optim.lr: {rule}; set the field outside the space"


@pytest.mark.parametrize(
    ("text", "field", "ours"),
    [
        ("parameters: {optim.lr: {min: 1, max: 2}}", "parameters", "space"),
        ("param_space: {}", "param_space", "space"),
        ("method: bayes", "method", "search.method"),
        ("metric: {name: val_loss, goal: minimize}", "metric", "search.metric"),
        ("early_terminate: {type: hyperband}", "early_terminate", "search.scheduler"),
        ("run_cap: 3", "run_cap", "search.trials"),
        ("search: {num_samples: 3}", "search.num_samples", "search.trials"),
        ("search: {goal: minimize}", "search.goal", "search.metric"),
        ("search: {max_concurrent_trials: 3}", "search.max_concurrent_trials", "search.concurrent"),
        ("train: {max_iters: 3}", "train.max_iters", "train.steps"),
    ],
)
def test_a_key_of_theirs_is_answered_with_ours(tmp_path, text, field, ours):
    assert answer(tmp_path, f"{text}\n") == f"{field}: is not a field; did you mean {ours}?"


def test_so_is_a_value(tmp_path):
    assert answer(tmp_path, "search: {method: bayes}\n").endswith("(got 'bayes'); did you mean optuna?")
    assert answer(tmp_path, "train: {device: gpu}\n").endswith("(got 'gpu'); did you mean cuda?")


def test_their_words_on_the_command_line_are_answered_too(tmp_path):
    text = "space: {optim.lr: [0.1, 0.2]}\n"
    line = answer(tmp_path, text, "space.optim.lr={min: 0.1, max: 0.2}")
    assert line.startswith("must be written as {low: ..., high: ...} (got min, ")
