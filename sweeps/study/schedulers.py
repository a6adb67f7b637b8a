"""From `search.scheduler` to an Optuna pruner: who decides that a trial is stopped early.

Optuna keeps the pruners' state in the study itself (intermediate values), so early stopping survives a restart.
"""

from collections.abc import Callable

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner


def _asha(grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=grace_steps, reduction_factor=reduction_factor)


def _hyperband(grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    return HyperbandPruner(min_resource=grace_steps, max_resource=steps, reduction_factor=reduction_factor)


def _median(grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    return MedianPruner(n_startup_trials=4, n_warmup_steps=grace_steps)


def _none(grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    return NopPruner()


PRUNERS: dict[str, Callable[[int, int, int], BasePruner]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}


def pruner_for(scheduler: str, grace_steps: int, steps: int, reduction_factor: int) -> BasePruner:
    """The pruner of a study whose trials make `steps` updates and are left alone for the first `grace_steps`."""
    return PRUNERS[scheduler](grace_steps, steps, reduction_factor)
