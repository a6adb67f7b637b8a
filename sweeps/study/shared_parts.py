"""Keeps the cache of a study small: trials of a sweep are alike in most of what the study has about them.

Optuna reads each trial from the database once, and keeps what it read. A run alone has a hundred fields, of which
trials of a study differ in a few.
"""

from typing import Any

from optuna.trial import FrozenTrial


def share_parts(trial: FrozenTrial, model: FrozenTrial) -> None:
    """Have an ended trial refer to the parts of `model` that equal its own, which are then freed.

    >>> import optuna
    >>> a, b = (optuna.create_trial(value=0.0, user_attrs={"run": {"lr": 0.1, "data": {"seed": 0}}}) for _ in range(2))
    >>> share_parts(a, model=b)
    >>> a.user_attrs["run"]["data"] is b.user_attrs["run"]["data"]
    True
    """
    if trial is not model:
        trial.user_attrs = _shared(trial.user_attrs, model.user_attrs)
        trial.distributions = _shared(trial.distributions, model.distributions)


def _shared(value: Any, other: Any) -> Any:
    """`value` made of the parts of `other` where they are equal and of one type: 1 is not 1.0."""
    if type(value) is not type(other):
        return value
    if isinstance(value, dict):
        keys = {key: key for key in other}
        parts = {keys.get(key, key): _shared(part, other.get(key)) for key, part in value.items()}
        same = len(parts) == len(other) and all(key in other and part is other[key] for key, part in parts.items())
        return other if same else parts
    if isinstance(value, list):
        return other if len(value) == len(other) and all(map(_is_shared, value, other)) else value
    return other if value == other else value


def _is_shared(value: Any, other: Any) -> bool:
    return _shared(value, other) is other
