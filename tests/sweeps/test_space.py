"""A space becomes Optuna's distributions and grids of exactly its values; wrong entries are refused."""

import math
import subprocess
import sys

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter, ValidationError

from lmcore.config import ModelConfig
from lmcore.runfile.paths import describe
from sweeps.spec.space import (
    CONSTRAINED,
    MAX_COMBINATIONS,
    Choices,
    Range,
    Space,
    check_combinations,
    check_entry,
    check_grid,
    corners,
    distributions,
    grid,
    grid_values,
    sample_grid,
)


def space_of(**entries):
    """A space by dotted path, `__` standing for the dot."""
    return TypeAdapter(Space).validate_python({path.replace("__", "."): entry for path, entry in entries.items()})


def test_distributions_are_float_int_or_categorical_as_the_field_is():
    space = space_of(
        optim__lr={"low": 3e-4, "high": 3e-2, "log": True},
        optim__weight_decay={"low": 0, "high": 0.3, "step": 0.1},
        train__steps={"low": 100, "high": 1e3, "step": 100},
        model__num_layers={"low": 1, "high": 8, "log": True},
        optim__clip_norm={"choices": [None, 1.0]},
        model__tie_embeddings=[True, False],
    )
    assert distributions(space) == {
        "optim.lr": FloatDistribution(3e-4, 3e-2, log=True),
        "optim.weight_decay": FloatDistribution(0, 0.3, step=0.1),
        "train.steps": IntDistribution(100, 1000, step=100),
        "model.num_layers": IntDistribution(1, 8, log=True),
        "optim.clip_norm": CategoricalDistribution([None, 1.0]),
        "model.tie_embeddings": CategoricalDistribution([True, False]),
    }


@pytest.mark.parametrize(
    ("path", "entry", "values"),
    [
        ("optim.lr", {"low": 3e-4, "high": 3e-2, "log": True}, (3e-4, 3e-3, 3e-2)),
        ("optim.lr", {"low": 1e-4, "high": 1e-1, "log": True, "points": 4}, (1e-4, 1e-3, 1e-2, 1e-1)),
        ("optim.beta1", {"low": 0.8, "high": 0.9}, (0.8, 0.85, 0.9)),
        ("optim.beta1", {"low": 0.8, "high": 0.9, "points": 2}, (0.8, 0.9)),
        ("optim.weight_decay", {"low": 0.0, "high": 0.3, "step": 0.1}, (0.0, 0.1, 0.2, 0.3)),
        ("train.steps", {"low": 100, "high": 400}, (100, 250, 400)),
        ("model.num_layers", {"low": 1, "high": 2, "points": 5}, (1, 2)),
        ("model.num_layers", {"low": 2, "high": 8, "log": True}, (2, 4, 8)),
        ("model.norm", {"choices": ["pre", "post"]}, ("pre", "post")),
    ],
)
def test_a_grid_takes_the_ends_and_what_lies_evenly_between_them(path, entry, values):
    assert grid_values(path, space_of(**{path: entry})[path]) == values


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(1e-8, 1e3),
    ratio=st.floats(1 + 1e-9, 1e6),
    log=st.booleans(),
    points=st.integers(2, 20),
)
def test_optuna_accepts_every_value_of_a_grid(low, ratio, log, points):
    entry = Range(low=low, high=low * ratio, log=log, points=points)
    space = {"optim.eps": entry}
    values = grid_values("optim.eps", entry)
    assert len(values) == points
    assert values == tuple(sorted(values))
    assert all(distributions(space)["optim.eps"]._contains(value) for value in values)


def test_enqueued_grid_values_reach_the_trial_unchanged():
    space = space_of(
        optim__lr={"low": 3e-4, "high": 3e-2, "log": True}, train__steps={"low": 10, "high": 40, "step": 15}
    )
    study = optuna.create_study()
    for params in grid(space):
        study.enqueue_trial(params)
    assert [study.ask(distributions(space)).params for _ in grid(space)] == grid(space)


def test_the_grid_is_the_product_of_its_entries_and_the_last_varies_fastest():
    space = space_of(optim__beta1=[0.8, 0.9], model__tie_embeddings=[False, True])
    assert grid(space) == [
        {"optim.beta1": 0.8, "model.tie_embeddings": False},
        {"optim.beta1": 0.8, "model.tie_embeddings": True},
        {"optim.beta1": 0.9, "model.tie_embeddings": False},
        {"optim.beta1": 0.9, "model.tie_embeddings": True},
    ]
    assert grid({}) == [{}]


@given(size=st.integers(0, 30), n=st.integers(0, 40), seed=st.integers(0, 2**63 - 1))
def test_a_limited_grid_is_a_seeded_part_of_it_in_its_order(size, n, seed):
    full = [{"optim.lr": float(i)} for i in range(size)]
    part = sample_grid(full, n, seed)
    assert len(part) == min(n, size)
    assert part == [params for params in full if params in part]
    assert part == sample_grid(full, n, seed)


def test_another_seed_limits_the_grid_to_other_combinations():
    full = [{"optim.lr": float(i)} for i in range(100)]
    assert sample_grid(full, 10, seed=0) != sample_grid(full, 10, seed=1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1, "high": 1}, "low: must be < high (got low 1, high 1); swap or widen them"),
        ({"low": 0, "high": 1, "log": True}, "low: must be > 0 with log: true (got 0); raise it, or set log: false"),
        ({"low": 0}, "high: must be given (got nothing); add it"),
        ({"low": 0, "hi": 1}, "hi: is not a field; did you mean high?"),
        ({"low": "0", "high": 1}, "low: must be a number (got '0'); write 0 without quotes"),
        ({"low": 0, "high": math.inf}, "high: must be finite (got inf)"),
        ({"low": 0, "high": 1, "points": 1}, "points: must be >= 2 (got 1); the default is null"),
        ({"low": 0, "high": 1, "step": 0.3}, "step: must lead from low to high exactly (got 0.3)"),
        ({"low": 1, "high": 2, "step": 0.5, "log": True}, "step: must not be given with log: true (got 0.5)"),
        ({"low": 1, "high": 2, "step": 0.5, "points": 2}, "step: must not be given with points: 2 (got 0.5)"),
        ({"choices": []}, "choices: must not be empty (got []); list at least one value"),
        ([], "choices: must not be empty (got []); list at least one value"),
        ([0.9, 0.99, 0.9], "choices: must be distinct (got 0.9 twice); remove one"),
        ({"choices": [1], "low": 0}, "choices: must stand alone (got also low); keep the choices or the range"),
        ({"choices": 3}, "choices: must be a list [...] (got 3)"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_its_part(entry, message):
    with pytest.raises(ValidationError) as error:
        space_of(optim__lr=entry)
    assert str(describe(error.value)).startswith(f"optim.lr.{message}")


@pytest.mark.parametrize("entry", [3, "wide", None, True])
def test_an_entry_that_is_neither_a_range_nor_choices_is_refused(entry):
    with pytest.raises(ValidationError) as error:
        space_of(optim__lr=entry)
    assert str(describe(error.value)).startswith("optim.lr: must be {low: ..., high: ...} or {choices: [...]} (got")


@pytest.mark.parametrize(
    ("path", "entry", "message"),
    [
        (
            "model.norm",
            Range(low=0, high=1),
            "space.model.norm.low: must not be given for a field that is not a number",
        ),
        ("model.tie_embeddings", Range(low=0, high=1), "space.model.tie_embeddings.low: must not be given for a field"),
        ("train.steps", Range(low=10, high=20.5), "space.train.steps.high: must be an integer, as train.steps is one"),
        ("train.steps", Range(low=10, high=20, step=2.5), "space.train.steps.step: must be an integer"),
    ],
)
def test_a_range_must_suit_its_field(path, entry, message):
    with pytest.raises(ValueError, match="must") as error:
        check_entry(path, entry)
    assert str(error.value).startswith(message)


def test_a_grid_too_large_to_lay_out_is_refused_without_laying_it_out():
    space = {"optim.lr": Range(low=0.1, high=1, points=10**9), "optim.beta1": Choices(choices=(0.8, 0.9))}
    with pytest.raises(ValueError, match=r"space: must have at most 100,000 combinations .*got 2,000,000,000"):
        check_grid(space)


def test_corners_are_all_extremes_and_all_combinations_of_the_fields_that_constrain_one_another():
    space = space_of(
        optim__lr={"low": 0.1, "high": 0.2},
        model__num_layers={"low": 1, "high": 64},
        model__d_ff={"low": 64, "high": 256, "step": 2},
        model__d_model=[64, 96],
        model__num_heads={"low": 1, "high": 3},
        optim__beta2=[0.9, 0.99],
    )
    found = list(corners(space))
    shapes = {(corner["model.d_model"], corner["model.num_heads"]) for corner in found}
    assert shapes == {(d, h) for d in (64, 96) for h in (1, 2, 3)}
    assert len(found) == len(shapes) + 2 * 4
    assert {corner["model.num_layers"] for corner in found if "model.num_layers" in corner} == {1, 64}
    assert {corner["optim.lr"] for corner in found if "optim.lr" in corner} == {0.1, 0.2}
    assert {corner["optim.beta2"] for corner in found if "optim.beta2" in corner} == {0.9, 0.99}


@pytest.mark.parametrize(
    ("heads", "width", "largest", "combinations"),
    [
        ([4], {"low": 1, "high": 1e15}, "d_model", 10**15),
        ([1, 2], {"low": 2, "high": 2e5, "step": 2}, "d_model", 200_000),
        ({"low": 1, "high": 102}, {"low": 80, "high": 8e3, "step": 80}, "num_heads", 10_200),
    ],
)
def test_more_combinations_than_can_be_checked_are_refused_without_making_them(heads, width, largest, combinations):
    with pytest.raises(ValueError, match="combinations") as error:
        check_combinations(space_of(model__num_heads=heads, model__d_model=width))
    rule = f"must leave at most {MAX_COMBINATIONS:,} combinations of model.num_heads, model.d_model to check"
    assert str(error.value) == f"space.model.{largest}: {rule} (got {combinations:,}); give a step, or choices"


def test_fields_that_do_not_constrain_one_another_are_not_counted_as_combinations():
    wide = {"low": 1, "high": 1e9}
    space = space_of(model__d_ff=wide, model__num_layers=wide, model__d_model={"low": 1, "high": MAX_COMBINATIONS})
    check_combinations(space)
    assert len(list(corners(space))) == MAX_COMBINATIONS + 4


def test_a_batch_is_combined_with_its_micro_batches_and_not_with_the_shape_of_the_model():
    space = space_of(
        model__num_heads=[2, 4],
        model__num_kv_heads=[None, 1, 2],
        train__batch_size={"low": 8, "high": 16, "step": 4},
        train__micro_batch_size=[4, 2],
    )
    found = list(corners(space))
    assert found[0] == {path: (entry.choices[0] if hasattr(entry, "choices") else 8) for path, entry in space.items()}
    heads = [(corner["model.num_heads"], corner["model.num_kv_heads"]) for corner in found]
    batches = [(corner["train.batch_size"], corner["train.micro_batch_size"]) for corner in found]
    assert set(heads) == {(heads, kv_heads) for heads in (2, 4) for kv_heads in (None, 1, 2)}
    assert set(batches) == {(batch, part) for batch in (8, 12, 16) for part in (4, 2)}
    assert len(found) == 2 * 3 + 3 * 2 - 1


FREE = {
    "num_layers": st.integers(1, 99),
    "d_ff": st.integers(1, 999),
    "vocab_size": st.integers(1, 99),
    "context_length": st.integers(1, 99),
    "norm": st.sampled_from(["pre", "post", "none"]),
    "ffn": st.sampled_from(["swiglu", "gelu", "silu", "relu"]),
    "tie_embeddings": st.booleans(),
    "qk_norm": st.booleans(),
    "rope_theta": st.floats(1e-3, 1e6),
    "norm_eps": st.floats(1e-9, 1),
    "dropout": st.floats(0, 1, exclude_max=True),
}


@settings(max_examples=100, deadline=None)
@given(
    heads=st.integers(1, 9),
    kv_heads=st.none() | st.integers(1, 9),
    channels=st.integers(1, 9),
    positions=st.sampled_from(["rope", "none"]),
    free=st.fixed_dictionaries(FREE),
)
def test_only_the_constrained_fields_of_a_model_can_be_right_alone_and_wrong_together(
    heads, kv_heads, channels, positions, free
):
    paths = {path for path in CONSTRAINED if path.startswith("model.")}
    assert {*paths, *(f"model.{name}" for name in FREE)} == {f"model.{name}" for name in ModelConfig.model_fields}
    constrained = {
        "d_model": heads * channels,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "positions": positions,
    }
    if positions == "rope" and channels % 2:
        with pytest.raises(ValidationError, match="even number of channels"):
            ModelConfig(**constrained, **free)
    elif heads % (kv_heads or heads):
        with pytest.raises(ValidationError, match="num_kv_heads must divide num_heads"):
            ModelConfig(**constrained, **free)
    else:
        ModelConfig(**constrained, **free)


def test_a_space_is_read_and_checked_without_loading_optuna():
    code = (
        "import sys, sweeps.spec.space, sweeps.spec.load, sweeps.cli.dry_run, sweeps.cli.options; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "ray", "optuna", "wandb"}.isdisjoint(loaded)
