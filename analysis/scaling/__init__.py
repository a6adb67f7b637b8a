"""Fits: loss laws, compute-optimal sizes, optimal settings and how they move with size and data."""

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that version 0.1 had in `analysis.scaling`, which is now `analysis.scaling.fit`."""
    fit = import_module("analysis.scaling.fit")

    if name.startswith("_") or not hasattr(fit, name):
        raise AttributeError(f"module 'analysis.scaling' has no attribute {name!r}")
    warnings.warn(f"analysis.scaling.{name} is now analysis.scaling.fit.{name}", DeprecationWarning, stacklevel=2)
    return getattr(fit, name)
