"""Tables of trials: functions from DataFrame to DataFrame, and their form as text, CSV, Markdown and LaTeX."""

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that version 0.1 had in `analysis.tables`, which is now `analysis.tables.trials`."""
    trials = import_module("analysis.tables.trials")

    if name.startswith("_") or not hasattr(trials, name):
        raise AttributeError(f"module 'analysis.tables' has no attribute {name!r}")
    warnings.warn(f"analysis.tables.{name} is now analysis.tables.trials.{name}", DeprecationWarning, stacklevel=2)
    return getattr(trials, name)
