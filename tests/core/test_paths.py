"""Overrides by dotted path change exactly the named fields, and errors are one line."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcore.config import RunSpec, flatten
from lmcore.runfile.paths import RUN_DEFAULTS, ClashError, FieldError, apply, describe, nearest, plain_types


@given(st.sets(st.sampled_from(sorted(RUN_DEFAULTS))))
def test_overriding_fields_with_their_own_values_changes_nothing(paths):
    run = RunSpec()
    assert apply(run, {path: flatten(run)[path] for path in paths}) == run


def test_an_override_changes_only_its_field():
    run = apply(RunSpec(), {"optim.lr": 1e-4, "model.tie_embeddings": True})
    assert flatten(run) == {**flatten(RunSpec()), "optim.lr": 1e-4, "model.tie_embeddings": True}


def test_overrides_are_validated_together():
    assert apply(RunSpec(), {"model.num_heads": 3, "model.d_model": 96}).model.head_dim == 32


def test_whole_floats_become_integers_only_in_integer_fields():
    run = apply(RunSpec(), {"train.steps": 2e3, "train.threads": 2.0, "optim.clip_norm": 2.0})
    assert (run.train.steps, run.train.threads, run.optim.clip_norm) == (2000, 2, 2.0)
    assert [type(value) for value in (run.train.steps, run.train.threads, run.optim.clip_norm)] == [int, int, float]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.lrr": 1}, "optim.lrr: is not a field; did you mean optim.lr?"),
        ({"optim": {}}, "optim: is not a field"),
        ({"train.steps": "200"}, "train.steps: must be an integer (got '200'); write 200 without quotes"),
        ({"train.steps": True}, "train.steps: must be an integer (got true); the default is null"),
        ({"train.steps": 2.5}, "train.steps: must be an integer (got 2.5); the default is null"),
        ({"optim.beta1": 1}, "optim.beta1: must be < 1 (got 1); the default is 0.9"),
        ({"optim.lr": float("nan")}, "optim.lr: must be finite (got nan); the default is 0.003"),
        ({"optim.lr": None}, "optim.lr: must be a number (got null); the default is 0.003"),
        ({"train.compile": "yes"}, "train.compile: must be 'auto' or true or false (got 'yes'); the default is 'auto'"),
        ({"train.threads": "all"}, "train.threads: must be 'auto' or an integer (got 'all'); the default is 'auto'"),
        ({"model.norm": "prenorm"}, "model.norm: must be 'pre', 'post' or 'none' (got 'prenorm'); did you mean pre?"),
        ({"data.source": 3}, "data.source: must be text (got 3); quote it"),
        ({"data.source": ""}, "data.source: must not be empty (got ''); the default is 'stdlib'"),
        (
            {"model.num_heads": 3},
            "model.num_heads: must divide d_model, but 3 does not divide 128; choose 2 heads",
        ),
        ({"model.num_heads": 128}, "model: rope needs an even number of channels per head"),
        ({"data.source": ["x" * 500]}, "data.source: must be text (got ['xxx"),
    ],
)
def test_a_wrong_override_is_reported_in_one_line_with_rule_value_and_remedy(overrides, message):
    with pytest.raises(FieldError) as error:
        apply(RunSpec(), overrides)
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("optim.lrate", "optim.lr"),
        ("model.lr", "optim.lr"),
        ("lr", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("optim.beta_1", "optim.beta1"),
        ("model.layers", "model.num_layers"),
        ("model.n_head", "model.num_heads"),
        ("train.batchsize", "train.batch_size"),
        ("model.tied", "model.tie_embeddings"),
        ("completely.different", None),
    ],
)
def test_nearest_finds_the_intended_path(path, meant):
    assert nearest(path) == meant


def test_an_unknown_path_without_a_suggestion_lists_the_fields_of_its_section():
    with pytest.raises(FieldError, match=r"^train\.quorum: is not a field; choose one of train\.steps, train\.tokens"):
        apply(RunSpec(), {"train.quorum": 1})


def test_a_misspelt_field_is_reported_before_other_errors():
    with pytest.raises(ValidationError) as error:
        RunSpec.model_validate({"optim": {"beta_1": 0.5}, "model": {"d_model": "wide"}})
    assert str(describe(error.value)) == "optim.beta_1: is not a field; did you mean optim.beta1?"


def test_line_breaks_in_keys_do_not_break_the_message():
    with pytest.raises(ValidationError) as error:
        RunSpec.model_validate({"optim\n\x1b[31m": 1})
    assert "\n" not in str(describe(error.value))
    assert "\x1b" not in str(describe(error.value))


def test_plain_types_are_the_types_that_a_field_accepts():
    assert plain_types("optim.lr") == {float}
    assert plain_types("train.steps") == {int, type(None)}
    assert plain_types("optim.clip_norm") == {float, type(None)}
    assert plain_types("train.compile") == {str, bool}


def test_errors_can_be_pickled_by_ray():
    error = pickle.loads(pickle.dumps(FieldError("optim.lr", "must be > 0")))
    assert str(error) == "optim.lr: must be > 0"


@pytest.mark.parametrize(
    ("overrides", "clash"),
    [
        ({"model.d_model": 66}, True),
        ({"model.num_heads": 128}, True),
        ({"model.d_model": 0}, False),
        ({"model.ffn": "relu6"}, False),
    ],
)
def test_values_that_are_invalid_only_together_raise_a_clash_error(overrides, clash):
    with pytest.raises(FieldError) as error:
        apply(RunSpec(), overrides)
    assert isinstance(error.value, ClashError) is clash
