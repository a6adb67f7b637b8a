"""Colour, marker and dash stand for what a sweep varied, by one rule."""

import pandas as pd
import pytest

from analysis.figures.chart import ColourBar
from analysis.figures.colours import ORDERED, PALETTE
from analysis.figures.encoding import colour_on, encode, lr_bar
from lmcore import columns as col

LR, BATCH, TIED = "params.optim.lr", "params.train.batch_size", "params.model.tie_embeddings"
BETA2, NORM, WARMUP = "params.optim.beta2", "params.model.norm", "params.optim.warmup_fraction"


def trials_of(**columns):
    """A row per value; columns that are not given are the same in all trials."""
    n = len(next(iter(columns.values())))
    constant = {col.SIZE: "xs", col.ARM: None, col.EXPERIMENT: None, LR: 1e-3, BATCH: 8, TIED: False, BETA2: 0.95}
    constant |= {NORM: "pre", WARMUP: 0.1}
    names = {"lr": LR, "batch": BATCH, "tied": TIED, "beta2": BETA2, "norm": NORM, "warmup": WARMUP}
    given = {names.get(name, name): values for name, values in columns.items()}
    frame = pd.DataFrame({name: given.get(name, [value] * n) for name, value in constant.items()})
    return frame.assign(**{col.TRIAL: [f"xs-{k:04d}" for k in range(n)], col.STATUS: col.COMPLETE})


@pytest.mark.parametrize(
    ("columns", "fields", "labels"),
    [
        ({"lr": [1e-3, 2e-3, 4e-3]}, (), [""]),
        ({"lr": [1e-3, 2e-3] * 2, "batch": [4, 4, 16, 16]}, (BATCH,), ["batch 4", "batch 16"]),
        ({"size": ["xs", "xs", "s", "s"], "arm": ["a", "b"] * 2}, ("size", "arm"), ["xs, a", "xs, b", "s, a", "s, b"]),
        # An arm says whether embeddings are tied, and an experiment says everything.
        ({"arm": ["untied", "tied"] * 2, "tied": [False, True] * 2}, ("arm",), ["untied", "tied"]),
        ({"experiment": ["base", "post"], "norm": ["pre", "post"]}, ("experiment",), ["base", "post"]),
        ({"tied": [False, True] * 2, "lr": [1e-3, 1e-3, 2e-3, 2e-3]}, (TIED,), ["untied", "tied"]),
        ({"beta2": [0.9, 0.99] * 2, "lr": [1e-3, 1e-3, 2e-3, 2e-3]}, (BETA2,), ["beta2 0.9", "beta2 0.99"]),
        # Next to another range, a choice is one coordinate among several.
        ({"beta2": [0.9, 0.99] * 4, "warmup": [k / 20 for k in range(8)]}, (), [""]),
    ],
)
def test_the_fields_that_vary_and_their_labels(columns, fields, labels):
    encoding = encode(trials_of(**columns))
    assert encoding.fields == fields
    assert list(encoding.looks) == labels


def test_the_first_field_has_the_colour_and_the_second_marker_and_dash():
    looks = encode(trials_of(size=["xs", "xs", "s", "s"], arm=["untied", "tied"] * 2)).looks
    assert [look.colour for look in looks.values()] == [PALETTE[0], PALETTE[0], PALETTE[1], PALETTE[1]]
    assert [look.marker for look in looks.values()] == ["o", "s", "o", "s"]
    assert [look.dash for look in looks.values()] == ["solid", "dashed", "solid", "dashed"]


def test_eight_experiments_differ_in_colour_marker_or_dash():
    looks = encode(trials_of(experiment=[f"e{k}" for k in range(8)])).looks.values()
    assert len({(look.colour, look.dash) for look in looks}) == 8
    assert len({look.marker for look in looks}) == 8


def test_the_last_fields_are_left_out_if_there_were_too_many_groups():
    columns = {"size": [f"s{k // 8}" for k in range(40)], "batch": [2 ** (k % 8 // 2) for k in range(40)]}
    assert encode(trials_of(**columns, tied=[False, True] * 20)).fields == ("size",)


def test_a_group_keeps_its_label_if_the_figure_shows_a_field_in_another_way():
    trials = trials_of(size=["xs", "xs", "s", "s"], batch=[4, 16] * 2)
    assert list(encode(trials, without=(BATCH,)).looks) == ["xs", "s"]


def test_groups_are_those_of_any_table_with_trials():
    encoding = encode(trials_of(arm=["a", "b"]))
    rows = pd.DataFrame({"trial": ["xs-0001", "xs-0000", "xs-0001"], "step": [1, 1, 2]})
    assert [(label, own["step"].tolist()) for label, _, own in encoding.groups(rows)] == [("a", [1]), ("b", [1, 2])]


def test_learning_rates_have_ordered_colours_in_log_space_if_nothing_else_but_choices_varies():
    bar = lr_bar(trials_of(lr=[1e-4, 1e-3, 1e-2, 1e-2], batch=[4, 4, 16, 16]))
    assert bar == ColourBar("learning rate (peak)", 1e-4, 1e-2, log=True)
    assert [colour_on(bar, lr) for lr in (1e-4, 1e-2)] == [ORDERED[0], ORDERED[-1]]
    assert colour_on(bar, 1e-3) in ORDERED[7:9]
    assert lr_bar(trials_of(lr=[1e-4, 1e-3, 1e-2], warmup=[0.1, 0.2, 0.3])) is None
    assert lr_bar(trials_of(lr=[1e-4, 1e-3, 1e-3])) is None
