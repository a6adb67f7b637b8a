"""Builds a `SweepSpec` from a YAML file, then `--set`, then flags; later ones win.

Every error is one line that names the file and line, or the option, that the wrong value came from.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmcore.config import TrainConfig
from lmcore.errors import InputError
from lmcore.runfile import yaml_file
from lmcore.runfile.paths import (
    BUDGET,
    REQUIRED,
    RUN_DEFAULTS,
    FieldError,
    defaults,
    plain_types,
    show,
    unknown,
    whole_numbers,
)
from lmcore.runfile.run_file import located, resolve_vocab_size
from sweeps.spec import transfer
from sweeps.spec.arms import ConfirmConfig
from sweeps.spec.entries import same
from sweeps.spec.ladder import LadderConfig, unused_beside, with_sizes
from sweeps.spec.settings import SearchConfig, TrackingConfig
from sweeps.spec.space import Choices, Derived, Range
from sweeps.spec.sweep_spec import SweepSpec

SETTABLE: dict[str, Any] = {
    **RUN_DEFAULTS,
    **{f"search.{name}": default for name, default in defaults(SearchConfig).items()},
    **{f"tracking.{name}": default for name, default in defaults(TrackingConfig).items()},
    **{f"confirm.{name}": default for name, default in defaults(ConfirmConfig).items()},
    **{f"ladder.{name}": default for name, default in defaults(LadderConfig).items()},
    **dict.fromkeys(("name", "notes", "space", "sizes", "ladder", "transfer", "experiments", "compare"), REQUIRED),
}
"""Every dotted path that `--set` accepts, with its default. `space.<path>` and
`space.<path>.<part>` are accepted as well."""

PARTS = (*Range.model_fields, *Choices.model_fields, *Derived.model_fields)
"""Parts of an entry of the space, which `--set space.<path>.<part>` accepts."""

FLAGS = {
    "search": "search.method",
    "scheduler": "search.scheduler",
    "trials": "search.trials",
    "time": "search.time",
    "compare": "compare",
    "seed": "search.seed",
    "slots": "search.slots",
    "name": "name",
    "wandb": "tracking.wandb",
    "storage": "search.storage",
}
"""The dotted path that each command-line flag sets."""


def load_spec(path: str | Path, overrides: Sequence[str] = (), kept: bool = False, **flags: Any) -> SweepSpec:
    """Read a sweep's YAML file, then apply `--set` texts (`a.b=value`), then flags (see FLAGS; None means not given).

    A path that `--set` gives a value is removed from the space, and a budget such as train.tokens replaces the file's,
    whichever field that is in; notes say so. A sweep without a name is named after its file. Raises
    InputError if the file or an option is wrong. `kept` is for the file of a run, whose sizes stay those that its
    ladder made when it began.

    Example:
        spec = load_spec("configs/quick.yaml", ["optim.lr=1e-3"], trials=8)
    """
    source = yaml_file.read_yaml(path)
    known = {**dict.fromkeys(SweepSpec.model_fields, REQUIRED), **SETTABLE}
    set_by: dict[str, str] = {}
    notes: list[str] = []
    with located(source, known, set_by):
        draft = source.draft()
        draft.setdefault("name", Path(path).stem)
        for text in overrides:
            target, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"--set: must read PATH=VALUE (got {show(text)}); write for example optim.lr=1e-3")
            set_by[target] = f"--set {target}"
            parsed = _parse(target, value)
            _put(draft, target, parsed)
            if target in BUDGET and parsed is not None:
                notes += _replace_budget(draft, target)
        if any(path.startswith("ladder") for path in set_by):
            draft.pop("sizes", None)  # those of the ladder that a run's file was written with
        listed = draft.get("sizes") or []
        made = with_sizes({**draft, "sizes": []})["sizes"]
        if draft.get("ladder") is not None and listed and not kept and listed != made:
            rule = f"must be left out with ladder, which makes them (got {len(listed)})"
            raise FieldError("sizes", f"{rule}; remove sizes, or ladder")
        notes += [] if listed else unused_beside(draft)  # the file of a run has every field
        draft = with_sizes(draft)
        notes += _pin(draft, set_by)
        for flag, value in flags.items():
            if value is not None:
                set_by[FLAGS[flag]] = f"--{flag}"
                _put(draft, FLAGS[flag], value)
        if notes and isinstance(draft.setdefault("notes", []), list):
            draft["notes"] += notes
        resolve_vocab_size(draft)
        return _with_notes(SweepSpec.model_validate(whole_numbers(SweepSpec, draft)))


def _with_notes(spec: SweepSpec) -> SweepSpec:
    """The spec, with notes if its search method or its transfer is another than the user may expect."""
    notes = []
    if spec.search.method == "gp" and any(spec.study_layout(plan).conditional for plan in spec.studies):
        notes.append("search.method gp is tpe here, as entries of the space apply in some trials only")
    if spec.ladder is not None and spec.transfer is None and (rule := transfer.why_off(spec)) is not None:
        notes.append(f"transfer is off: it must {rule}")
    return spec.model_copy(update={"notes": (*spec.notes, *(note for note in notes if note not in spec.notes))})


def _parse(path: str, text: str) -> Any:
    """The value that `--set` gives a path. Text is taken as it stands where the field is one; `null` is none, if it may
    be none. Anything else is YAML."""
    types = plain_types(path, SweepSpec)
    if not types or not types <= {str, type(None)} or (text == "null" and type(None) in types):
        return yaml_file.parse_value(text, f"--set {path}")
    return yaml_file.parse_text(text, f"--set {path}")


def load_kept(path: str | Path, overrides: Sequence[str] = (), **flags: Any) -> SweepSpec:
    """`load_spec` for the sweep.yaml of a run's folder, which may have been written by an earlier version.

    Before search.allow_unequal_budgets there was no rule about budgets, and such a sweep goes on without one. Nor was
    there a final evaluation on more windows.

    Example:
        spec = load_kept(folder.sweep_yaml)
    """
    values = yaml_file.read_yaml(path).values
    search, train = values.get("search"), values.get("train")
    earlier = []
    if isinstance(search, dict) and "allow_unequal_budgets" not in search:
        earlier.append("search.allow_unequal_budgets=true")
    if isinstance(train, dict) and "final_eval_windows" not in train:
        # Its trials have no final evaluation: new ones are measured on the same small set of windows.
        earlier.append(f"train.final_eval_windows={train.get('eval_windows', TrainConfig().eval_windows)}")
    return load_spec(path, [*earlier, *overrides], kept=True, **flags)


def _put(draft: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in the draft of a spec. FieldError if the path cannot be set."""
    section, dot, name = path.partition(".")
    owner, _, part = name.rpartition(".")
    if section == "space" and part in PARTS and (owner in RUN_DEFAULTS or (owner and "." not in owner)):
        entries = draft.get("space")
        if not isinstance(entries, dict) or not isinstance(entries.get(owner), dict):
            rule = f"must be in the space, as low and high or choices, before a part of it is set (got {show(value)})"
            raise FieldError(path, f"{rule}; give the whole entry: --set 'space.{owner}={{...}}'")
        entries[owner] = {**entries[owner], part: value}
        return
    if path not in SETTABLE and not (section == "space" and dot):
        raise unknown(path, SETTABLE)
    values = draft.setdefault(section, {}) if dot else draft
    if not isinstance(values, dict):
        raise FieldError(section, f"must be a mapping of field names to values (got {show(values)})")
    values[name if dot else path] = value


def _replace_budget(draft: dict[str, Any], path: str) -> list[str]:
    """Remove the budgets that the one just set at `path` replaces, and return a note for each."""
    notes = []
    for section, other in ((other.split(".")[0], other) for other in BUDGET if other != path):
        name = other.split(".")[1]
        replaced, draft[section][name] = draft[section].get(name), None
        if replaced is not None:
            number = f"{replaced:.15g}" if isinstance(replaced, float) else show(replaced)
            notes.append(f"{path} is set and replaces {other} {number}")
        if isinstance(draft.get("space"), dict) and draft["space"].pop(other, None) is not None:
            notes.append(f"{path} is set and therefore {other} is not searched")
    return notes


def _pin(draft: dict[str, Any], paths: Iterable[str]) -> list[str]:
    """Remove the paths that were set from the space and return notes about it. FieldError if one has no effect."""
    notes = []
    for path in (path for path in paths if path in RUN_DEFAULTS):
        notes += _drop_conditional(draft, path)
        if isinstance(draft.get("space"), dict) and path in draft["space"]:
            entry = draft["space"].pop(path)
            searched = "computed" if isinstance(entry, dict) and "equals" in entry else "searched"
            compared = isinstance(draft.get("compare"), list) and path in draft["compare"]
            if compared:
                draft["compare"] = [other for other in draft["compare"] if other != path]
            notes.append(f"{path} is set and therefore not {'compared' if compared else searched}")
        _check_not_joint(draft.get("space"), path)
        sizes = draft["sizes"] if isinstance(draft.get("sizes"), list) else []
        same = BUDGET if path in BUDGET else (path,)
        owners = [
            str(size.get("name")) for size in sizes if isinstance(size, dict) and not size.keys().isdisjoint(same)
        ]
        if owners and len(owners) == len(sizes):
            rule = f"must not be set by every size as well (got {', '.join(owners)}), or it has no effect"
            remedy = "add --set 'sizes=[]', or change the sizes in the file"
            if draft.get("ladder") is not None:
                remedy = "add --set ladder.tokens_per_parameter=null" if path in BUDGET else "add --set ladder=null"
            raise FieldError(path, f"{rule}; {remedy}")
        if owners:
            notes.append(f"{path} is set, but {', '.join(owners)} set their own")
    return notes


def _drop_conditional(draft: dict[str, Any], path: str) -> list[str]:
    """Remove the entries of the space whose condition the value that was set at `path` does not meet, with notes."""
    space, (section, name) = draft.get("space"), path.split(".")
    given = draft[section].get(name) if isinstance(draft.get(section), dict) else None
    sizes = draft["sizes"] if isinstance(draft.get("sizes"), list) else []
    if any(isinstance(size, dict) and path in size for size in sizes):
        return []
    notes = []
    for other, entry in tuple(space.items()) if isinstance(space, dict) else ():
        when = entry.get("when") if isinstance(entry, dict) else None
        if isinstance(when, dict) and path in when:
            wanted = when[path] if isinstance(when[path], list) else [when[path]]
            if not any(same(given, value) for value in wanted):
                del draft["space"][other]
                notes.append(
                    f"{path} is set and therefore {other}, which is for {path} {show(when[path])}, is left out"
                )
    return notes


def _check_not_joint(space: Any, path: str) -> None:
    """FieldError if choices of several fields at once set a path that was set: one of them cannot be taken out."""
    for name, entry in space.items() if isinstance(space, dict) else ():
        choices = entry.get("choices") if isinstance(entry, dict) else entry
        same_field = BUDGET if path in BUDGET else (path,)
        joint = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        if any(not choice.keys().isdisjoint(same_field) for choice in joint):
            rule = f"must not be set as well, as the choices of space.{name} set it together with others"
            raise FieldError(path, f"{rule} (got both); change the choices, e.g. with --set 'space.{name}=[...]'")
