"""Old names of version 0.1, kept for scripts that import them."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def moved_to(module: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose names of version 0.1 are now in `module`; it warns once per place of use."""

    def find(name: str) -> Any:
        if name.startswith("_") or not hasattr(import_module(module), name):
            raise AttributeError(f"module {module.rpartition('.')[0]!r} has no attribute {name!r}")
        warnings.warn(f"this name is now {module}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(module), name)

    return find
