"""`search.method: module:Class` and `hub:package`: a sampler of the user, or of OptunaHub.

It is imported in the driver, which alone asks for trials, and is shown the study as it is stored.
"""

import importlib
import inspect
import os
import sys
from functools import lru_cache
from types import ModuleType

from optuna.samplers import BaseSampler

from lmcore.errors import InputError
from sweeps.spec.settings import HUB


def create_sampler(method: str, seed: int) -> BaseSampler:
    """The sampler that `search.method` names, with this seed if it takes one.

    >>> type(create_sampler("optuna.samplers:RandomSampler", seed=0)).__name__
    'RandomSampler'
    """
    sampler = find_sampler(method)
    return sampler(**({"seed": seed} if "seed" in inspect.signature(sampler).parameters else {}))


def check_sampler(method: str) -> None:
    """Raise InputError unless the sampler that `search.method` names can be imported and created."""
    try:
        create_sampler(method, seed=0)
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises
        rule = f"must be a sampler that can be created with no argument but a seed, got {method!r} ({_reason(error)})"
        raise InputError(f"search.method: {rule}; give the other arguments of its class defaults") from None


@lru_cache(maxsize=8)
def find_sampler(method: str) -> type[BaseSampler]:
    """The class that `search.method` names, `module:Class`, `hub:package` or `hub:package:Class`.

    Raises InputError if it cannot be imported, or is no sampler.
    """
    place, _, name = method.removeprefix(HUB).partition(":")
    module = _hub_module(place) if method.startswith(HUB) else _module(place, method)
    if not name:
        return _only_sampler(module, method)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        what = "is not there" if found is None else "is not one"
        rule = f"must name a class derived from optuna.samplers.BaseSampler, and {name} of {place} {what}"
        raise InputError(f"search.method: {rule} (got {method!r}); correct the name")
    return found


def _module(place: str, method: str) -> ModuleType:
    here = os.getcwd()
    added = here not in sys.path
    if added:  # a console script does not look in the working directory
        sys.path.append(here)
    try:
        return importlib.import_module(place)
    except Exception as error:
        rule = f"must name a module that can be imported from here, got {method!r} ({_reason(error)})"
        raise InputError(f"search.method: {rule}; start in its folder, or set PYTHONPATH") from None
    finally:
        if added:
            sys.path.remove(here)


def _hub_module(package: str) -> ModuleType:
    try:
        import optunahub
    except ImportError:
        rule = f"must be a method whose package is installed, and OptunaHub's is not (got {HUB}{package})"
        raise InputError(f"search.method: {rule}; pip install 'lmsweep[hub]'") from None
    try:
        module: ModuleType = optunahub.load_module(package)
    except Exception as error:  # GitHub does not answer, there is no such package, or it needs another one
        rule = f"must be a package of OptunaHub that can be loaded, got {HUB}{package} ({_reason(error)})"
        raise InputError(f"search.method: {rule}; look for it at https://hub.optuna.org") from None
    return module


def _only_sampler(module: ModuleType, method: str) -> type[BaseSampler]:
    """The sampler that a package of OptunaHub is for: the only one that it lists as its own."""
    listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    values = {name: getattr(module, name, None) for name in listed}
    samplers = {
        name: value
        for name, value in values.items()
        if isinstance(value, type) and issubclass(value, BaseSampler) and not value.__module__.startswith("optuna.")
    }
    if len(samplers) == 1:
        return next(iter(samplers.values()))
    rule = (
        f"must name the sampler, too, unless the package has one (got {method}, with {', '.join(samplers) or 'none'})"
    )
    raise InputError(f"search.method: {rule}; write {method}:CLASS")


def _reason(error: Exception) -> str:
    """The error in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
