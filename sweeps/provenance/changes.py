"""What may change when a sweep is resumed, and why the rest may not.

The trials that have ended stay in the sweep, its ranking and its tables. So a change is accepted if new trials remain
comparable with them: how settings are proposed, where they are searched, when trials are stopped early, how many there
are. Samplers see earlier trials through `sweeps.study.space_view`.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from lmcore.config import flatten
from lmcore.errors import InputError
from lmcore.runfile.paths import BUDGET, RUN_DEFAULTS, show
from sweeps.spec import space as spaces
from sweeps.spec.arms import StudyPlan
from sweeps.spec.settings import LISTED, TrackingConfig, strip_password
from sweeps.spec.sweep_spec import SweepSpec

COMPARABLE = "so that new trials are comparable with earlier ones"
SCHEDULE = "because the schedule of earlier trials ends there and ended trials are final"
FREE = (
    *(f"search.{name}" for name in ("trials", "time", "stop_at", "slots", "hung_after_s")),
    *(f"search.{name}" for name in ("seed", "startup_trials", "scheduler", "grace_steps", "reduction_factor")),
    "train.log_every",
    "confirm",
    "transfer",
    "ladder",  # what matters is which sizes it makes
    *(f"tracking.{name}" for name in TrackingConfig.model_fields),
    "notes",
)
"""Fields that may have any other value. `search.trials` and `confirm` may not shrink."""
REASONS = {
    **dict.fromkeys(BUDGET, SCHEDULE),
    "name": "as it is the name of the folder and of the studies",
    "compare": "because each arm has studies of its own, among which its trials have been dealt out",
    "search.storage": "because the studies of earlier trials are there",
    "search.reproducible": "because earlier decisions were made in another order",
    "search.allow_unequal_budgets": "because it decides how earlier trials were evaluated",
}
"""Why a field that may not change must stay, if not to be COMPARABLE."""
VARIED = "must be given the value at which it stays, because it has varied"
COMPUTED = "must be given the value at which it stays, because it was computed"


def _method(begun: SweepSpec, spec: SweepSpec) -> str | None:
    for method in (begun.search.method, spec.search.method):
        if method in LISTED:
            return f"because the trials of the method {method} are listed when a sweep starts, not proposed"
    return None


def _concurrent(begun: SweepSpec, spec: SweepSpec) -> str | None:
    if begun.search.reproducible:
        return "because what is decided in a reproducible sweep follows from it"
    return None


def _sizes(begun: SweepSpec, spec: SweepSpec) -> str | None:
    now = {size.name: size.overrides for size in spec.sizes}
    kept = {size.name: size.overrides for size in begun.sizes}
    if not begun.sizes or any(now.get(name) != overrides for name, overrides in kept.items()):
        return "as sizes may be added, but those that have trials stay what they are"
    return None


def _experiments(begun: SweepSpec, spec: SweepSpec) -> str | None:
    if spec.experiments[: len(begun.experiments)] != begun.experiments:
        return "as experiments may be added at the end of the list, but those that have trials stay what they are"
    return None


CONDITIONAL: dict[str, Callable[[SweepSpec, SweepSpec], str | None]] = {
    "search.method": _method,
    "search.concurrent": _concurrent,
    "sizes": _sizes,
    "experiments": _experiments,
}
"""Fields for which it depends on both values; each function returns the reason for a refusal."""


def may_change(path: str) -> bool:
    """Whether there is a change of this field, or of what is in this section, that a resume accepts.

    >>> may_change("search.method"), may_change("space.optim.lr"), may_change("train.steps")
    (True, True, False)
    """
    section = path.partition(".")[0]
    return any(name in FREE or name in CONDITIONAL or name == "space" for name in (path, section))


def check_changes(begun: SweepSpec, spec: SweepSpec, given: Collection[str]) -> None:
    """Raise InputError, with the reason, if a sweep may not go on as `spec`.

    Args:
        begun: what the sweep is.
        spec: what it would be.
        given: paths of the run whose value the user has given now.

    >>> begun = SweepSpec(name="a", space={"optim.lr": {"low": 1e-3, "high": 1e-1}})
    >>> check_changes(begun, begun.model_copy(update={"compare": ("optim.lr",)}), given=())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lmcore.errors.InputError: compare: must stay (), because each arm has studies of its own, ...
    """
    for path, before, after, reason in refusals(begun, spec, given):
        rule = f"must stay {show(before)}, {reason} (got {show(after)})"
        remedy = "start a new sweep with another --name"
        missing = _left_open(path.removeprefix("space."), begun, spec, given) if path.startswith("space.") else []
        if missing and reason in (VARIED, COMPUTED):
            rule = f"{reason} (got {'an entry less' if after is None else show(after)})"
            remedy = f"add {' '.join(f'--set {one}=...' for one in missing)}, or leave the entry in"
        raise InputError(f"{path}: {rule}; {remedy}")
    _check_not_fewer(begun, spec)


def refusals(begun: SweepSpec, spec: SweepSpec, given: Collection[str]) -> Iterator[tuple[str, Any, Any, str]]:
    """Path, value before, value after and reason of each change that is refused."""
    before, after = flat(begun), flat(spec)
    after["search.storage"] = strip_password(after["search.storage"])  # sweep.yaml keeps none
    for path in dict.fromkeys([*before, *after]):
        then, now = before.get(path), after.get(path)
        if then != now and (reason := _reason(path, begun, spec, given)) is not None:
            yield path, then, now, reason
    yield from _side_effects(begun, spec)


def _reason(path: str, begun: SweepSpec, spec: SweepSpec, given: Collection[str]) -> str | None:
    """Why the field at `path`, whose values differ, must stay; None if it may change."""
    if path in FREE:
        return None
    if path in CONDITIONAL:
        return CONDITIONAL[path](begun, spec)
    if path.startswith("space."):
        return _space_reason(path.removeprefix("space."), begun, spec, given)
    if path in RUN_DEFAULTS and path not in BUDGET:
        then, now = _entry_at(begun, path), _entry_at(spec, path)
        # The base value of a field that is searched is used by no trial, before or from now on, if the entry always
        # applies. One that is not searched any more gets a value: `_space_reason` asks for it.
        used_before = then is None or then.when is not None
        used_now = now is not None and now.when is not None
        if (then is not None or now is not None) and not (used_before and used_now):
            return None
    return REASONS.get(path, COMPARABLE)


def _entry_at(spec: SweepSpec, path: str) -> spaces.Entry | None:
    """The entry of the space that sets the field at `path`."""
    owner = spaces.owners_of(spec.space).get(path)
    return None if owner is None else spec.space[owner]


def _space_reason(name: str, begun: SweepSpec, spec: SweepSpec, given: Collection[str]) -> str | None:
    """Why the entry of the space called `name`, which differs, must stay; None if it may change."""
    then, now = begun.space.get(name), spec.space.get(name)
    method = begun.search.method
    if method == "experiments":
        return None  # experiments do not use the space
    sets = {path for entry in (then, now) if entry is not None for path in spaces.paths_of(name, entry)}
    if sets & set(BUDGET) and (then is None or now is None or _dependence(then) != _dependence(now)):
        return SCHEDULE
    if method == "grid" and not _keeps_grid(begun, spec):
        return "as a grid may grow, but the points that it has stay in it"
    if name in begun.compare and then is not None and now is not None:
        if any(choice not in spaces.choices_of(now) for choice in spaces.choices_of(then)):
            return "as arms may be added, but those that have trials stay"
        return None
    if isinstance(now, spaces.Derived) and (then is None or isinstance(then, spaces.Derived)):
        # The field was fixed or computed, and not searched, so that it had no other values.
        return None if then is None and all(_entry_at(begun, path) is not None for path in sets) else COMPARABLE
    if _left_open(name, begun, spec, given):
        return COMPUTED if isinstance(then, spaces.Derived) else VARIED
    return None


def _dependence(entry: spaces.Entry) -> tuple[Any, ...]:
    """What must stay of an entry that sets a budget: all but its values."""
    return type(entry), spaces.expression_of(entry), entry.when


def _keeps_grid(begun: SweepSpec, spec: SweepSpec) -> bool:
    """Whether every point of every grid that was begun is there, and makes the run that it made."""
    now = {plan.id: plan for plan in spec.studies}
    for plan in begun.studies:
        if plan.id in now:  # otherwise the change is refused by another name
            after = _grid_of(spec, now[plan.id])
            if not all(point in after for point in _grid_of(begun, plan)):
                return False
    return True


def _grid_of(spec: SweepSpec, plan: StudyPlan) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    layout = spec.study_layout(plan)
    return [(point, layout.overrides(point)) for point in spaces.grid(spec.searched, layout.fields)]


def _left_open(name: str, begun: SweepSpec, spec: SweepSpec, given: Collection[str]) -> list[str]:
    """The fields of an entry that varied, are not in the space any more, and have been given no value at which to stay.

    Fields that had only one value need none if they keep it.
    """
    then, owners = begun.space.get(name), spaces.owners_of(spec.space)
    if then is None:
        return []
    fields = flatten(spec.base)
    varied = then.when is not None or spaces.expression_of(then) is not None
    return [
        path
        for path in spaces.paths_of(name, then)
        if path not in owners
        and path not in given
        and (varied or spaces.choices_at(begun.space, path) != (fields[path],))
    ]


def _side_effects(begun: SweepSpec, spec: SweepSpec) -> Iterator[tuple[str, Any, Any, str]]:
    """What accepted changes change in the runs of earlier trials: with batches that vary, how they are evaluated."""
    then_seeds, now_seeds = begun.confirm_seeds, spec.confirm_seeds[: begun.confirm.seeds]
    if begun.confirm.top and then_seeds[: len(now_seeds)] != now_seeds:
        yield "confirm", then_seeds, now_seeds, "as all are confirmed under seeds that no run of the search may have"
    varied = {*spaces.owners_of(begun.space), *spaces.owners_of(spec.space)}
    added = [f"space.{name}" for name in {**begun.space, **spec.space} if (name in begun.space) != (name in spec.space)]
    now = {plan.id: plan for plan in spec.studies}
    for plan in begun.studies:
        if plan.id not in now:
            continue  # refused by another name
        runs = [one.run_for(plan.size, plan.arm.overrides).model_dump() for one in (begun, spec)]
        for section, fields in runs[0].items():
            for name, then in fields.items():
                path, value = f"{section}.{name}", runs[1][section][name]
                if then != value and path not in varied and flat(begun)[path] == flat(spec)[path]:
                    yield path, then, value, f"as {' and '.join(added) or 'the change'} would change it"


def _check_not_fewer(begun: SweepSpec, spec: SweepSpec) -> None:
    """Raise InputError if a study would get fewer trials, or the confirmation fewer runs, than it began with."""
    for name in ("top", "seeds"):
        now, then = getattr(spec.confirm, name), getattr(begun.confirm, name)
        if begun.confirm.top and now < then:
            rule = f"must not shrink, as the runs that it asked for are part of the sweep (got {now} after {then})"
            raise InputError(f"confirm.{name}: {rule}; leave it out, or raise it")
    for plan in begun.studies:
        now, then = spec.trials_in(plan), begun.trials_in(plan)
        if now < then and not begun.as_many_as_fit:
            rule = f"must not shrink (got {now} for {plan.id}, which began with {then})"
            raise InputError(f"search.trials: {rule}; leave it out, or raise it")


def flat(spec: SweepSpec) -> dict[str, Any]:
    """Values of the spec by dotted path, with each entry of the space; lists are not flattened."""
    values = spec.model_dump()
    values["space"] = {path: entry.model_dump(mode="json", exclude_defaults=True) for path, entry in spec.space.items()}
    sections = ("data", "model", "train", "optim", "search", "tracking", "space")
    flat = {f"{section}.{name}": value for section in sections for name, value in values[section].items()}
    return flat | {name: value for name, value in values.items() if name not in sections}
