"""`--set` takes text as it stands where the field is text, and YAML everywhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcore.errors import InputError
from sweeps.spec.load import load_spec

WORDS = ["a#b", "notes #2.txt", "[draft]", "*.txt", "2024", "1e-3", "~", "~/x", "null.txt", "true", "{x}", "a: b"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    file = tmp_path_factory.mktemp("set") / "one.yaml"
    file.write_text("space: {optim.lr: [0.1, 0.2]}\n")
    return lambda *texts: load_spec(file, texts)


@pytest.mark.parametrize("word", WORDS)
def test_a_path_is_the_text_that_was_typed(load, word):
    assert load(f"data.source={word}").data.source == word
    assert load("data.source=a.txt", f"data.tokenizer={word}").data.tokenizer == word
    assert load(f"tracking.project={word}").tracking.project == word


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text[0] not in "'\""))
def test_so_is_any_other_text(load, text):
    assert load(f"tracking.project={text}").tracking.project == text


def test_quotes_around_all_of_it_are_taken_off(load):
    assert load('data.source="my text.txt"').data.source == "my text.txt"
    assert load("data.source='it''s.txt'").data.source == "it's.txt"
    assert load('data.source="a" and "b').data.source == '"a" and "b'
    with pytest.raises(InputError, match=r"^--set data\.source: malformed YAML"):
        load('data.source="a" b"')


def test_null_is_none_where_a_field_may_be_none_and_a_text_elsewhere(load):
    assert load("data.tokenizer=null").data.tokenizer is None
    assert load("data.source=null").data.source == "null"
    assert load("data.source=a.txt", "data.tokenizer=./null").data.tokenizer == "./null"


def test_choices_are_texts_too_and_a_wrong_one_is_refused_with_the_option(load):
    assert load("train.device=cpu").train.device == "cpu"
    with pytest.raises(InputError, match=r"^--set search\.method: must be 'optuna'.*\(got '2024'\)"):
        load("search.method=2024")
    with pytest.raises(InputError, match=r"^--set data\.source: must not be empty"):
        load("data.source=")


def test_all_other_fields_are_yaml(load):
    assert load("train.compile=true").train.compile is True
    assert load("train.threads=2").train.threads == 2
    assert load("optim.clip_norm=null").optim.clip_norm is None
    assert load("search.time=2h").search.time == 7200
    assert load("space.optim.beta2=[0.9, 0.99]").space["optim.beta2"].choices == (0.9, 0.99)
