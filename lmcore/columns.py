"""The names of everything that is reported, once and with units; imports nothing, so every layer may read it.

A *row* is what a trial reports at an interval (one JSON line in metrics.jsonl). A *trial* is one line of the trials
table; its values live as user attributes of an Optuna trial. Losses are in nats per token, times in seconds.
"""

from typing import Final, TypedDict

# Identity
TRIAL: Final = "trial"  # "<size>-<number>", e.g. "xs-0003"
SIZE: Final = "size"  # name of the model size; "main" without sizes
NUMBER: Final = "number"  # Optuna's trial number within the study
EXPERIMENT: Final = "experiment"  # name of the experiment, absent outside ablations
STATUS: Final = "status"  # one of STATUSES
MESSAGE: Final = "message"  # why a trial failed or diverged

# Report rows
SLOT: Final = "slot"
STEP: Final = "step"  # updates made, 1..steps
TOKENS: Final = "tokens"  # tokens trained on so far = step * batch_size * context_length
TRAIN_LOSS: Final = "train_loss"  # mean over the updates since the last report
VAL_LOSS: Final = "val_loss"  # mean over the fixed validation windows
VAL_LOSS_SE: Final = "val_loss_se"  # standard error of that mean, windows being the sampling units
GRAD_NORM: Final = "grad_norm"  # of the last update, before clipping
LR: Final = "lr"  # of the last update
TOKENS_PER_S: Final = "tokens_per_s"  # of this trial over the interval, evaluation excluded
ELAPSED_S: Final = "elapsed_s"  # since the trial began, evaluation included, stops excluded

# Where and when a sweep's row was made: rows only, and of no use to a comparison. Unix seconds.
ENGINE: Final = "engine"  # number of the process that trained it
WIDTH: Final = "width"  # slots that were computed as one program, this one among them; others may have rested
BEGAN_AT: Final = "began_at"  # its device began the interval
REPORTED_AT: Final = "reported_at"  # and had trained and evaluated it
DECIDED_AT: Final = "decided_at"  # the driver had decided whether the trial goes on
RETRIES: Final = "retries"  # how often it was begun anew: its engine died or hung, or memory ran out
PLACE_COLUMNS = (ENGINE, SLOT, WIDTH, BEGAN_AT, REPORTED_AT, DECIDED_AT, RETRIES)

REPORT_COLUMNS = (SLOT, STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, VAL_LOSS_SE, GRAD_NORM, LR, TOKENS_PER_S, ELAPSED_S)
ROW_COLUMNS = (TRIAL, SIZE, STATUS, *REPORT_COLUMNS[1:], *PLACE_COLUMNS)

# Trials: user attributes of an Optuna trial are TRIAL, EXPERIMENT, RUN, COUNTS and, once it has ended, STATUS, MESSAGE
# and LAST
RUN: Final = "run"  # user attribute: the whole resolved RunSpec as nested dict
PARAMS_PREFIX: Final = "params."  # params.optim.lr, params.model.tie_embeddings, ...: every field of the RunSpec
PARAMS_ESTIMATE: Final = "params_estimate"  # the textbook formula
PARAMS_EXACT: Final = "params_exact"  # what the slot's state dict holds
PARAMS_NON_EMBEDDING: Final = "params_non_embedding"
FLOPS_PER_TOKEN: Final = "flops_per_token"  # training: forward and backward
COUNTS: Final = "counts"  # user attribute: a dict of COUNT_COLUMNS
COUNT_COLUMNS = (PARAMS_ESTIMATE, PARAMS_EXACT, PARAMS_NON_EMBEDDING, FLOPS_PER_TOKEN)
LAST: Final = "last"  # user attribute: a dict of LAST_COLUMNS, the trial's last report
LAST_COLUMNS = (STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, VAL_LOSS_SE, ELAPSED_S, TOKENS_PER_S)
TRAIN_FLOPS: Final = "train_flops"  # flops_per_token * tokens
PERPLEXITY: Final = "perplexity"
BITS_PER_BYTE: Final = "bits_per_byte"

RUNNING: Final = "running"
COMPLETE: Final = "complete"
PRUNED: Final = "pruned"
DIVERGED: Final = "diverged"
FAILED: Final = "failed"
STATUSES = (RUNNING, COMPLETE, PRUNED, DIVERGED, FAILED)


class Row(TypedDict, total=False):
    """One report of a trial. The trainer fills REPORT_COLUMNS; the sweep adds identity and PLACE_COLUMNS.

    >>> row: Row = {"step": 25, "val_loss": 6.31}
    >>> row[VAL_LOSS]
    6.31
    """

    trial: str
    size: str
    status: str
    slot: int
    step: int
    tokens: int
    train_loss: float
    val_loss: float
    val_loss_se: float
    grad_norm: float
    lr: float
    tokens_per_s: float
    elapsed_s: float
    engine: int
    width: int
    began_at: float
    reported_at: float
    decided_at: float
    retries: int


def trial_id(size: str, number: int) -> str:
    """Id of a trial, the name of its folder too: `trial_id("xs", 3)` is "xs-0003"."""
    return f"{size}-{number:04d}"
