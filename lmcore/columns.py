"""Names and units of everything that is reported. Imports nothing of lmcore, so that every layer can use it.

A *row* is one report of a trial: one JSON line in metrics.jsonl, written every `train.eval_every` updates and after the
last update; a branch has one at its end. The *trials table* has one line per trial. Losses are in nats per token,
durations in seconds, and timestamps in Unix seconds. A number in metrics.jsonl that is not finite is `null`.
"""

from typing import Final, Literal, TypedDict

# Identity of a trial, in rows and in the trials table.
TRIAL: Final = "trial"  # trial id, "<study>-<number>"; see `trial_id`
SIZE: Final = "size"  # name of the model size; "main" if the sweep lists no sizes
ARM: Final = "arm"  # name of the arm, one combination of the values in `compare`; missing if the sweep has no arms
PHASE: Final = "phase"  # search or confirm
OF: Final = "of"  # id of the trial whose setting a confirmation trial repeats under other seeds; else missing
LEADER: Final = "leader"  # of a confirmation trial: whether its setting is the result of its size and arm
NUMBER: Final = "number"  # Optuna's trial number within its study
EXPERIMENT: Final = "experiment"  # name of the experiment; missing if the trial belongs to none
SAME_AS: Final = "same_as"  # the earlier trial whose result it has, as its setting is the same; else missing
STATUS: Final = "status"  # running, paused, complete, pruned, diverged or failed
MESSAGE: Final = "message"  # why the trial failed or diverged

# Measurements in a row.
SLOT: Final = "slot"  # index of the trial's slot in its trainer, 0..K - 1
STEP: Final = "step"  # updates made so far, 1..train.steps
BRANCH: Final = "branch"  # of the row of a branch (train.branches): its fraction of the run; else missing
TOKENS: Final = "tokens"  # tokens trained on so far: step * batch_size * context_length
TRAIN_LOSS: Final = "train_loss"  # mean over the updates since the previous row
VAL_LOSS: Final = "val_loss"  # mean over the small set of validation windows, the same for every trial
VAL_LOSS_SE: Final = "val_loss_se"  # standard error of val_loss, with windows as the sampling units
FINAL_VAL_LOSS: Final = "final_val_loss"  # after the last update: mean over more windows; else missing
FINAL_VAL_LOSS_SE: Final = "final_val_loss_se"  # standard error of final_val_loss, as val_loss_se
FINAL_WINDOWS: Final = "final_windows"  # number of windows of final_val_loss
GRAD_NORM: Final = "grad_norm"  # l2 norm of the last update's gradient, before clipping
LR: Final = "lr"  # learning rate of the last update; the peak is the hyperparameter optim.lr ("params.optim.lr")
TOKENS_PER_S: Final = "tokens_per_s"  # this trial's training speed since the previous row, without evaluation
ELAPSED_S: Final = "elapsed_s"  # time since the trial started, with evaluation, without interruptions

# Where and when the sweep computed a row. Results must not depend on these columns.
ENGINE: Final = "engine"  # number of the training worker
WIDTH: Final = "width"  # slots in the batched program, idle ones included; 1 if the slot was trained on its own
BEGAN_AT: Final = "began_at"  # timestamp: training since the previous row began
REPORTED_AT: Final = "reported_at"  # timestamp: training and evaluation were done
DECIDED_AT: Final = "decided_at"  # timestamp: the driver had decided whether to stop the trial
RETRIES: Final = "retries"  # restarts after a worker died or hung, or memory ran out; leaving a lost node is none

PLACE_COLUMNS = (ENGINE, SLOT, WIDTH, BEGAN_AT, REPORTED_AT, DECIDED_AT, RETRIES)
FINAL_COLUMNS = (FINAL_VAL_LOSS, FINAL_VAL_LOSS_SE, FINAL_WINDOWS)
LOSS_COLUMNS = (TRAIN_LOSS, VAL_LOSS, VAL_LOSS_SE, *FINAL_COLUMNS)
REPORT_COLUMNS = (SLOT, STEP, BRANCH, TOKENS, *LOSS_COLUMNS, GRAD_NORM, LR, TOKENS_PER_S, ELAPSED_S)
ROW_COLUMNS = (TRIAL, SIZE, STATUS, *REPORT_COLUMNS[1:], *PLACE_COLUMNS)
"""Every column of metrics.jsonl, in order."""

# User attributes of an Optuna trial: `trial`, `experiment`, `run` and `counts`; `paused_at` while it is paused;
# `branches` as soon as one has ended; once it
# has ended, also `status`, `message` and `last`. A confirmation trial also has `of` and `seed`, the seed of its
# weights and of the order of its data. A confirmation study has the attribute `result`,
# `{"leader": id, "beaten": {id: seeds}}`: the trial whose setting leads, or null, and under how many seeds each beaten
# setting was trained. It is null or missing until the confirmation is over. For those who look at a study with
# optuna-dashboard, trials also have size, arm, phase, COUNT_COLUMNS, planned_flops, step, tokens and train_flops.
RUN: Final = "run"  # the trial's RunSpec as a nested dict
COUNTS: Final = "counts"  # dict of COUNT_COLUMNS
LAST: Final = "last"  # dict of LAST_COLUMNS from the trial's last row
PLANNED_FLOPS: Final = "planned_flops"  # FLOPs of the whole run, of which train_flops are done
PAUSED_AT: Final = "paused_at"  # step at which the trial waits; None again once it was promoted

RESULT: Final = "result"  # of a confirmation study, see above
TRANSFER: Final = "transfer"  # of a study: what smaller sizes predicted when it began; of a trial: predicted or drawn
CONFIRM_SEED: Final = "seed"  # of a confirmation trial: the seed of its weights and of the order of its data
EXCLUDED: Final = "excluded"  # of any study: the trials that the user has excluded, a reason by id; ignored everywhere

REPLAY: Final = "replay"  # entry of manifest.json: where the losses of a sweep come from that trained nothing

STORAGE_VARIABLE: Final = "LMSWEEP_STORAGE"  # environment variable: the studies' database, in place of the manifest's

# Columns of the trials table.
OVER: Final = "over"  # of a confirmation trial: whether its study has a result; missing in others
PARAMS_PREFIX: Final = "params."  # followed by the dotted path of a RunSpec field: "params.optim.lr"
PARAMS_ESTIMATE: Final = "params_estimate"  # parameters by the textbook formula
PARAMS_EXACT: Final = "params_exact"  # parameters in the slot's state dict
PARAMS_NON_EMBEDDING: Final = "params_non_embedding"  # params_exact without embedding and output head
FLOPS_PER_TOKEN: Final = "flops_per_token"  # forward and backward pass
TRAIN_FLOPS: Final = "train_flops"  # flops_per_token * tokens
LOSS: Final = "loss"  # the loss to quote: final_val_loss if there is one, otherwise val_loss
LOSS_SE: Final = "loss_se"  # standard error of loss, with windows as the sampling units
PERPLEXITY: Final = "perplexity"  # exp(loss)
BITS_PER_BYTE: Final = "bits_per_byte"  # loss in bits per UTF-8 byte of the validation text
COUNT_COLUMNS = (PARAMS_ESTIMATE, PARAMS_EXACT, PARAMS_NON_EMBEDDING, FLOPS_PER_TOKEN)
LAST_COLUMNS = (STEP, TOKENS, *LOSS_COLUMNS, ELAPSED_S, TOKENS_PER_S)
BRANCH_COLUMNS = (BRANCH, *LAST_COLUMNS)

# Losses of single validation windows: in rows that a trainer makes, and in window_losses.bin; not in metrics.jsonl.
WINDOW_LOSSES: Final = "window_losses"  # nats per token by window, of the row's last evaluation (the final one if any)
BEST_WINDOW_LOSSES: Final = "best_window_losses"  # of the trial's evaluation with the lowest val_loss so far
BEST_STEP: Final = "best_step"  # the step of that evaluation
WINDOW_COLUMNS = (WINDOW_LOSSES, BEST_WINDOW_LOSSES, BEST_STEP)
WINDOW_DOCUMENTS: Final = "window_documents"  # number of the document that each window begins in

# The training curve, finer than the rows: in rows that a trainer makes, and in curves.arrow; not in metrics.jsonl.
POINTS: Final = "points"  # points since the previous row, each a list of the step, train_loss, grad_norm and lr
POINT_COLUMNS = (STEP, TRAIN_LOSS, GRAD_NORM, LR)
"""A point of the training curve. train_loss and grad_norm are those of the batch that is trained on after `step`
updates, before it changes the weights, and lr is the rate of that update: so a curve begins at step 0."""
CURVE_COLUMNS = (TRIAL, *POINT_COLUMNS)
"""Every column of curves.arrow, in order."""

# Branches of a wsd run: in rows that a trainer makes. In metrics.jsonl each is a row of its own, with `branch`: for one
# (trial, branch, step) the last line counts. A user attribute of the trial has the name `branches`, too, and holds a
# dict of each branch: its fraction, and the last report's numbers as in `last`.
BRANCHES: Final = "branches"  # rows of the branches that ended since the previous row of their run

# How an engine fares: in rows on their way to the driver; not in metrics.jsonl.
CHECKPOINT_S: Final = "checkpoint_s"  # seconds that the engine's newest checkpoint took to write; None before the first
DEVICE_BYTES: Final = "device_bytes"  # memory that PyTorch holds on the GPU; on a CPU, that of the engine's process
ENGINE_COLUMNS = (CHECKPOINT_S, DEVICE_BYTES)

# Values of the column `phase`.
SEARCH: Final = "search"  # proposed by the search, or listed
CONFIRM: Final = "confirm"  # a setting that did well, trained again under new seeds
PHASES = (SEARCH, CONFIRM)

# Values of the column `status`.
RUNNING: Final = "running"  # not ended: training, queued, or interrupted
PAUSED: Final = "paused"  # not ended: it waits at a rung of the search's scheduler, its checkpoint is kept
COMPLETE: Final = "complete"  # all updates made
PRUNED: Final = "pruned"  # stopped early by the search's scheduler
DIVERGED: Final = "diverged"  # a loss was not finite, or val_loss exceeded 2 ln V
FAILED: Final = "failed"  # stopped by an error of its own
STATUSES = (RUNNING, PAUSED, COMPLETE, PRUNED, DIVERGED, FAILED)
UNFINISHED = (RUNNING, PAUSED)


class Row(TypedDict, total=False):
    """One report of a trial. The trainer fills REPORT_COLUMNS, WINDOW_COLUMNS and `points`; the sweep adds the others.

    >>> row: Row = {"step": 25, "val_loss": 6.31}
    >>> row[VAL_LOSS]
    6.31
    """

    trial: str
    size: str
    status: str
    slot: int
    step: int
    branch: float | None
    tokens: int
    train_loss: float
    val_loss: float
    val_loss_se: float
    final_val_loss: float | None
    final_val_loss_se: float | None
    final_windows: int | None
    window_losses: list[float]
    best_window_losses: list[float] | None
    best_step: int | None
    points: list[list[float]]
    branches: "list[Row]"
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
    checkpoint_s: float | None
    device_bytes: int


def quoted_column(row: Row) -> Literal["val_loss", "final_val_loss"]:
    """The column of the validation loss that counts for a trial whose last row this is: the final one, if it has that.

    >>> quoted_column({"val_loss": 6.31, "final_val_loss": None})
    'val_loss'
    """
    return VAL_LOSS if row.get(FINAL_VAL_LOSS) is None else FINAL_VAL_LOSS


def quoted_loss(row: Row) -> float:
    """The validation loss in the `quoted_column`.

    >>> quoted_loss({"val_loss": 6.31, "final_val_loss": 6.28}), quoted_loss({"val_loss": 6.31})
    (6.28, 6.31)
    """
    loss = row[quoted_column(row)]
    assert loss is not None
    return loss


def trial_id(size: str, number: int) -> str:
    """The id of a trial, which also names its folder.

    >>> trial_id("xs", 3)
    'xs-0003'
    """
    return f"{size}-{number:04d}"
