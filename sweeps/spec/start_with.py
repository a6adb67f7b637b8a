"""`search.start_with`: known good settings, which come first in every study of the search.

They are given as the values of fields, are checked against the space here, and are laid out for each study as what a
sampler would propose. `sweeps.study.open_study` enqueues them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError, show, unknown
from sweeps.spec.arms import StudyPlan
from sweeps.spec.proposals import NotApplicableError, equal_values, proposals
from sweeps.spec.settings import LISTED
from sweeps.spec.space import Derived, Entry, JointChoices, owners_of

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
    known: list[dict[str, Any]] = []
    for number, setting in enumerate(listed, 1):
        _check_names(spec, setting, number)
        try:
            fields = fields_of(spec.space, setting)
        except FieldError as error:
            raise _located(error, number) from None
        _check_setting(spec, fields, number)
        if not any(_is_searched(spec, path) for path in fields):
            rule = f"must give a field that is searched and not compared (got {show(setting)} as setting {number})"
            raise FieldError(FIELD, f"{rule}; add one, or leave it out")
        if fields in known:
            raise FieldError(FIELD, f"must not list a setting twice (got {show(setting)}); remove one")
        known.append(fields)
    for plan in spec.studies:
        settings, trials = start_settings(spec, plan), spec.trials_in(plan)
        if len(settings) > trials:
            rule = f"must not list more settings than {plan.id} has trials (got {len(settings)} for {trials})"
            raise FieldError(FIELD, f"{rule}; raise search.trials, or list fewer")


def start_settings(spec: "SweepSpec", plan: StudyPlan) -> list[dict[str, Any]]:
    """What is proposed in the first trials of a search study, by name of the entry.

    A setting with the value of a compared field is for the arms with that value alone. Of a setting, the fields of
    entries that do not apply in a study are left out there.

    >>> from sweeps.spec.sweep_spec import SweepSpec
    >>> search = {"start_with": [{"optim.lr": 0.003}]}
    >>> spec = SweepSpec(name="known", search=search, space={"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}})
    >>> start_settings(spec, spec.studies[0])
    [{'optim.lr': 0.003}]
    """
    found: list[dict[str, Any]] = []
    for setting in spec.search.start_with:
        fields = fields_of(spec.space, setting)
        if belongs(spec, fields, plan):
            values, _ = fitted(spec, fields, plan)
            if values and values not in found:
                found.append(values)
    return found


def fields_of(space: Mapping[str, Entry], setting: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a setting by path. Choices of several fields may be given by name: a label, or the fields.

    >>> width = JointChoices(choices=[{"model.d_model": 64, "model.d_ff": 176}])
    >>> fields_of({"width": width}, {"width": "d_model=64, d_ff=176", "optim.lr": 0.1})
    {'model.d_model': 64, 'model.d_ff': 176, 'optim.lr': 0.1}
    """
    fields: dict[str, Any] = {}
    for name, value in setting.items():
        new, entry = {name: value}, space.get(name)
        if isinstance(entry, JointChoices):
            if isinstance(value, Mapping) and value and value.keys() <= set(entry.paths):
                new = dict(value)
            elif isinstance(value, str) and value in entry.labels:
                new = entry.choice(value)
            else:
                choices = " or ".join(map(show, entry.labels))
                raise FieldError(name, f"must be {choices} (got {show(value)}); correct it, or add a choice")
        for path in new:
            if path in fields:
                raise FieldError(path, f"must be given once (got it by space.{owners_of(space)[path]} too); remove one")
        fields |= new
    return fields


def belongs(spec: "SweepSpec", fields: Mapping[str, Any], plan: StudyPlan) -> bool:
    """Whether the compared fields of a setting, if it has any, are those of this study."""
    arm = plan.arm.overrides
    return all(equal_values(arm[path], value) for path, value in fields.items() if path in arm)


def fitted(spec: "SweepSpec", fields: Mapping[str, Any], plan: StudyPlan) -> tuple[dict[str, Any], list[FieldError]]:
    """What is proposed in one study for a setting, and why some of its fields do not apply there.

    FieldError if a field does not fit.
    """
    searched = {path: value for path, value in fields.items() if path not in plan.arm.overrides}
    left_out: list[FieldError] = []
    while True:
        try:
            return proposals(spec.study_layout(plan), searched), left_out
        except NotApplicableError as error:
            left_out.append(error)
            del searched[error.field]


def _check_names(spec: "SweepSpec", setting: Mapping[str, Any], number: int) -> None:
    owners = owners_of(spec.space)
    for path in setting:
        if path in owners or path in spec.space:
            continue
        if path not in RUN_DEFAULTS:
            raise FieldError(FIELD, f"{path} of setting {number} {unknown(path).rule}")
        rule = f"must give fields of the space alone (got {path} in setting {number})"
        raise FieldError(FIELD, f"{rule}; add it to the space, or leave it out")


def _check_setting(spec: "SweepSpec", fields: Mapping[str, Any], number: int) -> None:
    """FieldError unless the setting fits in every study that it is for, and each of its fields applies in one."""
    plans = [plan for plan in spec.studies if belongs(spec, fields, plan)]
    if not plans:
        owners = owners_of(spec.space)
        path = next(path for path in fields if owners[path] in spec.compare)
        given = ", ".join(f"{path} {show(value)}" for path, value in fields.items() if owners[path] in spec.compare)
        choices = [
            ", ".join(show(value) for path, value in plan.arm.overrides.items() if path in fields)
            for plan in spec.studies
        ]
        rule = f"must be one of {' or '.join(dict.fromkeys(choices))}, which are compared (got {given})"
        raise FieldError(FIELD, f"{path} of setting {number} {rule}; correct it")
    nowhere: dict[str, list[FieldError]] = {}
    for plan in plans:
        try:
            for error in fitted(spec, fields, plan)[1]:
                nowhere.setdefault(error.field, []).append(error)
        except FieldError as error:
            raise _located(error, number) from None
    for errors in nowhere.values():
        if len(errors) == len(plans):
            raise _located(errors[0], number)


def _is_searched(spec: "SweepSpec", path: str) -> bool:
    name = owners_of(spec.space)[path]
    return name not in spec.compare and not isinstance(spec.space[name], Derived)


def _located(error: FieldError, number: int) -> FieldError:
    return FieldError(FIELD, f"{error.field} of setting {number} {error.rule}")
