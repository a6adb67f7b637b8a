"""`search.start_with`: known good settings, which come first in every study of the search.

They are checked against the space here, and laid out for each study. `sweeps.study.open_study` enqueues them.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError, show, unknown
from sweeps.spec.arms import StudyPlan
from sweeps.spec.settings import LISTED
from sweeps.spec.space import Choices, Entry, takes_integers

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

FIELD = "search.start_with"


def check_start_with(spec: "SweepSpec") -> None:
    """FieldError if the settings do not suit the space or the method, or are more than a study has trials."""
    listed = spec.search.start_with
    if not listed:
        return
    if spec.search.method in LISTED:
        rule = f"must be empty for the search method {spec.search.method}, whose trials are listed"
        raise FieldError(FIELD, f"{rule} (got {len(listed)}); leave it out, or choose another method")
    for number, setting in enumerate(listed, 1):
        for path, value in setting.items():
            if path not in RUN_DEFAULTS:
                raise FieldError(FIELD, f"{path} of setting {number} {unknown(path).rule}")
            if path not in spec.space:
                rule = f"must give fields of the space alone (got {path} in setting {number})"
                raise FieldError(FIELD, f"{rule}; add it to the space, or leave it out")
            if (wrong := why_outside(path, spec.space[path], value)) is not None:
                raise FieldError(FIELD, f"{path} of setting {number} {wrong}; correct it, or widen space.{path}")
        if not setting.keys() - set(spec.compare):
            rule = f"must give a field that is searched and not compared (got {show(setting)} as setting {number})"
            raise FieldError(FIELD, f"{rule}; add one, or leave it out")
        if setting in listed[: number - 1]:
            raise FieldError(FIELD, f"must not list a setting twice (got {show(setting)}); remove one")
    for plan in spec.studies:
        settings, trials = start_settings(spec, plan), spec.trials_in(plan)
        if len(settings) > trials:
            rule = f"must not list more settings than {plan.id} has trials (got {len(settings)} for {trials})"
            raise FieldError(FIELD, f"{rule}; raise search.trials, or list fewer")


def start_settings(spec: "SweepSpec", plan: StudyPlan) -> list[dict[str, Any]]:
    """The values that the first trials of a search study have, by dotted path.

    A setting with the value of a compared field is for the arms with that value alone.

    >>> from sweeps.spec.sweep_spec import SweepSpec
    >>> search = {"start_with": [{"optim.lr": 0.003}]}
    >>> spec = SweepSpec(name="known", search=search, space={"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}})
    >>> start_settings(spec, spec.studies[0])
    [{'optim.lr': 0.003}]
    """
    found: list[dict[str, Any]] = []
    for setting in spec.search.start_with:
        arm = {path: value for path, value in setting.items() if path in spec.compare}
        values = {p: _as_proposed(p, spec.space[p], value) for p, value in setting.items() if p not in arm}
        if _belongs(arm, plan.arm.overrides) and values not in found:
            found.append(values)
    return found


def _belongs(arm: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    return all(overrides[path] == value for path, value in arm.items())


def why_outside(path: str, entry: Entry, value: Any) -> str | None:
    """The rule that a value breaks which the entry of the space at `path` cannot take; None if it can.

    >>> why_outside("optim.beta2", Choices(choices=[0.9, 0.99]), 0.95)
    'must be one of 0.9, 0.99 (got 0.95)'
    """
    got = f"(got {show(value)})"
    if isinstance(entry, Choices):
        if any(_same(choice, value) for choice in entry.choices):
            return None
        return f"must be one of {', '.join(map(show, entry.choices))} {got}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"must be a number {got}"
    if not entry.low <= value <= entry.high:
        return f"must be from {entry.low:g} to {entry.high:g} {got}"
    if takes_integers(path) and value != round(value):
        return f"must be an integer {got}"
    step = entry.step or (1.0 if takes_integers(path) and not entry.log else None)
    if step is not None and abs((steps := (value - entry.low) / step) - round(steps)) > 1e-8:
        return f"must be in steps of {step:g} from {entry.low:g} {got}"
    return None


def _as_proposed(path: str, entry: Entry, value: Any) -> Any:
    """The value with the type that a sampler would propose."""
    if isinstance(entry, Choices):
        return next(choice for choice in entry.choices if _same(choice, value))
    return int(value) if takes_integers(path) else float(value)


def _same(choice: Any, value: Any) -> bool:
    """Whether a choice is meant: 1 is 1.0, but not true."""
    return choice == value and isinstance(choice, bool) == isinstance(value, bool)
