"""`SweepSpec`: what a sweep trains and how it searches, frozen and validated before anything is spent.

Validation is eager: every size, every extreme value of the space and every experiment must make a valid run, so that no
trial fails an hour later because of its config. Neither torch nor Optuna is imported.
"""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lmcore.config import FIELD_ROLES, Config, DataConfig, ModelConfig, OptimConfig, RunSpec, TrainConfig, flatten
from lmcore.corpus.text_files import STDLIB
from lmcore.corpus.windows import final_window_count
from lmcore.runfile import yaml_file
from lmcore.runfile.paths import (
    BUDGET,
    RUN_DEFAULTS,
    ClashError,
    FieldError,
    apply,
    apply_at,
    describe,
    layered,
    sets_budget,
    show,
    unknown,
)
from lmcore.runfile.run_file import ONLY_SIZE
from sweeps.spec import budgets
from sweeps.spec import space as spaces
from sweeps.spec import transfer as transfers
from sweeps.spec.arms import SEED_PATHS, Arm, ConfirmConfig, StudyPlan, arms_of, check_studies
from sweeps.spec.ladder import LadderConfig, with_sizes
from sweeps.spec.settings import SearchConfig, TrackingConfig, absolute_url
from sweeps.spec.sizes import Experiment, Name, Size, check_unique_names
from sweeps.spec.start_with import check_start_with

DEFAULT_TRIALS = 16
ENDLESS = 2**62
"""Tokens of validation data whose number is not known yet."""
BRANCHES = "train.branches"
BRANCHING = ("optim.warmup_fraction", "optim.decay_fraction")
"""Fields that decide, with the budget, which branches a run can have."""
MANY_TRIALS = 10**6
"""Stands for as many trials as fit in search.time, which nobody knows beforehand."""


class SweepSpec(Config):
    """A whole sweep: the base run, what varies, and how it is searched.

    >>> spec = SweepSpec(name="quick", space={"optim.lr": {"low": 3e-4, "high": 3e-2, "log": True}})
    >>> spec.run_for("main", {"optim.lr": 0.01}).optim.lr
    0.01
    """

    name: Name
    """Name of the sweep, and of its folder in runs/; up to 64 characters, by default the name of the file."""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Remarks kept with the sweep, for instance which fields `--set` removed from the space."""
    data: DataConfig = DataConfig()
    """Text or tokens that every trial trains and validates on."""
    model: ModelConfig = ModelConfig()
    """Architecture of the base run, which sizes, the space and experiments override."""
    train: TrainConfig = TrainConfig()
    """Length, batches and device of the base run."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and learning rate schedule of the base run."""
    search: SearchConfig = SearchConfig()
    """How hyperparameters are proposed and which trials are stopped early."""
    space: spaces.Space = Field(default_factory=dict)
    """Range or choices of each field that is searched, by dotted path such as optim.lr; choices of several fields at
    once, by a name such as width; and fields that are computed from others. Experiments do not use it."""
    sizes: Annotated[tuple[Size, ...], Field(strict=False)] = ()
    """Named sizes of the model, each searched in its own study; without any, the base run is the only size, main."""
    ladder: LadderConfig | None = None
    """Makes the sizes, from small to large, instead of listing them; null means none."""
    transfer: Literal["on", "off"] | None = None
    """Whether each size learns from those before it, which must be smaller: its first trials are at the settings that
    the optima of smaller sizes predict, and it has half as many trials. null: on with a ladder, off otherwise."""
    compare: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Entries of the space whose choices are compared, by dotted path or name. Each combination of their values is an
    arm, which has a study of its own for each size, and its share of the trials."""
    confirm: ConfirmConfig = ConfirmConfig()
    """How the best settings are trained again under new seeds, so that the result is not what was selected on."""
    experiments: Annotated[tuple[Experiment, ...], Field(strict=False)] = ()
    """Named overrides that search.method: experiments trains, once for each size."""
    tracking: TrackingConfig = TrackingConfig()
    """Where report rows are copied to while the sweep runs."""

    @model_validator(mode="before")
    @classmethod
    def _with_sizes(cls, values: Any) -> Any:
        return with_sizes(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _valid_as_a_whole(self) -> Self:
        self._check_base()
        if self.vocab_size_known and self.data.vocab_size is not None:
            self._check_vocab_size(self.data.vocab_size)
        check_unique_names("sizes", self.sizes)
        check_unique_names("experiments", self.experiments)
        self._check_paths()
        self._check_runs()
        self._check_search()
        transfers.check(self)
        check_studies(self)
        check_start_with(self)
        budgets.check(self)
        return self

    @property
    def transfers(self) -> bool:
        """Whether sizes learn from smaller ones."""
        if self.transfer is None:
            return self.ladder is not None and transfers.why_off(self) is None
        return self.transfer == "on"

    @property
    def base(self) -> RunSpec:
        """The run that sizes and trials override."""
        return RunSpec(data=self.data, model=self.model, train=self.train, optim=self.optim)

    @property
    def size_names(self) -> tuple[str, ...]:
        """Names of the sizes, in order; `("main",)` if none are listed."""
        return tuple(size.name for size in self.sizes) or (ONLY_SIZE,)

    @property
    def vocab_size_known(self) -> bool:
        """Whether model.vocab_size is final. If not, `with_vocab_size` sets it once the data has been read."""
        return "vocab_size" in self.model.model_fields_set

    def with_vocab_size(self, vocab_size: int) -> "SweepSpec":
        """This spec for data with a vocabulary of `vocab_size` tokens. FieldError if model.vocab_size is smaller."""
        if self.vocab_size_known:
            self._check_vocab_size(vocab_size)
            return self
        model = {**self.model.model_dump(), "vocab_size": vocab_size}
        return SweepSpec.model_validate({**dict(self), "model": model})

    def single(self, name: str, run: RunSpec) -> "SweepSpec":
        """A sweep called `name` that trains `run` alone, to its end."""
        once = {"method": "random", "trials": 1, "scheduler": "none", "storage": None, "time": None, "stop_at": None}
        once["start_with"] = ()
        alone: dict[str, Any] = {"name": name, "ladder": None, "transfer": None, "space": {}}
        alone |= {"notes": (), "sizes": (), "experiments": (), "compare": ()}
        search = {**self.search.model_dump(), **once}
        return SweepSpec.model_validate({**dict(self), **dict(run), **alone, "search": search, "confirm": {"top": 0}})

    def absolute(self) -> "SweepSpec":
        """This spec with absolute paths to its data, studies and MLflow's file, valid from any working directory."""
        sources = {"source": self.data.source, "val_source": self.data.val_source}
        paths = {name: path if path == STDLIB else _absolute(path) for name, path in sources.items()}
        data = self.data.model_copy(update={**paths, "tokenizer": _absolute(self.data.tokenizer)})
        search = self.search.model_copy(update={"storage": absolute_url(self.search.storage)})
        tracking = self.tracking.model_copy(update={"mlflow": absolute_url(self.tracking.mlflow)})
        return self.model_copy(update={"data": data, "search": search, "tracking": tracking})

    def experiment(self, name: str) -> dict[str, Any]:
        """Overrides of an experiment by dotted path. KeyError for an unknown name."""
        return {experiment.name: experiment.overrides for experiment in self.experiments}[name]

    def run_for(self, size_name: str, overrides: Mapping[str, Any]) -> RunSpec:
        """The run of one trial: the base run, then the size's overrides, then the trial's. FieldError if not valid.

        Its budget is in train.steps. If trials of the size may have different batches, it has train.eval_tokens, so
        that all report at equal tokens. If they may train on different numbers of tokens, by rounding or by choice,
        train.final_eval_windows is a number, so that all are evaluated on the same windows.
        """
        run = self.unresolved_run(size_name, overrides)
        batches_vary = budgets.batches_vary(self)
        if batches_vary or self.search.allow_unequal_budgets:
            base = self.unresolved_run(size_name, {})
            train = run.train.model_copy(update={"final_eval_windows": _final_windows(base)})
            if batches_vary and not self.search.allow_unequal_budgets and train.eval_tokens is None:
                tokens = base.train.eval_every * base.tokens_per_step
                train = train.model_copy(update={"eval_tokens": tokens})
            run = run.model_copy(update={"train": train})
        return run.in_steps()

    def unresolved_run(self, size_name: str, overrides: Mapping[str, Any]) -> RunSpec:
        """`run_for` with the budget as it was given."""
        return apply(self.base, layered(self._size_overrides(size_name), overrides))

    def layout(self, size_name: str) -> spaces.Layout:
        """What makes overrides of the proposals for the whole space, in one size."""
        return spaces.Layout(self.space, self._fields(size_name, {}))

    def study_layout(self, plan: StudyPlan) -> spaces.Layout:
        """What makes overrides of the proposals of one study, besides those of its arm."""
        return spaces.Layout(self.searched, self._fields(plan.size, plan.arm.overrides))

    def arm_run(self, plan: StudyPlan) -> RunSpec:
        """A run of a study: that of the first values in its part of the space, or of the first experiment."""
        if self.search.method == "experiments":
            return self.run_for(plan.size, plan.arm.overrides)
        first = self.study_layout(plan).overrides(next(spaces.corners(self.searched)))
        return self.run_for(plan.size, {**plan.arm.overrides, **first})

    def _fields(self, size_name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Every field of `unresolved_run`, which need not be valid before the space is applied."""
        above = layered(self._size_overrides(size_name), overrides)
        cleared = dict.fromkeys(BUDGET) if sets_budget(above) else {}
        return {**flatten(self.base), **cleared, **above}

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that `compare` makes, in order; one without a name if there is no `compare`."""
        return arms_of(self.compare, {path: spaces.choices_of(self.space[path]) for path in self.compare})

    @property
    def studies(self) -> tuple[StudyPlan, ...]:
        """The search studies, one for each size and arm."""
        return tuple(StudyPlan(size, arm) for size in self.size_names for arm in self.arms)

    @property
    def confirmations(self) -> tuple[StudyPlan, ...]:
        """The studies of confirmation runs; none if nothing is confirmed."""
        return tuple(plan.confirmation for plan in self.studies) if self.confirm.top else ()

    @property
    def searched(self) -> spaces.Space:
        """The part of the space that each study searches: without the compared fields."""
        return {path: entry for path, entry in self.space.items() if path not in self.compare}

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """The seeds of confirmation runs: the smallest that no run of the search may have."""
        sections = (*(size.overrides for size in self.sizes), *(one.overrides for one in self.experiments))
        used = {
            self.train.seed,
            self.data.seed,
            *(section[path] for section in sections for path in SEED_PATHS if path in section),
        }
        for path in SEED_PATHS:
            used |= spaces.whole_numbers_at(self.space, path)
        return tuple(itertools.islice((n for n in itertools.count() if n not in used), self.confirm.seeds))

    def study_name(self, plan: StudyPlan) -> str:
        """Name of a study in Optuna: after the sweep's name where sweeps may share a storage."""
        return plan.name if self.search.storage is None else f"{self.name}/{plan.name}"

    def longest_context(self) -> int:
        """T of the size with the longest context, in tokens."""
        return max(self.run_for(size_name, {}).model.context_length for size_name in self.size_names)

    def trials_in(self, plan: StudyPlan) -> int:
        """Number of trials of a search study: its share of search.trials, but no more than a grid or list has.

        MANY_TRIALS if `as_many_as_fit`.
        """
        if self.as_many_as_fit:
            return MANY_TRIALS
        total, studies = self.search.trials or DEFAULT_TRIALS, self.studies
        if self.transfers:
            counts = transfers.trials_by_size(total, len(self.size_names), len(self.arms))
            return counts[self.size_names.index(plan.size)][self.arms.index(plan.arm)]
        share = total // len(studies) + (studies.index(plan) < total % len(studies))
        if self.search.method not in ("experiments", "grid"):
            return share
        fields = self._fields(plan.size, plan.arm.overrides)
        listed = len(self.experiments if self.search.method == "experiments" else spaces.grid(self.searched, fields))
        return listed if self.search.trials is None else min(share, listed)

    @property
    def as_many_as_fit(self) -> bool:
        """Whether search.time alone limits the number of trials."""
        listed = self.search.method in ("experiments", "grid")
        return self.search.time is not None and self.search.trials is None and not listed

    def trials_of(self, size_name: str) -> int:
        """Number of trials of the search of one size, in all arms."""
        return sum(self.trials_in(plan) for plan in self.studies if plan.size == size_name)

    def confirm_runs_of(self, size_name: str) -> int:
        """Most confirmation runs of one size: those of a race in which nobody is beaten."""
        plans = [plan for plan in self.studies if plan.size == size_name]
        if self.search.method == "experiments":
            return self.confirm.seeds * sum(map(self.trials_in, plans)) if self.confirm.top else 0
        return sum(min(self.confirm.top, self.trials_in(plan)) * self.confirm.seeds for plan in plans)

    @property
    def most_trials(self) -> int:
        """Number of trials of the whole sweep, if no confirmation run is left out."""
        return sum(self.trials_of(size) + self.confirm_runs_of(size) for size in self.size_names)

    def startup_trials(self, plan: StudyPlan) -> int:
        """Number of trials of a study that are spread over the space before its model-based search starts."""
        if self.transfers and plan.size != self.size_names[0]:
            return 1  # its first trials are those that smaller sizes predict
        return self.search.startup_trials or min(max(4, self.trials_in(plan) // 4), 10)

    def grace_steps(self, size_name: str) -> int:
        """Number of updates before which no trial of one size is stopped early."""
        train = self.run_for(size_name, {}).train
        assert train.steps is not None  # run_for resolves the budget
        return self.search.grace_steps or max(round(train.steps / 4 / train.eval_every), 1) * train.eval_every

    def _size_overrides(self, size_name: str) -> dict[str, Any]:
        overrides = {size.name: size.overrides for size in self.sizes} or {ONLY_SIZE: {}}
        return overrides[size_name]

    def _check_vocab_size(self, vocab_size: int) -> None:
        if self.model.vocab_size < vocab_size:
            rule = f"must be >= the data's vocabulary of {vocab_size} (got {self.model.vocab_size})"
            raise FieldError("model.vocab_size", f"{rule}; raise it, or leave it out")

    def _check_base(self) -> None:
        """The base run must be valid as a whole."""
        try:
            _ = self.base
        except ValidationError as error:
            raise describe(error) from None

    def _check_paths(self) -> None:
        """Every path must name a field that may vary, and no size (but any experiment) may set one that is searched."""
        for name, entry in self.space.items():
            joint = isinstance(entry, spaces.JointChoices)
            for path in spaces.paths_of(name, entry):
                _check_may_vary("space", f"space.{name}.choices.{path}" if joint else f"space.{name}", path)
            spaces.check_entry(name, entry)
        layout = spaces.Layout(self.space)
        if len(searched := [path for path in BUDGET if path in layout.owners]) > 1:
            rule = f"must be the only budget that is searched (got space.{layout.owners[searched[0]]} too)"
            raise FieldError(f"space.{layout.owners[searched[1]]}", f"{rule}; remove one of them")
        spaces.check_references(layout)
        spaces.check_combinations(self.space)
        for variant in (*self.sizes, *self.experiments):
            section = "sizes" if isinstance(variant, Size) else "experiments"
            for path, value in variant.overrides.items():
                place = f"{section}.{variant.name}.{path}"
                _check_may_vary(section, place, path)
                same = BUDGET if path in BUDGET else (path,)
                owners = [layout.owners[other] for other in same if other in layout.owners]
                if section == "sizes" and owners:
                    raise FieldError(place, f"must not be searched too (got {show(value)}); remove space.{owners[0]}")

    def _check_runs(self) -> None:
        """Every size must make a valid run, also with every corner of the space and with every experiment."""
        never = {name for name, entry in self.space.items() if entry.when is not None}
        for name in self.size_names:
            run = _apply_listed(self.base, self._size_overrides(name), f"sizes.{name}")
            layout = self.layout(name)
            for corner in (*spaces.corners(self.space), *self._branch_corners()):
                overrides = layout.overrides(corner)
                try:
                    apply(run, overrides)
                except FieldError as error:
                    raise self._locate_in_space(error, layout, corner, overrides) from None
                never -= {name for name in never if layout.applies(name, corner)}
            for experiment in self.experiments:
                _apply_listed(run, experiment.overrides, f"experiments.{experiment.name}")
        for name in never:
            conditions = ", ".join(f"{path}: {show(value)}" for path, value in (self.space[name].when or {}).items())
            rule = f"must hold in some trial (got {{{conditions}}}, which holds in none)"
            raise FieldError(f"space.{name}.when", f"{rule}; correct it, or remove space.{name}")

    def _branch_corners(self) -> list[dict[str, Any]]:
        """The proposal that leaves branches the least room: the longest warm-up together with the longest decay."""
        if not self.train.branches:
            return []
        values = {name: spaces.ends(self.space[name]) for name in BRANCHING if name in self.space}
        longest = {name: max(ends) for name, ends in values.items() if ends}
        return [{**next(spaces.corners(self.space)), **longest}]

    def _locate_in_space(
        self, error: FieldError, layout: spaces.Layout, corner: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> FieldError:
        """A corner's error, moved to the entry of the space that causes it; it lists the other entries involved."""
        section = error.field.partition(".")[0]
        constrained = [path for path in spaces.CONSTRAINED if path.startswith(f"{section}.")]
        if error.field == BRANCHES:
            constrained = [*BRANCHING, "train.batch_size", *BUDGET]
        # Fields that clash with one that does not vary, as a dtype with the device, are at fault alone.
        clash = isinstance(error, ClashError) and (error.field in constrained or error.field not in overrides)
        involved = [path for path in overrides if (path in constrained if clash else path == error.field)]
        involved = involved or [*overrides]
        path = error.field if error.field in involved else involved[0]
        owner = layout.owners[path]
        entry = self.space[owner]
        given = {other: show(overrides[other]) for other in involved if layout.owners[other] != owner}
        listed = [f"space.{layout.owners[other]} gives {value}" for other, value in given.items()]
        if (expression := spaces.expression_of(entry)) is not None:
            used = {path: {**layout.fields, **overrides}[path] for path in spaces.parse(expression).paths}
            values = ", ".join(f"{path} {show(value)}" for path, value in used.items())
            listed = [f"computed from {show(expression)}{f' with {values}' if values else ''}"]
        rule = error.rule if path == error.field and owner == path else str(error)
        part = spaces.part_of_entry(entry, corner.get(owner))
        return FieldError(f"space.{owner}.{part}".rstrip("."), f"{rule} ({', '.join(listed)})" if listed else rule)

    def _check_search(self) -> None:
        """The search method must have something to run."""
        method = self.search.method
        if self.search.reproducible and self.search.time is not None:
            rule = "must be false with search.time, as how much fits in a time depends on the machine (got true)"
            raise FieldError("search.reproducible", f"{rule}; give search.trials instead of search.time")
        if method == "experiments":
            if not self.experiments:
                rule = "must list at least one for the search method experiments (got none)"
                raise FieldError("experiments", f"{rule}; add `- {{name: baseline}}`, or choose another method")
        elif all(isinstance(entry, spaces.Derived) for entry in self.space.values()) and self.search.trials != 1:
            rule = f"must name at least one field for the search method {method} (got none)"
            raise FieldError("space", f"{rule}; add `optim.lr: {{low: 3e-4, high: 3e-2, log: true}}`, or run 1 trial")
        elif method == "grid":
            spaces.check_grid(self.space)


def _final_windows(base: RunSpec) -> int:
    """The number of windows that a size's base run is evaluated on in the end, if the data have so many."""
    train, tokens = base.train, base.steps * base.tokens_per_step
    context_length = base.model.context_length
    return final_window_count(train.final_eval_windows, train.eval_windows, tokens, context_length, ENDLESS)


def dump_yaml(spec: SweepSpec) -> str:
    """The spec as YAML, with every default written out. `load_spec` reads it back as an equal spec."""
    values = spec.model_dump()
    values["space"] = {path: entry.model_dump(exclude_defaults=True) for path, entry in spec.space.items()}
    if not spec.vocab_size_known:
        del values["model"]["vocab_size"]
    return yaml_file.dump_yaml(values)


def _apply_listed(run: RunSpec, overrides: Mapping[str, Any], place: str) -> RunSpec:
    """The run with the overrides of a size or experiment. Errors name its place in the file."""
    return apply_at(run, overrides, {path: f"{place}.{path}" for path in overrides}, place)


def _check_may_vary(section: str, place: str, path: str) -> None:
    """FieldError at `place` if the field at `path` may not vary in this section: space, sizes or experiments."""
    if path not in RUN_DEFAULTS:
        raise FieldError(place, unknown(path).rule)
    if FIELD_ROLES[path] == "sweep constant" or path == "model.vocab_size":
        part, name = path.split(".")
        rule = "must not vary, so that all trials of a sweep stay comparable"
        raise FieldError(place, f"{rule}; set {name} under {part}: instead")
    if path == "model.context_length" and section != "sizes":
        rule = "must not vary within a size, whose trials are compared on the same validation windows"
        raise FieldError(place, f"{rule}; list sizes: that set model.context_length instead")


def _absolute(path: str | None) -> str | None:
    # os.path leaves the ~ of an unknown user as it is; Path.expanduser would raise.
    return None if path is None else str(Path(os.path.expanduser(path)).absolute())
