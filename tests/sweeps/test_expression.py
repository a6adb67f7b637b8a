"""An expression has the value that Python gives it, and can do nothing else."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError
from sweeps.spec.expression import MAX_LENGTH, parse

FIELDS = {**RUN_DEFAULTS, "train.batch_size": 256, "model.d_model": 128, "optim.lr": 0.5}


@pytest.mark.parametrize(
    ("text", "value", "paths"),
    [
        ("sqrt(train.batch_size / 64)", 2.0, ("train.batch_size",)),
        ("4 * model.d_model", 512, ("model.d_model",)),
        ("-optim.lr ** 2 + 3 * (1 - 0.25)", 2.0, ("optim.lr",)),
        ("2 ** 3 ** 2", 512, ()),
        ("+1e-3 * model.d_model / model.d_model", 1e-3, ("model.d_model",)),
        (" 7 - 3 - 2 ", 2, ()),
        ("sqrt(sqrt(16)) / 2 / 2", 0.5, ()),
    ],
)
def test_an_expression_has_pythons_value_and_names_its_fields(text, value, paths):
    assert parse(text).value(FIELDS) == pytest.approx(value, rel=1e-15)
    assert parse(text).paths == paths


TREES = st.recursive(
    st.sampled_from(["train.batch_size", "model.d_model", "optim.lr"]) | st.integers(0, 9).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda part: f"-{part}"),
        inner.map(lambda part: f"sqrt({part})"),
    ),
    max_leaves=6,
)


@given(text=TREES)
def test_any_expression_is_what_python_makes_of_the_same_text_or_is_refused(text):
    if len(text) > MAX_LENGTH:
        return
    python = text.replace("train.batch_size", "256.0").replace("model.d_model", "128.0").replace("optim.lr", "0.5")
    try:
        expected = float(eval(python, {"sqrt": math.sqrt}))
    except (ZeroDivisionError, ValueError, OverflowError):
        expected = math.nan
    if math.isfinite(expected):
        assert parse(text).value(FIELDS) == pytest.approx(expected, rel=1e-12)
    else:
        with pytest.raises(FieldError, match=r"must (not divide by 0|be a finite number)"):
            parse(text).value(FIELDS)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "must be made of"),
        ("1 +", "must be made of"),
        ("__import__('os').system('true')", "must be made of"),
        ("().__class__.__mro__", "must be made of"),
        ("sqrt.__globals__", "is not a field"),
        ("sqrt(4, 2)", "must be made of"),
        ("sqrt(x=4)", "must be made of"),
        ("exp(2)", "must be made of"),
        ("model.d_model if 1 else 2", "must be made of"),
        ("model.d_model // 2", "(got 'model.d_model // 2')"),
        ("model.d_model % 2", "must be made of"),
        ("model.d_model > 2", "must be made of"),
        ("[1][0]", "must be made of"),
        ("lambda: 1", "must be made of"),
        ("(a := 1)", "must be made of"),
        ("True * 2", "must be made of"),
        ("1j", "must be made of"),
        ("'a' * 9", "must be made of"),
        ("1; 2", "must be made of"),
        ("a\x00b", "must be made of"),
        ("1 + " * 50 + "1", f"must have at most {MAX_LENGTH} characters (got 201); shorten it"),
        ("train.batchsize / 64", "got train.batchsize, which is not a field; did you mean train.batch_size?"),
        ("batch_size / 64", "did you mean train.batch_size?"),
        ("model.ffn * 2", "must refer to numbers (got model.ffn, which is none)"),
        ("model.tie_embeddings * 2", "must refer to numbers (got model.tie_embeddings, which is none)"),
    ],
)
def test_text_that_is_no_expression_is_refused_in_one_line(text, fragment):
    with pytest.raises(FieldError) as error:
        parse(text)
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("1 / (train.batch_size - 256)", "must not divide by 0 (got '1 / (train.batch_size - 256)' with"),
        ("0 ** -1", "must not divide by 0"),
        ("sqrt(1 - train.batch_size)", "must be a finite number"),
        ("(1 - train.batch_size) ** 0.5", "must be a finite number"),
        ("1e308 * 10", "must be a finite number"),
        ("train.steps / 2", "must refer to numbers (got train.steps, which is null); set it to a number"),
        ("train.threads / 2", "must refer to numbers (got train.threads, which is 'auto')"),
    ],
)
def test_an_expression_without_a_number_is_refused_with_the_values_of_its_fields(text, fragment):
    with pytest.raises(FieldError) as error:
        parse(text).value(FIELDS)
    assert fragment in str(error.value)


def test_no_expression_takes_long():
    begun = time.monotonic()
    for text in (
        "9 ** 9 ** 9 ** 9",
        "9" * 190,
        "10 ** 308 ** 9",
        "-" * 190 + "1",
        "sqrt(" * 30 + "1" + ")" * 30,
        "(" * 99 + "1" + ")" * 99,
    ):
        try:
            assert math.isfinite(parse(text).value({}))
        except FieldError:
            continue
    assert time.monotonic() - begun < 1
