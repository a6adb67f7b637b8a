"""YAML is read by the rules of YAML 1.2 with line numbers, and written so that it reads back equal."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcore.errors import InputError
from lmcore.runfile.yaml_file import MAX_BYTES, dump_yaml, parse_value, parse_yaml, read_yaml

KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,12}", fullmatch=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["off", "1e-3", "1:30", "0o17", "010", "null", "2024-01-01", "1_000", "=", "<<", "~", ".inf"])
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("010", 10),
        ("-7", -7),
        ("true", True),
        ("off", "off"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-3'", "1e-3"),
        ("", None),
        ("null", None),
        ("-.inf", -math.inf),
        ("[1e-3, {low: 2}]", [1e-3, {"low": 2}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read = parse_value(text, "--set a.b")
    assert read == value
    assert type(read) is type(value)


def test_lines_hold_every_dotted_key_and_list_items_by_index_and_by_name():
    text = (
        "name: a\noptim:\n  lr: 1\nspace:\n  optim.lr: {low: 1,\n    high: 2}\nsizes:\n  - name: xs\n    d: 1\n  - 3\n"
    )
    assert parse_yaml(text, "a.yaml").lines == {
        "name": 1,
        "optim": 2,
        "optim.lr": 3,
        "space": 4,
        "space.optim.lr": 5,
        "space.optim.lr.low": 5,
        "space.optim.lr.high": 6,
        "sizes": 7,
        "sizes.0": 8,
        "sizes.0.name": 8,
        "sizes.0.d": 9,
        "sizes.xs": 8,
        "sizes.xs.name": 8,
        "sizes.xs.d": 9,
        "sizes.1": 10,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "a.yaml:2: malformed YAML: duplicate key 'a'; keep one of them"),
        ("b: {c: 1,\n c: 2}", "a.yaml:2: malformed YAML: duplicate key 'c'; keep one of them"),
        ("a: !!python/object/apply:os.system [ls]", "a.yaml:1: malformed YAML: tags are not allowed (got !!python"),
        ("a: !!float 1", "a.yaml:1: malformed YAML: tags are not allowed (got !!float)"),
        ("a: &x 1\nb: *x", "a.yaml:2: malformed YAML: aliases are not allowed (got *x); write the value again"),
        ("a: &x [*x]", "a.yaml:1: malformed YAML: aliases are not allowed"),
        ("a: [1\nb: 2", "a.yaml:2: malformed YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: b: c", "a.yaml:1: malformed YAML: mapping values are not allowed here"),
        ("a:\n\t- 1", "a.yaml:2: malformed YAML: while scanning for the next token, found character '\\t'"),
        ("a: 1\n---\nb: 2", "a.yaml:2: malformed YAML: expected a single document"),
        ("- 1", "a.yaml:1: must be a mapping (got list); begin with `name: my-sweep`"),
        ("1: 2", "a.yaml:1: malformed YAML: a key must be text; quote it"),
        ("[1]: 2", "a.yaml:1: malformed YAML: a key must be text; quote it"),
        ("a: 1\nb: \x07", "a.yaml:2: malformed YAML: the character U+0007 is not allowed; remove it"),
        (f"a: {'9' * 5000}", "a.yaml:1: malformed YAML: a number of 5000 digits is too long; shorten it"),
        (f"a: {'[' * 5000}", "a.yaml:1: malformed YAML: brackets are nested too deeply; remove some"),
    ],
)
def test_malformed_or_unsafe_yaml_is_refused_in_one_line_with_file_and_line(text, message):
    with pytest.raises(InputError) as error:
        parse_yaml(text, "a.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_alias_bomb_is_refused_before_it_expands():
    layers = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    with pytest.raises(InputError, match=r"bomb\.yaml:2: .*aliases are not allowed \(got \*a0\)"):
        parse_yaml(f"a0: &a0 [1]\n{layers}", "bomb.yaml")


def test_an_error_in_a_command_line_value_names_the_option_without_a_line():
    with pytest.raises(InputError, match=r"^--set optim\.lr: malformed YAML: "):
        parse_value("[1", "--set optim.lr")


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# nothing yet\n")
    assert read_yaml(path).values == {}


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"a: " + b"x" * MAX_BYTES, "a config may hold 1 MiB"),
        (b"a: 1\nb: \xff", ":2: must be UTF-8 text (got byte 0xff)"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(tmp_path, content, fragment):
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert fragment in str(error.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_written_yaml_reads_back_equal(values):
    assert parse_yaml(dump_yaml(values), "a.yaml").values == values


def test_mappings_inside_a_section_are_written_on_one_line():
    values = {"space": {"optim.lr": {"low": 1e-8, "high": 1.0}}, "sizes": [{"name": "xs"}]}
    assert dump_yaml(values) == "space:\n  optim.lr: {low: 1.0e-08, high: 1.0}\nsizes:\n- {name: xs}\n"
