"""The names of everything that is reported, once and with units; imports nothing, so every layer may read it.

A *row* is what a trial reports at an interval (one JSON line in metrics.jsonl). A *trial* is one line of the trials
table; its values live as user attributes of an Optuna trial. Losses are in nats per token, times in seconds.
"""

# Identity
TRIAL = "trial"  # "<size>-<number>", e.g. "xs-0003"
SIZE = "size"  # name of the model size; "main" without sizes
NUMBER = "number"  # Optuna's trial number within the study
EXPERIMENT = "experiment"  # name of the experiment, absent outside ablations
STATUS = "status"  # one of STATUSES
MESSAGE = "message"  # why a trial failed or diverged

# Report rows
SLOT = "slot"
STEP = "step"  # updates made, 1..steps
TOKENS = "tokens"  # tokens trained on so far = step * batch_size * context_length
TRAIN_LOSS = "train_loss"  # mean over the updates since the last report
VAL_LOSS = "val_loss"  # mean over the fixed validation windows
VAL_LOSS_SE = "val_loss_se"  # standard error of that mean, windows being the sampling units
GRAD_NORM = "grad_norm"  # of the last update, before clipping
LR = "lr"  # of the last update
TOKENS_PER_S = "tokens_per_s"  # of this trial over the interval, evaluation excluded
ELAPSED_S = "elapsed_s"  # since the trial began, evaluation included, stops excluded

# Where and when a sweep's row was made: rows only, and of no use to a comparison. Unix seconds.
ENGINE = "engine"  # number of the process that trained it
WIDTH = "width"  # slots that were computed as one program, this one among them; others may have rested
BEGAN_AT = "began_at"  # its device began the interval
REPORTED_AT = "reported_at"  # and had trained and evaluated it
DECIDED_AT = "decided_at"  # the driver had decided whether the trial goes on
RETRIES = "retries"  # how often it was begun anew: its engine died or hung, or memory ran out
PLACE_COLUMNS = (ENGINE, SLOT, WIDTH, BEGAN_AT, REPORTED_AT, DECIDED_AT, RETRIES)

REPORT_COLUMNS = (SLOT, STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, VAL_LOSS_SE, GRAD_NORM, LR, TOKENS_PER_S, ELAPSED_S)
ROW_COLUMNS = (TRIAL, SIZE, STATUS, *REPORT_COLUMNS[1:], *PLACE_COLUMNS)

# Trials: user attributes of an Optuna trial are TRIAL, EXPERIMENT, RUN, COUNTS and, once it has ended, STATUS, MESSAGE
# and LAST
RUN = "run"  # user attribute: the whole resolved RunSpec as nested dict
PARAMS_PREFIX = "params."  # params.optim.lr, params.model.tie_embeddings, ...: every field of the RunSpec
PARAMS_ESTIMATE = "params_estimate"  # the textbook formula
PARAMS_EXACT = "params_exact"  # what the slot's state dict holds
PARAMS_NON_EMBEDDING = "params_non_embedding"
FLOPS_PER_TOKEN = "flops_per_token"  # training: forward and backward
COUNTS = "counts"  # user attribute: a dict of COUNT_COLUMNS
COUNT_COLUMNS = (PARAMS_ESTIMATE, PARAMS_EXACT, PARAMS_NON_EMBEDDING, FLOPS_PER_TOKEN)
LAST = "last"  # user attribute: a dict of LAST_COLUMNS, the trial's last report
LAST_COLUMNS = (STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, VAL_LOSS_SE, ELAPSED_S, TOKENS_PER_S)
TRAIN_FLOPS = "train_flops"  # flops_per_token * tokens
PERPLEXITY = "perplexity"
BITS_PER_BYTE = "bits_per_byte"

RUNNING = "running"
COMPLETE = "complete"
PRUNED = "pruned"
DIVERGED = "diverged"
FAILED = "failed"
STATUSES = (RUNNING, COMPLETE, PRUNED, DIVERGED, FAILED)
