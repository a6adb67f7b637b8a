"""`Source`: the learning curve of any run of a sweep, from recorded runs.

A run whose setting and seed were recorded gets its recorded curve. Any other gets a prediction. The curve is that of
the surrogate. Whether it diverges is decided by the five nearest recorded settings, in the length scales of the
surrogate. Where the source has several seeds of a setting, the run deviates by as much as they do, by a number that
follows from its setting and seed.
"""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from lmcore.config import RunSpec
from lmcore.errors import InputError
from lmcore.reports import next_report
from lmcore.runfile.paths import show
from sweeps.recorded.coordinates import Coordinates
from sweeps.recorded.recorded_runs import Array, RecordedRun, RecordedRuns
from sweeps.recorded.surrogate import Surrogate
from sweeps.spec.arms import SEED_PATHS
from sweeps.spec.space import Choices, Entry, JointChoices, Range, choices_at, corners, expression_of, owners_of
from sweeps.spec.sweep_spec import SweepSpec

NEIGHBOURS = 5
LEAST_RUNS = 8
"""Complete settings without which nothing is predicted."""
FEW_LEVELS = 8
"""A field with at most so many recorded values, which is not searched, must have one of them."""
BEYOND = 0.05
"""How far, as a part of the recorded range, a space may reach beyond it without a note."""
SAME = 1e-9
"""Settings that differ by at most so much of the recorded range are the same."""


@dataclass
class Curve:
    """The losses of one run at its reports.

    >>> Curve(np.array([0.5, 1.0]), np.array([4.0, 3.0]), None, recorded=True).at(1.0)
    3.0
    """

    shares: Array
    """What part of the run each report comes after, ascending, [S]."""
    losses: Array
    """Nats per token, NaN from where it diverges, [S]."""
    final: float | None
    """Loss of the final evaluation, if the source has such losses."""
    recorded: bool
    """Whether it was recorded rather than predicted."""
    rest: "Callable[[], Curve] | None" = None
    """The prediction of the whole curve, where the recorded one ends early."""

    def at(self, share: float) -> float:
        """The loss after this part of the run; between reports the logarithm of the loss is interpolated."""
        if share > self.shares[-1] + SAME and self.rest is not None:
            self._append(self.rest())
        at = int(np.searchsorted(self.shares, share - SAME))
        if at < len(self.shares) and self.shares[at] <= share + SAME:
            return float(self.losses[at])
        finite = np.isfinite(self.losses)
        if not finite[: at + 1].all() or not finite.any():
            return float("nan")
        return float(np.exp(np.interp(share, self.shares[finite], np.log(self.losses[finite]))))

    def _append(self, whole: "Curve") -> None:
        """Continue with a predicted curve, shifted so that it goes through the last recorded loss."""
        self.rest = None
        factor = self.losses[-1] / whole.at(float(self.shares[-1]))
        later = whole.shares > self.shares[-1] + SAME
        self.losses = np.concatenate([self.losses, whole.losses[later] * factor])
        self.shares = np.concatenate([self.shares, whole.shares[later]])
        self.final = None if whole.final is None else whole.final * factor
        self.recorded = False


class Source:
    """Curves for the runs of sweeps, from recorded runs. What has been fitted is kept for the next sweep.

    Example:
        source = Source(read_table(Path("curves.parquet"), {}))
        source.check(spec)  # raises InputError if it cannot tell the losses of this sweep
        source.curve("main", spec.run_for("main", {"optim.lr": 0.01})).at(0.5)
    """

    def __init__(self, recorded: RecordedRuns) -> None:
        self.recorded = recorded
        self._subsets: dict[Any, _Subset] = {}
        self._of_size: dict[str, _Subset] = {}

    def check(self, spec: SweepSpec) -> list[str]:
        """Choose the recorded runs for each size of the sweep whose curves are asked for next; returns notes.

        Raises InputError if the source lacks a field, a value or a size of the sweep, or curves that it needs.
        """
        if spec.search.scheduler != "none" and not self.recorded.has_curves:
            rule = f"stops trials by their learning curves, and {self.recorded.source} has only final losses"
            raise InputError(f"search.scheduler: {rule} (got {spec.search.scheduler}); use --scheduler none")
        searched, notes = self._check_space(spec), []
        self._of_size = {}
        for size in spec.size_names:
            key, dimensions, runs = self._select(spec, size, searched)
            if key not in self._subsets:
                self._subsets[key] = _Subset(self.recorded.source, runs, dimensions)
            subset = self._of_size[size] = self._subsets[key]
            notes += [note for note in _range_notes(spec, subset.coordinates, size) if note not in notes]
        return [*self.recorded.notes, *notes]

    def curve(self, size: str, run: RunSpec) -> Curve:
        """The curve of a run of the sweep that was checked last."""
        return self._of_size[size].curve(run)

    def next_report(self, run: RunSpec, step: int) -> int:
        """The step of the report after `step`: as in a real run, or the run's end if only final losses are known."""
        return next_report(run, step) if self.recorded.has_curves else run.steps

    def expected_loss(self, size: str, run: RunSpec) -> float:
        """The loss that the setting ends with on average over seeds: NaN if it mostly diverges."""
        return self._of_size[size].expected_loss(run)

    @property
    def r2(self) -> dict[str, float]:
        """R2 of final losses, each predicted from all other settings, by size; of sizes that needed a prediction."""
        return {size: subset.surrogate.r2 for size, subset in self._of_size.items() if "surrogate" in vars(subset)}

    def _check_space(self, spec: SweepSpec) -> dict[str, str]:
        """Where in the file each field that trials vary is named, by path."""
        if spec.search.method == "experiments":
            searched = {p: f"experiments.{e.name}.{p}" for e in spec.experiments for p in e.overrides}
        else:
            searched = {path: f"space.{name}" for path, name in owners_of(spec.space).items()}
        searched = {path: place for path, place in searched.items() if path not in SEED_PATHS}
        for path, place in searched.items():
            if path not in self.recorded.paths:
                rule = f"{self.recorded.source} must tell the value of {path} of its runs, and has no column for it"
                raise InputError(f"{place}: {rule}; add --column {path}=COLUMN, or do not vary it")
        return searched

    def _select(
        self, spec: SweepSpec, size: str, searched: Mapping[str, str]
    ) -> tuple[Any, tuple[str, ...], list[RecordedRun]]:
        """A key, the fields that are coordinates, and the runs that agree with the size in all other fields."""
        runs, source = list(self.recorded.runs), self.recorded.source
        names = list(dict.fromkeys(run.size for run in runs if run.size is not None))
        if names:
            runs = [run for run in runs if run.size == size]
            if not runs:
                rule = f"must be sizes that {source} has runs of, {', '.join(names)} (got {size})"
                raise InputError(f"sizes: {rule}; list sizes of these names, or give another source")
        base = spec.run_for(size, {})
        if self.recorded.steps_known and "train.batch_size" not in searched:
            lengths = sorted({run.last_step for run in runs})
            if base.steps not in lengths:
                rule = f"must be what the runs of {source} were trained for, {_shown(lengths)} (got {base.steps})"
                raise InputError(f"train.steps: {rule}; add --set train.steps={lengths[-1]}")
            runs = [run for run in runs if run.last_step == base.steps]
        dimensions, fixed = [], []
        for path in self.recorded.paths:
            levels = list(dict.fromkeys(run.setting[path] for run in runs))
            if path in searched:
                self._check_values(spec, path, searched[path], levels)
                dimensions.append(path)
                continue
            value = value_at(base, path)
            if len(levels) > FEW_LEVELS and _is_number(value) and min(levels) <= value <= max(levels):
                dimensions.append(path)
                continue
            matching = [run for run in runs if _same(run.setting[path], value)]
            if not matching:
                where = f"{path}" if size not in {one.name for one in spec.sizes} else f"{path} of size {size}"
                rule = f"must be a value that {source} has runs with, {_shown(levels)} (got {show(value)})"
                raise InputError(f"{where}: {rule}; add --set {path}={show(levels[0])}, or give another source")
            runs = matching
            fixed.append((path, repr(value)))
        return (size if names else None, base.steps, tuple(dimensions), tuple(fixed)), tuple(dimensions), runs

    def _check_values(self, spec: SweepSpec, path: str, place: str, levels: list[Any]) -> None:
        """InputError if trials may have a value of the field about which the recorded runs say nothing."""
        source = self.recorded.source
        values = _listed_values(spec, path)
        if len(levels) < 2 and not (len(values) == 1 and _same(levels[0], values[0])):
            rule = f"must be a field that differs between the runs of {source} (all have {show(levels[0])})"
            raise InputError(f"{place}: {rule}; do not vary it, or give another source")
        for value in values:
            if not (all(map(_is_number, levels)) and _is_number(value)) and value not in levels:
                rule = f"must be values that {source} has runs with, {_shown(levels)} (got {show(value)})"
                raise InputError(f"{place}: {rule}; leave that one out, or give another source")


class _Subset:
    """The recorded runs of one size, and what was learnt from them."""

    def __init__(self, source: str, runs: list[RecordedRun], dimensions: tuple[str, ...]) -> None:
        self._source = source
        self._dimensions = dimensions
        self.coordinates = Coordinates([run.setting for run in runs], dimensions)
        by_point: dict[bytes, list[RecordedRun]] = defaultdict(list)
        points: dict[bytes, Array] = {}
        for run in runs:
            point = self.coordinates.of(run.setting)
            key = point.round(9).tobytes()
            points.setdefault(key, point)
            by_point[key].append(run)
        self._points = np.stack(list(points.values()))
        self._runs = list(by_point.values())

    def curve(self, run: RunSpec) -> Curve:
        point, seed = self._point(run), run.train.seed
        for one in self._recorded_at(point):
            if one.seed is None or one.seed == seed:
                ends = one.diverged or one.complete
                rest = None if ends else functools.partial(self._predicted, point, seed, after=float(one.shares[-1]))
                return Curve(one.shares, one.losses, one.final_loss, recorded=True, rest=rest)
        return self._predicted(point, seed)

    def expected_loss(self, run: RunSpec) -> float:
        point = self._point(run)
        ended = [_last(one) for one in self._recorded_at(point) if one.diverged or one.complete]
        if ended:
            finite = [loss for loss in ended if np.isfinite(loss)]
            return float(np.mean(finite)) if len(finite) > len(ended) / 2 else float("nan")
        if self._divergence(point)[0] > 0.5:
            return float("nan")
        return float(np.exp(self.surrogate.predict(point)[-1]))

    @functools.cached_property
    def surrogate(self) -> Surrogate:
        """Fitted when a loss is first predicted."""
        means = self._mean_curves
        points = self._points[[i for i, _ in means]]
        if len(points) < LEAST_RUNS or not points.shape[1]:
            rule = f"must have at least {LEAST_RUNS} complete runs to predict losses that it does not have"
            raise InputError(f"--from: {rule} (got {len(points)} in {self._source}); give another source")
        return Surrogate(points, np.stack([curve for _, curve in means]))

    def _point(self, run: RunSpec) -> Array:
        return self.coordinates.of({path: value_at(run, path) for path in self._dimensions})

    def _recorded_at(self, point: Array) -> list[RecordedRun]:
        if not self._points.shape[1]:
            return self._runs[0]
        gaps = np.abs(self._points - point).max(1)
        nearest = int(gaps.argmin())
        return self._runs[nearest] if gaps[nearest] <= SAME else []

    def _predicted(self, point: Array, seed: int, after: float = 0.0) -> Curve:
        """The prediction for a run that did not diverge in the part of it up to `after`."""
        uniform, normal = _draws(point, seed)
        log_losses = self.surrogate.predict(point) + normal * self._seed_sd
        losses = np.exp(log_losses)
        final = float(losses[-1]) if self._has_final else None
        losses = losses[: len(self._shares)]
        probability, share = self._divergence(point)
        if uniform < probability and share > after + SAME:
            losses[self._shares >= min(share, self._shares[-1]) - SAME] = np.nan
            final = None
        return Curve(self._shares, losses, final, recorded=False)

    def _divergence(self, point: Array) -> tuple[float, float]:
        """The probability that a run diverges, and after what part of it, from its neighbours."""
        rates, shares = self._divergence_rates
        if not rates.any():
            return 0.0, 1.0
        gaps = (self._points - point) / self.surrogate.scales
        nearest = np.argsort((gaps * gaps).sum(1), kind="stable")[:NEIGHBOURS]
        diverged = nearest[rates[nearest] > 0]
        share = float(np.median(shares[diverged])) if len(diverged) else 1.0
        return float(rates[nearest].mean()), share

    @functools.cached_property
    def _divergence_rates(self) -> tuple[Array, Array]:
        """For each setting: how many of its seeds diverged, and after what part of the run."""
        rates = [float(np.mean([run.diverged for run in runs])) for runs in self._runs]
        shares = [min((run.shares[-1] for run in runs if run.diverged), default=1.0) for runs in self._runs]
        return np.array(rates), np.array(shares)

    @functools.cached_property
    def _has_final(self) -> bool:
        return all(run.final_loss is not None for runs in self._runs for run in runs if run.complete)

    @functools.cached_property
    def _shares(self) -> Array:
        """The grid of reports on which curves are predicted: that of the complete run with the most reports."""
        return max(self._complete(), key=lambda run: len(run.steps)).shares

    def _complete(self) -> Iterable[RecordedRun]:
        found = [run for runs in self._runs for run in runs if run.complete]
        if not found:
            rule = f"must have at least {LEAST_RUNS} complete runs to predict losses that it does not have"
            raise InputError(f"--from: {rule} (got none in {self._source}); give another source")
        return found

    def _log_curve(self, run: RecordedRun) -> Array:
        curve = np.interp(self._shares, run.shares, np.log(run.losses))
        return np.append(curve, np.log(run.final_loss)) if self._has_final and run.final_loss else curve

    @functools.cached_property
    def _mean_curves(self) -> list[tuple[int, Array]]:
        """Index and mean log curve of each setting with a complete run."""
        self._complete()
        found = [(i, [self._log_curve(run) for run in runs if run.complete]) for i, runs in enumerate(self._runs)]
        return [(i, np.mean(curves, axis=0)) for i, curves in found if curves]

    @functools.cached_property
    def _seed_sd(self) -> Array:
        """Standard deviation of log losses between seeds of one setting; 0 if no setting has two."""
        groups = [[self._log_curve(run) for run in runs if run.complete] for runs in self._runs]
        stacked = [np.stack(group) for group in groups if len(group) > 1]
        if not stacked:
            return np.zeros(1)
        squares = sum(((group - group.mean(0)) ** 2).sum(0) for group in stacked)
        return np.asarray(np.sqrt(squares / sum(len(group) - 1 for group in stacked)))


def value_at(run: RunSpec, path: str) -> Any:
    """The value of a field of a run by its dotted path.

    >>> value_at(RunSpec(), "optim.beta1")
    0.9
    """
    section, name = path.split(".")
    return getattr(getattr(run, section), name)


def _draws(point: Array, seed: int) -> tuple[float, float]:
    """A uniform and a normal number that follow from a setting and a seed."""
    digest = hashlib.blake2b(point.round(9).tobytes() + str(seed).encode(), digest_size=16).digest()
    uniform, other = (int.from_bytes(part, "big") / 2**64 for part in (digest[:8], digest[8:]))
    return uniform, NormalDist().inv_cdf(min(max(other, 1e-12), 1 - 1e-12))


def _last(run: RecordedRun) -> float:
    return float("nan") if run.diverged else float(run.losses[-1] if run.final_loss is None else run.final_loss)


def _listed_values(spec: SweepSpec, path: str) -> list[Any]:
    """The values that trials may have of a field, if they are listed; none for a range, or if they are computed."""
    if spec.search.method == "experiments":
        return [one.overrides[path] for one in spec.experiments if path in one.overrides]
    entry = spec.space[owners_of(spec.space)[path]]
    values = [] if expression_of(entry) else list(choices_at(spec.space, path))
    if entry.when is not None and values:  # where the entry does not apply, the field has the base value
        values += [value for size in spec.size_names if (value := value_at(spec.run_for(size, {}), path)) not in values]
    return values


def _range_notes(spec: SweepSpec, coordinates: Coordinates, size: str) -> list[str]:
    """Which ranges of the space reach beyond the recorded runs."""
    notes = []
    for path, name in owners_of(spec.space).items():
        entry = spec.space[name]
        if path not in coordinates.ranges or (isinstance(entry, Choices) and entry.times is None):
            continue
        if not (numbers := _ends(spec, path, entry, size)):
            continue  # the entry applies to no trial of this size
        start, end = min(numbers), max(numbers)
        low, high = coordinates.ranges[path]
        if coordinates.scaled(path, start) < -BEYOND or coordinates.scaled(path, end) > 1 + BEYOND:
            reaches = f"space.{name} reaches" if name == path else f"{path} of space.{name} reaches"
            notes.append(
                f"{reaches} from {start:g} to {end:g}, and the recorded runs from {low:g} to {high:g}; losses beyond "
                "are extrapolated"
            )
    return notes


def _ends(spec: SweepSpec, path: str, entry: Entry, size: str) -> tuple[float, ...]:
    """Numbers that trials of a size may have in a field, the smallest and the largest as far as corners show them."""
    if isinstance(entry, Range) and entry.times is None:
        return entry.low, entry.high
    if isinstance(entry, JointChoices):
        return choices_at(spec.space, path)
    layout = spec.layout(size)
    overrides = map(layout.overrides, corners(spec.space))
    return tuple(values[path] for values in overrides if path in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(recorded: Any, value: Any) -> bool:
    if _is_number(recorded) and _is_number(value):
        return bool(abs(recorded - value) <= SAME * max(abs(recorded), abs(value)))
    return type(recorded) is type(value) and bool(recorded == value)


def _shown(levels: list[Any]) -> str:
    """A few recorded values, for a message."""
    if len(levels) > FEW_LEVELS and all(map(_is_number, levels)):
        return f"from {show(min(levels))} to {show(max(levels))}"
    shown = ", ".join(map(show, levels[:FEW_LEVELS]))
    return f"{shown}, ..." if len(levels) > FEW_LEVELS else shown
