"""When a trial counts as diverged, and how Optuna is told. The decision needs one report row and no other trial."""

import math

import optuna

from lmcore import columns as col
from lmcore.columns import Row


def divergence(row: Row, vocab_size: int) -> str | None:
    """Why the trial has diverged, or None: a loss that is not finite, or a validation loss above 2 ln V.

    ln V nats is the loss of a model that gives every token the same probability.

    >>> divergence({"step": 25, "train_loss": 3.0, "val_loss": 9.5}, vocab_size=97)
    'val_loss 9.500 is above 2 ln V = 9.149 at step 25'
    """
    step, val_loss = row[col.STEP], row[col.VAL_LOSS]
    # Without a final evaluation there is no final loss, and a replay has no training loss.
    losses = (row.get(col.TRAIN_LOSS), val_loss, row.get(col.FINAL_VAL_LOSS))
    for name, loss in zip((col.TRAIN_LOSS, col.VAL_LOSS, col.FINAL_VAL_LOSS), losses, strict=True):
        if loss is not None and not math.isfinite(loss):
            return f"{name} is {loss} at step {step}"
    limit = 2 * math.log(vocab_size)
    if val_loss > limit:
        return f"{col.VAL_LOSS} {val_loss:.3f} is above 2 ln V = {limit:.3f} at step {step}"
    return None


def set_constraint(trial: optuna.Trial, diverged: bool) -> None:
    """Set the only constraint of a sweep's trials, which those that diverged violate.

    It has the form that a sampler's `constraints_func` leaves. Optuna reads it like the named constraints of
    `Trial.set_constraint`, and optuna-dashboard reads no other: it would count a diverged trial as the best, if it is
    the first, and draw no line of best values from then on.
    """
    trial.storage.set_trial_system_attr(trial._trial_id, "constraints", [1.0 if diverged else 0.0])
