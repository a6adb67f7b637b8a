"""The sections `search:` and `tracking:` of a sweep's file, and what of a storage URL is shown and kept.

`sweeps.study.storage` opens the database; Optuna is not imported here.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, PositiveInt
from pydantic_core import PydanticCustomError

from lmcore.columns import VAL_LOSS
from lmcore.config import Config, PositiveFloat, Seed
from lmcore.runfile.paths import FieldError, show
from lmcore.study_database import mask_password as mask_password
from lmcore.study_database import replace_password
from sweeps.spec.duration import Duration

OPTUNA = "optuna"
HUB = "hub:"
Method = Literal["optuna", "tpe", "gp", "cmaes", "qmc", "random", "grid", "experiments"]
Scheduler = Literal["asha", "hyperband", "asha-stop", "median", "none"]
Tag = Annotated[str, Field(min_length=1, max_length=64)]  # longer ones are refused by wandb
WandbMode = Literal["auto", "off", "offline", "online"]
OFF = "off"
METHODS: tuple[str, ...] = get_args(Method)
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
LISTED: tuple[str, ...] = ("grid", "experiments")
"""Methods whose trials are listed, not proposed."""


VIRTUAL_SLOTS = 8
"""Trials in progress at a time in a reproducible sweep, unless search.concurrent says it: the machine has no say."""


def is_own(method: str) -> bool:
    """Whether `search.method` names a sampler of the user or of OptunaHub.

    >>> is_own("my_samplers:Greedy")
    True
    """
    return ":" in method


def _method(value: str) -> str:
    """A name of METHODS, `module:Class`, or `hub:package`; otherwise PydanticCustomError."""
    package = value.removeprefix(HUB) if value.startswith(HUB) else None
    if value in METHODS or (package if package is not None else re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value)):
        return value
    names = ", ".join(f"'{name}'" for name in METHODS)
    expected = f"{names}, module:Class or hub:package"
    raise PydanticCustomError("literal_error", "must be {expected}", {"expected": expected})


class SearchConfig(Config):
    """How hyperparameters are proposed, how many trials there are, and which trials are stopped early.

    >>> SearchConfig(method="random", trials=32).scheduler
    'asha'
    """

    method: Annotated[str, AfterValidator(_method)] = OPTUNA
    """How hyperparameters are proposed: by a Gaussian process (gp), TPE (tpe) or CMA-ES (cmaes), quasi-randomly (qmc),
    at random or from a grid; optuna is gp for the first 300 trials of a size and arm, then tpe; experiments runs the
    listed experiments and searches nothing; module:Class is an Optuna sampler of yours,
    hub:package one of OptunaHub."""
    start_with: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    """Known good settings, by dotted path of the space, that the first trials of every size and arm have: the values
    that fields have in the run, after any times. Choices of several fields may be given by their name, as a label or
    as the fields of one of them. What a setting leaves out is proposed. Not for the methods grid and experiments."""
    trials: PositiveInt | None = None
    """Number of trials of all sizes and arms together, at least 1, dealt out in turn, without confirmation runs; null
    means every grid point, every experiment, or else as many as fit in time, or 16 trials without one."""
    time: Duration | None = None
    """Wall time of the sweep, such as 2h, 1h30m, 90m or 45s, or seconds, counted from each start of the command: no
    new trial begins that could not finish in time, with its confirmation; what runs is finished; null means no
    limit."""
    stop_at: PositiveFloat | None = None
    """Target loss in nats per token, above 0: once a complete trial of a study has reached it, the study begins no
    more trials; null means no target."""
    allow_unequal_budgets: bool = False
    """Whether trials of a size may train on different numbers of tokens; their losses then differ by how long they
    trained, too."""
    scheduler: Scheduler = "asha"
    """Which rule saves training on unpromising trials. asha (successive halving) compares trials at rungs, the first
    after grace_steps and each next one reduction_factor times as late: a trial that is not among the best of its rung
    is paused with a checkpoint, and goes on once it belongs to them; what is paused at the end counts as pruned.
    hyperband does so in several brackets that begin later and later. asha-stop is successive halving that stops trials
    for good, median stops those that are worse than the median; none trains every trial to its end."""
    metric: Literal["val_loss"] = VAL_LOSS
    """What is minimized: always val_loss, the validation loss in nats per token; of a complete trial the final one."""
    seed: Seed = 0
    """Seed of the sampler, and of the choice from a grid that has more points than there are trials; at least 0."""
    slots: Literal["auto"] | PositiveInt = "auto"
    """Number of trials that one device trains side by side, at least 1; auto uses as many as measurement finds
    worthwhile."""
    concurrent: PositiveInt | None = None
    """Largest number of trials in progress at a time, at least 1; null means as many as there are slots, or 8 of a
    reproducible sweep."""
    reproducible: bool = False
    """Whether the trials, their order and every decision follow from the file alone, whatever the timing, the number of
    slots and restarts: concurrent trials are decided on in the order of the FLOPs that they have trained. Some slots
    wait for others then. Not with time."""
    grace_steps: PositiveInt | None = None
    """Number of updates, at least 1, before which no trial is stopped early; null means a quarter of the trial's steps,
    rounded to whole report intervals, and at least one interval."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One trial in this many, at least 2, is promoted from each rung of asha, hyperband or asha-stop to the next."""
    startup_trials: PositiveInt | None = None
    """Number of trials of each size and arm, at least 1, that are spread evenly over the space before its model-based
    search begins; null means a quarter of its trials, but no fewer than 4 and no more than 10. Sizes that learn from
    smaller ones (transfer) have predicted settings instead."""
    hung_after_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds, above 0, that an engine may take for one interval of training, compilation and evaluation included (the
    final evaluation costs up to 5 % of a run); after that it is considered hung and restarted, and its trials continue
    from their checkpoints."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """Optuna storage URL of the studies, such as postgresql://user@host/sweeps; null means study.db in the run's
    folder."""

    @property
    def virtual_slots(self) -> int:
        """How many trials are in progress at a time if the sweep is reproducible."""
        return self.concurrent or VIRTUAL_SLOTS


def _mlflow_address(uri: str) -> str:
    """`uri` if it is off or the address of an MLflow store, without a password; otherwise FieldError."""
    if uri in (OFF, "databricks") or (re.match(r"[a-z][a-z0-9+.-]*://", uri) and mask_password(uri) == uri):
        return uri
    if "://" in uri:
        rule = f"must not hold a password, as sweep.yaml keeps it (got {mask_password(uri)})"
        raise FieldError("", f"{rule}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead")
    rule = "must be off, or an address such as http://host:5000 or sqlite:///mlflow.db"
    raise FieldError("", f"{rule} (got {show(uri)}); add the part before ://")


class TrackingConfig(Config):
    """Where report rows are copied to while the sweep runs. Tracking never changes a trial.

    >>> TrackingConfig(wandb="offline").project
    'lmsweep'
    """

    wandb: WandbMode = "auto"
    """Whether rows are logged to Weights & Biases: off, offline (to files in the run's folder) or online; auto means
    online if an API key is found, and offline otherwise."""
    tensorboard: bool = False
    """Whether rows are written as TensorBoard's event files, to tensorboard/ in the run's folder; needs the extra
    lmsweep[tensorboard]."""
    mlflow: Annotated[str, AfterValidator(_mlflow_address)] = OFF
    """Address of the MLflow server or database that rows are logged to, such as http://host:5000 or
    sqlite:///mlflow.db, without a password; off means none. Needs the extra lmsweep[mlflow]."""
    project: Annotated[str, Field(min_length=1)] = "lmsweep"
    """Name of the project that runs are logged to in wandb, and of the experiment in MLflow."""
    entity: Annotated[str, Field(min_length=1)] | None = None
    """User or team whose wandb project it is; null means the one that the API key belongs to."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """Group of every run in wandb, and its tag group in MLflow; null means the sweep's name in wandb."""
    tags: Annotated[tuple[Tag, ...], Field(strict=False)] = ()
    """Tags of every run in wandb and MLflow, of 1 to 64 characters each; wandb's runs also have their size, arm and
    phase."""
    notes: Annotated[str, Field(min_length=1)] | None = None
    """Description of every run in wandb and MLflow; null means none."""
    metrics: bool = True
    """Whether Ray exports the sweep's metrics, for Prometheus and the Metrics page of Ray's dashboard."""


def absolute_url(url: str | None) -> str | None:
    """The URL with the path of a SQLite file made absolute; any other URL is returned unchanged.

    >>> absolute_url("postgresql://reader@db.example/sweeps")
    'postgresql://reader@db.example/sweeps'
    """
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)((?!file(?::|%3A))[^/:?][^?]*)(\?.*)?", url or "")
    return f"{found[1]}{Path(found[2]).absolute()}{found[3] or ''}" if found else url


def strip_password(url: str | None) -> str | None:
    """The URL to write to sweep.yaml, without a password: the user must give it again on resume.

    >>> strip_password("postgresql://ann:s3cret@db.example/sweeps")
    'postgresql://ann@db.example/sweeps'
    """
    return None if url is None else replace_password(url, None)
