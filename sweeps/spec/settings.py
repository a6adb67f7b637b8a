"""How a sweep searches, stops early and is tracked: the sections `search:` and `tracking:` of its file.

Addresses of databases: what may be shown or kept of one, and from where it is meant.

Nothing is opened here, and Optuna is not loaded (`sweeps.study.storage`).
"""

import re
from pathlib import Path
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


def absolute_url(url: str | None) -> str | None:
    """`sqlite:///study.db` with the whole path; every other address as it is."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)((?!file(?::|%3A))[^/:?][^?]*)(\?.*)?", url or "")
    return f"{found[1]}{Path(found[2]).absolute()}{found[3] or ''}" if found else url


def without_password(url: str) -> str:
    """The URL as it may be shown: `***` in place of a password; otherwise, or if it is no URL, as it is."""
    return _rendered(url, "***").replace("%2A%2A%2A", "***")


def password_left_out(url: str | None) -> str | None:
    """The URL as it may be kept, to be used again: a password is gone from it."""
    return None if url is None else _rendered(url, None)


def _rendered(url: str, password: str | None) -> str:
    from sqlalchemy.engine import URL, make_url  # takes a while, and most sweeps have no address
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    in_query = sorted({"password", "passwd"} & set(parsed.query))
    if parsed.password is None and not in_query:
        return url
    if parsed.password is not None:  # `set` takes None for `leave it as it is`
        place = (parsed.host, parsed.port, parsed.database, parsed.query)
        parsed = URL.create(parsed.drivername, parsed.username, password, *place)
    parsed = parsed.difference_update_query(in_query)
    if password is not None:
        parsed = parsed.update_query_dict(dict.fromkeys(in_query, password))
    return parsed.render_as_string(hide_password=False)
