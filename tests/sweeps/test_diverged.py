"""A row alone says whether its trial has diverged."""

import math

import pytest

from lmcore import columns as col
from sweeps.study.divergence import divergence

V = 97
LIMIT = 2 * math.log(V)


@pytest.mark.parametrize(
    ("train_loss", "val_loss", "message"),
    [
        (3.0, 3.0, None),
        (9e9, 3.0, None),  # training losses are noisy; only one that is not finite counts
        (3.0, math.nextafter(LIMIT, 0), None),
        (3.0, LIMIT, None),
        (3.0, math.nextafter(LIMIT, 99), "val_loss 9.149 is above 2 ln V = 9.149 at step 25"),
        (3.0, 1e9, "val_loss 1000000000.000 is above 2 ln V = 9.149 at step 25"),
        (3.0, math.nan, "val_loss is nan at step 25"),
        (3.0, math.inf, "val_loss is inf at step 25"),
        (3.0, -math.inf, "val_loss is -inf at step 25"),
        (math.nan, 3.0, "train_loss is nan at step 25"),
        (math.inf, math.nan, "train_loss is inf at step 25"),
    ],
)
def test_a_loss_that_is_not_finite_or_above_twice_that_of_knowing_nothing_is_divergence(train_loss, val_loss, message):
    row = {col.TRAIN_LOSS: train_loss, col.VAL_LOSS: val_loss, col.STEP: 25}
    assert divergence(row, V) == message


@pytest.mark.parametrize(
    ("final", "message"),
    [
        (None, None),  # not measured: updates are left
        (3.0, None),
        (math.nan, "final_val_loss is nan at step 25"),
        (math.inf, "final_val_loss is inf at step 25"),
    ],
)
def test_a_final_loss_that_is_not_finite_is_divergence(final, message):
    row = {col.TRAIN_LOSS: 3.0, col.VAL_LOSS: 3.0, col.FINAL_VAL_LOSS: final, col.STEP: 25}
    assert divergence(row, V) == message
