"""What a sweep is: `SweepSpec`, frozen and validated before anything is spent.

Validation is eager: every size, every extreme value of the space and every experiment must make a valid run, so that no
trial fails for its config an hour later. Neither torch nor Optuna is loaded. How a file and a command line become a
spec is in `sweeps.spec.load`; the entries of the space are in `sweeps.spec.space`, sizes and experiments in
`sweeps.spec.sizes`, the search's own settings in `sweeps.spec.settings`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lmcore.config import (
    FIELD_ROLES,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunSpec,
    TrainConfig,
)
from lmcore.corpus.text import STDLIB
from lmcore.runfile import yaml_file
from lmcore.runfile.paths import RUN_DEFAULTS, ClashError, FieldError, apply, apply_at, show, unknown
from lmcore.runfile.run_file import ONLY_SIZE
from sweeps.spec import space as spaces
from sweeps.spec.settings import SearchConfig, TrackingConfig, absolute_url
from sweeps.spec.sizes import Experiment, Name, Size, check_unique_names

DEFAULT_TRIALS = 16


class SweepSpec(Config):
    """A whole sweep: the base run, what varies, and how it is searched."""

    name: Name
    """The run's folder below runs/."""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Remarks that are kept with the sweep; `load_spec` adds what `--set` took out of the space."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    search: SearchConfig = SearchConfig()
    space: spaces.Space = Field(default_factory=dict)
    """What the search varies, by dotted path; without use for experiments."""
    sizes: Annotated[tuple[Size, ...], Field(strict=False)] = ()
    """Without any there is one size, `main`, the base run's own."""
    experiments: Annotated[tuple[Experiment, ...], Field(strict=False)] = ()
    """What `search.method: experiments` runs, for each size."""
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _valid_as_a_whole(self) -> Self:
        if self.vocab_size_known and self.data.vocab_size is not None:
            self._check_vocab_size(self.data.vocab_size)
        for section in ("sizes", "experiments"):
            check_unique_names(section, getattr(self, section))
        self._check_paths()
        self._check_runs()
        self._check_search()
        return self

    @property
    def base(self) -> RunSpec:
        """The run that sizes and trials override."""
        return RunSpec(data=self.data, model=self.model, train=self.train, optim=self.optim)

    @property
    def size_names(self) -> tuple[str, ...]:
        """Names of the sizes, in order; `("main",)` without any."""
        return tuple(size.name for size in self.sizes) or (ONLY_SIZE,)

    @property
    def vocab_size_known(self) -> bool:
        """False while model.vocab_size is a placeholder, until the data's own is known (`with_vocab_size`)."""
        return "vocab_size" in self.model.model_fields_set

    def with_vocab_size(self, vocab_size: int) -> "SweepSpec":
        """This spec for data of so many tokens; FieldError if the model was given a smaller vocabulary.

        A larger one stays: its last tokens never occur.
        """
        if self.vocab_size_known:
            self._check_vocab_size(vocab_size)
            return self
        model = {**self.model.model_dump(), "vocab_size": vocab_size}
        return SweepSpec.model_validate({**dict(self), "model": model})

    def single(self, name: str, run: RunSpec) -> "SweepSpec":
        """A sweep called `name` that trains one run and nothing else, to its end and into a study of its own."""
        search = {"method": "random", "trials": 1, "scheduler": "none", "storage": None}
        alone = {"name": name, "notes": (), "space": {}, "sizes": (), "experiments": ()}
        return SweepSpec.model_validate(
            {**dict(self), **dict(run), **alone, "search": {**self.search.model_dump(), **search}}
        )

    def absolute(self) -> "SweepSpec":
        """This spec with the paths of its data and studies made absolute, to mean the same from any directory."""
        data = self.data
        paths = {
            "source": _absolute(data.source) if data.source != STDLIB else STDLIB,
            "val_source": _absolute(data.val_source) if data.val_source != STDLIB else STDLIB,
            "tokenizer": _absolute(data.tokenizer),
        }
        search = self.search.model_copy(update={"storage": absolute_url(self.search.storage)})
        return self.model_copy(update={"data": data.model_copy(update=paths), "search": search})

    def experiment(self, name: str) -> dict[str, Any]:
        """Overrides of an experiment by dotted path; KeyError for a name that is none."""
        return {experiment.name: experiment.overrides for experiment in self.experiments}[name]

    def run_for(self, size_name: str, overrides: Mapping[str, Any]) -> RunSpec:
        """The run of one trial: base, then the size's overrides, then the trial's.

        KeyError for a name that is no size; FieldError for overrides that make no valid run.
        """
        return apply(self.base, {**self._size_overrides(size_name), **overrides})

    def study_name(self, size_name: str) -> str:
        """Name of the study of one size: the size's, preceded by the sweep's where sweeps may share a storage."""
        return size_name if self.search.storage is None else f"{self.name}/{size_name}"

    def longest_context(self) -> int:
        """T of the size that has the longest windows."""
        return max(self.run_for(size_name, {}).model.context_length for size_name in self.size_names)

    def trials_of(self, size_name: str) -> int:
        """Trials of one size: search.trials dealt out to the sizes in turn, and no more than there are to run."""
        listed, total = None, self.search.trials
        if self.search.method == "experiments":
            listed = len(self.experiments)
        elif self.search.method == "grid":
            listed = len(spaces.grid(self.space))
        elif total is None:
            total = DEFAULT_TRIALS
        if total is None:
            return listed
        place, sizes = self.size_names.index(size_name), len(self.size_names)
        dealt = total // sizes + (place < total % sizes)
        return dealt if listed is None else min(dealt, listed)

    def startup_trials(self, size_name: str) -> int:
        """Random trials of one size before its model-based search starts."""
        return self.search.startup_trials or min(max(4, self.trials_of(size_name) // 4), 10)

    def grace_steps(self, size_name: str) -> int:
        """Updates before which no trial of one size is stopped early."""
        train = self.run_for(size_name, {}).train
        return self.search.grace_steps or max(round(train.steps / 4 / train.eval_every), 1) * train.eval_every

    def _size_overrides(self, size_name: str) -> dict[str, Any]:
        if not self.sizes and size_name == ONLY_SIZE:
            return {}
        return {size.name: size.overrides for size in self.sizes}[size_name]

    def _check_vocab_size(self, vocab_size: int) -> None:
        if self.model.vocab_size < vocab_size:
            rule = f"must be >= the data's vocabulary of {vocab_size} (got {self.model.vocab_size})"
            raise FieldError("model.vocab_size", f"{rule}; raise it, or leave it out")

    def _check_paths(self) -> None:
        """Every path names a field that may vary, and no size sets what is searched.

        Experiments may: a sweep either searches the space or runs the experiments.
        """
        for path, entry in self.space.items():
            _check_may_vary("space", f"space.{path}", path)
            spaces.check_entry(path, entry)
        spaces.check_combinations(self.space)
        for section in ("sizes", "experiments"):
            for variant in getattr(self, section):
                for path, value in variant.overrides.items():
                    place = f"{section}.{variant.name}.{path}"
                    _check_may_vary(section, place, path)
                    if section == "sizes" and path in self.space:
                        raise FieldError(place, f"must not be searched too (got {show(value)}); remove space.{path}")

    def _check_runs(self) -> None:
        """Every size, each with every corner of the space and every experiment, makes a valid run."""
        base = self.base
        for name in self.size_names:
            overrides = self._size_overrides(name)
            run = apply_at(base, overrides, {path: f"sizes.{name}.{path}" for path in overrides}, f"sizes.{name}")
            for corner in spaces.corners(self.space):
                try:
                    apply(run, corner)
                except FieldError as error:
                    raise self._in_space(error, corner) from None
            for experiment in self.experiments:
                place = f"experiments.{experiment.name}"
                places = {path: f"{place}.{path}" for path in experiment.overrides}
                apply_at(run, experiment.overrides, places, place)

    def _in_space(self, error: FieldError, corner: Mapping[str, Any]) -> FieldError:
        """The error of a corner at the entry of the space that is at fault, with all others that take part in it."""
        clash = isinstance(error, ClashError)
        involved = [path for path in corner if (path in spaces.CONSTRAINED if clash else path == error.field)]
        path = error.field if error.field in involved else involved[0]
        others = ", ".join(f"space.{other} gives {show(corner[other])}" for other in involved if other != path)
        rule = error.rule if path == error.field else str(error)
        part = spaces.part_of_entry(self.space[path], corner[path])
        return FieldError(f"space.{path}.{part}".rstrip("."), f"{rule} ({others})" if others else rule)

    def _check_search(self) -> None:
        """The search method has something to run."""
        method = self.search.method
        if method == "experiments":
            if not self.experiments:
                rule = "must list at least one for the search method experiments (got none)"
                raise FieldError("experiments", f"{rule}; add `- {{name: baseline}}`, or choose another method")
        elif not self.space and self.search.trials != 1:
            rule = f"must name at least one field for the search method {method} (got none)"
            raise FieldError("space", f"{rule}; add `optim.lr: {{low: 3e-4, high: 3e-2, log: true}}`, or run 1 trial")
        elif method == "grid":
            spaces.check_grid(self.space)


def dump_yaml(spec: SweepSpec) -> str:
    """The spec with every default written out, as YAML from which `load_spec` makes an equal spec."""
    values = spec.model_dump()
    values["space"] = {path: entry.model_dump(exclude_defaults=True) for path, entry in spec.space.items()}
    if not spec.vocab_size_known:
        del values["model"]["vocab_size"]
    return yaml_file.dump_yaml(values)


def _check_may_vary(section: str, place: str, path: str) -> None:
    """FieldError, naming `place`, if a section (space, sizes, experiments) may not vary the field at `path`."""
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
    # os.path leaves a ~name that is nobody's as it is, where Path.expanduser raises.
    return None if path is None else str(Path(os.path.expanduser(path)).absolute())
