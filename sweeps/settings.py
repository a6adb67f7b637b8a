"""How a sweep searches, stops early and is tracked: the sections `search:` and `tracking:` of its file."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from lmcore.columns import VAL_LOSS
from lmcore.config import Config, PositiveInt, Seed

Method = Literal["optuna", "random", "grid", "qmc", "gp", "cmaes", "experiments"]
Scheduler = Literal["asha", "hyperband", "median", "none"]
WandbMode = Literal["auto", "off", "offline", "online"]
METHODS: tuple[str, ...] = get_args(Method)
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)


class SearchConfig(Config):
    """How hyperparameters are proposed, how many trials there are, and how trials are stopped early."""

    method: Method = "optuna"
    """optuna is TPE; grid and experiments run what the config lists."""
    trials: PositiveInt | None = None
    """Trials of all sizes together, dealt out in turn; null: the whole grid, all experiments, or else 16."""
    scheduler: Scheduler = "asha"
    """Which trials are stopped early; none: no trial is."""
    metric: Literal["val_loss"] = VAL_LOSS
    """What is minimised."""
    seed: Seed = 0
    """Of the sampler, and of the choice from a grid."""
    slots: Literal["auto"] | PositiveInt = "auto"
    """Trials that a device trains side by side; auto: as many as measurement finds worthwhile."""
    concurrent: PositiveInt | None = None
    """Trials at a time; null: as many as there are slots."""
    grace_steps: PositiveInt | None = None
    """Updates before which no trial is stopped early; null: a quarter of the trial's, at least one report."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of asha and hyperband: one trial in so many is promoted from rung to rung."""
    startup_trials: PositiveInt | None = None
    """Random trials of a size before its model-based search; null: a quarter of its trials, from 4 to 10."""
    hung_after_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds for one interval of training, compilation included, after which an engine is taken for hung: it is
    killed, and its trials go on from their checkpoints in the one that is started in its place."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """Optuna storage URL; null: study.db in the run's folder."""


class TrackingConfig(Config):
    """Where report rows are copied to; never changes a trial."""

    wandb: WandbMode = "auto"
    """auto: online where there is a key, else offline files in the run's folder."""
    project: Annotated[str, Field(min_length=1)] = "lmsweep"
    """wandb project."""
