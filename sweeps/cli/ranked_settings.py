"""The settings of a sweep, best first, as its report ranks them; a setting is everything in a run but its seeds.

A group is what has one result: a size, an arm of it, or an experiment. Its leader is the setting that the confirmation
named; without one, the setting with the lowest mean loss over its seeds. An experiment was not selected, so all its
runs count. `analysis.tables.leaders` has the same rules for the tables, and also says who is as good as the leader.
"""

import json
import math
import statistics
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from lmcore import columns as col
from lmcore.config import FIELD_ROLES
from sweeps.cli.recorded_trials import RecordedTrial, Trials
from sweeps.spec.arms import SEED_PATHS

Basis = Literal["confirmed", "all runs", "searched"]


@dataclass(frozen=True)
class RankedSetting:
    """A setting with a finished trial."""

    trials: tuple[str, ...]
    """Ids of its complete trials: those of the search in order, then those that confirm it, from the lowest loss."""
    losses: tuple[float, ...]
    """Nats per token by seed, of the trials that count."""
    basis: Basis
    """Which trials count: those that confirm it, all of an experiment, or those of the search."""
    experiment: str | None
    instability: int
    """0; 1 if a trial that counts was stopped early or is not over; 2 if one diverged."""
    leads: bool

    @property
    def mean(self) -> float:
        """Mean loss over seeds."""
        return statistics.fmean(self.losses)

    @property
    def half(self) -> float | None:
        """Half of Student's 95 % interval of the mean; None for one seed."""
        from scipy.stats import t  # takes a second to import

        n = len(self.losses)
        if n < 2:
            return None
        return float(t.ppf(0.975, n - 1) * statistics.stdev(self.losses) / math.sqrt(n))


def ranked_settings(trials: Trials, among: Collection[str] | None = None) -> list[RankedSetting]:
    """The settings of the trials `among` (by default of all), best first: the leaders of all groups, then the others.

    >>> ranked_settings(read_trials(spec, folder))[0].trials[0]  # doctest: +SKIP
    's-untied-0000'
    """
    by_setting: dict[tuple[str, str], list[str]] = {}
    for trial_id, trial in trials.items():
        repeated = trials.get(trial.of or "", trial)
        if among is None or trial_id in among:
            by_setting.setdefault((trial.plan.group, _key(repeated)), []).append(trial_id)
    groups: dict[Hashable, list[RankedSetting]] = {}
    for (group, _), ids in by_setting.items():
        if (found := _setting(trials, ids)) is not None:
            groups.setdefault((group, found.experiment), []).append(found)
    ranked = [sorted(group, key=_order_in_group) for group in groups.values()]
    leaders = sorted((group[0] for group in ranked), key=lambda one: (one.basis != "confirmed", one.mean))
    return [*leaders, *sorted((one for group in ranked for one in group[1:]), key=_order_in_group)]


def _order_in_group(setting: RankedSetting) -> tuple[bool, int, float]:
    return not setting.leads, setting.instability, setting.mean


def _setting(trials: Trials, ids: list[str]) -> RankedSetting | None:
    """A setting from all its trials; None if none of them is complete."""
    complete = [one for one in ids if trials[one].status == col.COMPLETE and math.isfinite(trials[one].loss)]
    searched = [one for one in complete if trials[one].plan.phase == col.SEARCH]
    confirmed = [one for one in complete if trials[one].plan.phase == col.CONFIRM]
    if not complete:
        return None
    experiment = trials[ids[0]].experiment
    leads = any(trials[one].leads for one in ids)
    basis: Basis = "all runs" if experiment else "confirmed" if leads and confirmed else "searched"
    counted = {"all runs": complete, "confirmed": confirmed, "searched": searched or confirmed}[basis]
    stopped = [one for one in ids if trials[one].status not in (col.COMPLETE, col.DIVERGED, col.EXCLUDED)]
    if basis != "all runs":
        stopped = [one for one in stopped if trials[one].plan.phase == col.SEARCH]
    diverged = any(trials[one].status == col.DIVERGED for one in ids)
    return RankedSetting(
        (*searched, *sorted(confirmed, key=lambda one: trials[one].loss)),
        _by_seed([trials[one] for one in counted]),
        basis,
        experiment,
        2 if diverged else int(bool(stopped)),
        leads,
    )


def _by_seed(counted: list[RecordedTrial]) -> tuple[float, ...]:
    """A run that was repeated under the same seeds is one observation."""
    by_seed: dict[Hashable, list[float]] = {}
    for trial in counted:
        fields = _fields(trial.run)
        by_seed.setdefault(tuple(fields.get(path) for path in SEED_PATHS), []).append(trial.loss)
    return tuple(statistics.fmean(losses) for losses in by_seed.values())


def _key(trial: RecordedTrial) -> str:
    """Equal for trials whose runs differ in their seeds, or in what a sweep shares, alone."""
    fields = {path: value for path, value in _fields(trial.run).items() if FIELD_ROLES.get(path) != "sweep constant"}
    return json.dumps([trial.experiment, {k: v for k, v in fields.items() if k not in SEED_PATHS}], sort_keys=True)


def _fields(run: dict[str, Any]) -> dict[str, Any]:
    """As `lmcore.config.flatten`, of a run that was not validated."""
    return {f"{part}.{name}": value for part, fields in run.items() for name, value in dict(fields).items()}
