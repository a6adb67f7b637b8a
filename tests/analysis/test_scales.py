"""The axis of a hyperparameter is of its kind."""

import pandas as pd
import pytest

from analysis.figures.scales import scale_of
from analysis.runs.space import space_of

FOUR = [0.001, 0.002, 0.004, 0.01]


@pytest.mark.parametrize(
    ("path", "values", "space", "log", "ticks"),
    [
        ("optim.lr", [0.001, 0.002], None, True, []),
        ("optim.weight_decay", [0.05, 0.1, 0.2], {"low": 0.01, "high": 1.0, "log": True}, True, []),
        ("optim.weight_decay", [0.01, 0.1, 1.0], {"low": 0.0, "high": 1.0}, False, []),
        ("optim.weight_decay", [0.01, 0.1, 1.0], None, True, []),  # a guess, without a search space
        ("optim.warmup_fraction", [0.001, 0.1, 0.4], None, False, []),
        ("optim.clip_norm", [0.5, 1.0] * 2, None, False, ["0.5", "1"]),
        ("model.num_layers", [2, 3, 4, 6, 7, 8, 9], None, False, ["2", "4", "6", "8"]),
        ("model.norm", ["pre", "post", "pre"], None, False, ["post", "pre"]),
        ("model.tie_embeddings", [True, False, True], None, False, ["tied", "untied"]),
        ("train.batch_size", [4, 16] * 2, None, True, ["4", "16"]),
    ],
)
def test_the_kind_of_an_axis(path, values, space, log, ticks):
    axis = scale_of(f"params.{path}", pd.Series(values), space).axis
    assert axis.log == log
    assert list(axis.ticks.values()) == ticks


def test_betas_are_drawn_as_1_minus_beta_on_a_log_axis_with_ticks_at_the_choices():
    scale = scale_of("params.optim.beta2", pd.Series([0.9, 0.99, 0.999, 0.9, 0.99, 0.999]))
    assert scale.values.tolist() == pytest.approx([0.1, 0.01, 0.001] * 2)
    assert (scale.axis.label, scale.axis.log) == ("1 - beta2", True)
    assert scale.axis.ticks == pytest.approx({0.001: "0.001", 0.01: "0.01", 0.1: "0.1"})
    assert scale.unit.tolist() == pytest.approx([1.0, 0.5, 0.0] * 2)


def test_fractions_begin_at_zero():
    assert scale_of("params.optim.warmup_fraction", pd.Series([0.1, 0.4])).axis.limits[0] == 0


def test_the_search_space_is_read_from_the_sweep_that_the_manifest_keeps():
    text = "space:\n  optim.lr: {low: 0.001, high: 0.01, log: true}\n  optim.beta2: {choices: [0.9, 0.99]}\n"
    space = space_of({"sweep_yaml": {"text": text}})
    assert space == {
        "params.optim.lr": {"low": 0.001, "high": 0.01, "log": True},
        "params.optim.beta2": {"choices": [0.9, 0.99]},
    }
    for manifest in ({}, {"sweep_yaml": {"text": "space: [1"}}, {"sweep_yaml": {"text": "- a"}}, {"sweep_yaml": "x"}):
        assert space_of(manifest) == {}
