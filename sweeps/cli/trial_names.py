"""What `--trial NAME` stands for: one trial, or the best of those of a size, an arm or an experiment."""

import difflib
from dataclasses import dataclass

from lmcore.errors import InputError
from lmcore.params import count_parameters
from lmcore.runfile.run_file import ONLY_SIZE
from sweeps.cli.recorded_trials import Trials
from sweeps.cli.trial_options import BEST
from sweeps.spec.sweep_spec import SweepSpec


@dataclass(frozen=True)
class Scope:
    """Some trials of a sweep, in the searches and in their confirmations."""

    size: str
    group: str | None = None
    """Id of the search study of an arm; None for all arms of the size."""
    experiment: str | None = None
    """None for all experiments of the size."""

    @property
    def label(self) -> str:
        """As messages call it."""
        if self.experiment is not None:
            return f"experiment {self.experiment}{'' if self.size == ONLY_SIZE else f' of size {self.size}'}"
        return f"size {self.size}" if self.group is None else self.group

    def trials(self, trials: Trials) -> list[str]:
        """Ids of its trials."""
        return [
            name
            for name, one in trials.items()
            if one.plan.size == self.size
            and self.group in (None, one.plan.group)
            and self.experiment in (None, one.experiment)
        ]


def resolve(name: str, spec: SweepSpec, trials: Trials, place: str) -> tuple[str | Scope, str | None]:
    """The id of the trial that `name` is, or the trials whose best it means; and a note if it has another meaning too.

    Names are, in this order: a trial's id; `best` and `best:SIZE`; an experiment, a size, an arm, or size and arm. What
    is in several sizes means the largest one; EXPERIMENT:SIZE and ARM:SIZE mean another. `place` is the run's folder.

    >>> resolve("tied", spec, trials, "runs/quick")[0]  # doctest: +SKIP
    Scope(size='s', group='s-tied', experiment=None)

    Raises InputError if nothing has the name, or several things have it.
    """
    meanings = _meanings(spec)
    others = meanings.get(name, {})
    if name in trials or name == BEST:
        what = f"trial {name}" if name in trials else "the best trial"
        note = f"--trial {name} is {what}, not the {next(iter(others))} of that name" if others else None
        return (name if name in trials else Scope(_largest(spec))), note
    if name.startswith(f"{BEST}:"):
        others = {what: scope for what, scope in meanings.get(name[5:], {}).items() if what in ("size", "size and arm")}
    if not others:
        known = [*trials, BEST, *(f"{BEST}:{size}" for size in _bests(spec)), *meanings]
        nearest = difflib.get_close_matches(name, known, 3, cutoff=0)
        rule = f"must be best, best:SIZE, an experiment, an arm, or a trial of {place} (got {name!r})"
        raise InputError(f"--trial: {rule}; the nearest are {', '.join(nearest)}")
    if len(set(others.values())) > 1:
        found = " and ".join(f"the {what} ({_unambiguous(what, scope)})" for what, scope in others.items())
        raise InputError(f"--trial: must have one meaning (got {name!r}, which is {found}); give what is in brackets")
    return next(iter(others.values())), None


def _meanings(spec: SweepSpec) -> dict[str, dict[str, Scope]]:
    """Everything that has a name but trials: by that name, and by what it is."""
    largest = _largest(spec)
    found: dict[str, dict[str, Scope]] = {}
    for one in spec.experiments if spec.search.method == "experiments" else ():
        found.setdefault(one.name, {})["experiment"] = Scope(largest, experiment=one.name)
        for size in spec.size_names:
            found.setdefault(f"{one.name}:{size}", {})["experiment"] = Scope(size, experiment=one.name)
    for size in spec.size_names:
        found.setdefault(size, {})["size"] = Scope(size)
    for plan in spec.studies:
        if plan.arm.name is not None:
            scope = Scope(plan.size, plan.group)
            found.setdefault(plan.group, {})["size and arm"] = scope
            found.setdefault(f"{plan.arm.name}:{plan.size}", {})["arm"] = scope
            if plan.size == largest:
                found.setdefault(plan.arm.name, {})["arm"] = scope
    return found


def _unambiguous(what: str, scope: Scope) -> str:
    if what == "experiment":
        return f"{scope.experiment}:{scope.size}"
    if what == "arm":
        return f"{str(scope.group).removeprefix(f'{scope.size}-')}:{scope.size}"
    return f"{BEST}:{scope.group or scope.size}"


def _largest(spec: SweepSpec) -> str:
    return max(spec.size_names, key=lambda size: count_parameters(spec.run_for(size, {}).model).total)


def _bests(spec: SweepSpec) -> list[str]:
    """What may follow `best:`."""
    return list(dict.fromkeys((*spec.size_names, *(plan.group for plan in spec.studies))))
