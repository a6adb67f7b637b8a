"""`ladder:`, which makes the sizes of a sweep: models from small to large, each trained on tokens in proportion.

Sizes are evenly spaced on a logarithmic scale. A model of N parameters without embeddings has about
N = 12 L D^2 of them (L layers, width D, gated feed-forward networks of width 8/3 D), so width and depth follow from N
and from the aspect D / L. `sweeps.spec.transfer` says how trials are dealt out to the sizes.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from lmcore.config import BUDGET_FIELDS, Config, ModelConfig, PositiveFloat, RunSpec
from lmcore.params import count_parameters
from lmcore.runfile.paths import FieldError

WIDTH_STEP = 32
"""Widths are multiples of it, which fill the vector registers of a CPU and the tiles of a GPU."""
MAX_SIZES = 24

Ascending = Annotated[tuple[PositiveFloat, ...], Field(min_length=1, strict=False)]


class LadderConfig(Config):
    """Sizes that are made rather than listed: parameters, shape and tokens.

    >>> [size["name"] for size in LadderConfig(params=(1e5, 3e6), steps=3).sizes({})]
    ['0.1M', '0.58M', '3.2M']
    """

    params: Annotated[tuple[PositiveFloat, ...], Field(min_length=2, max_length=2, strict=False)]
    """Parameters of the smallest and of the largest model, without embedding and output head, such as [1e6, 1e8]."""
    steps: Annotated[int, Field(ge=2, le=MAX_SIZES)] = 4
    """Number of models, at least 2, evenly spaced on a logarithmic scale, ends included."""
    aspect: PositiveFloat = 64.0
    """Width over number of layers, above 0."""
    head_dim: PositiveInt = 32
    """Channels of an attention head: an even divisor of 32, or a multiple of it, of which widths are multiples then."""
    tokens_per_parameter: Ascending | None = None
    """Training tokens for each parameter without embedding and output head; of several, such as [5, 20, 80], every
    model is trained on each, as sizes of their own. null: the budget under train."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        low, high = self.params
        if low >= high:
            raise FieldError("params", f"must be ascending (got {low:g} and {high:g}); swap them")
        ratios = self.tokens_per_parameter or ()
        if list(ratios) != sorted(set(ratios)):
            shown = ", ".join(f"{ratio:g}" for ratio in ratios)
            raise FieldError("tokens_per_parameter", f"must be ascending (got {shown}); sort them")
        if self.head_dim % 2 or (self.head_dim % WIDTH_STEP and WIDTH_STEP % self.head_dim):
            rule = f"must be even, and a divisor or a multiple of {WIDTH_STEP} (got {self.head_dim})"
            raise FieldError("head_dim", f"{rule}; choose 32")
        return self

    def sizes(self, model: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Entries of `sizes:`, by rising N D. `model` has fields of the base model.

        Raises FieldError if two models would be the same.
        """
        targets = self._targets()
        shapes = [self.shape(target, model) for target in targets]
        counts = [count_parameters(ModelConfig.model_validate({**model, **_fields(shape)})) for shape in shapes]
        for target, count in zip(targets, counts, strict=True):
            if not 0.5 < count.non_embedding / target < 2:
                rule = f"must allow a model of about {target:.3g} parameters"
                got = f"(got {self.aspect:g}, with which the nearest has {count.non_embedding:,})"
                raise FieldError("aspect", f"{rule} {got}; lower it, or change params")
        if len(set(counts)) < len(counts):
            rule = f"must leave the models different shapes (got {self.steps} of {self.params[0]:g} to "
            raise FieldError("steps", f"{rule}{self.params[1]:g} parameters); lower it, or widen params")
        found: list[tuple[float, dict[str, Any]]] = []
        ratios = self.tokens_per_parameter or (None,)
        names = _names([count.non_embedding for count in counts])
        for (name, shape, count), ratio in itertools.product(zip(names, shapes, counts, strict=True), ratios):
            size = {"name": name, **shape}
            if ratio is not None:
                size["train.tokens_per_parameter"] = ratio
            if len(ratios) > 1:
                size["name"] += f"-x{ratio:g}"
            # Without the head, so that the order does not depend on a vocabulary that may not be known yet.
            found.append((count.non_embedding**2 * (ratio or 1.0), size))
        return [size for _, size in sorted(found, key=lambda pair: pair[0])]

    def _targets(self) -> list[float]:
        low, high = self.params
        return [low * (high / low) ** (i / (self.steps - 1)) for i in range(self.steps)]

    def shape(self, target: float, model: Mapping[str, Any]) -> dict[str, Any]:
        """The shape of `target` parameters: of all multiples of the step, that nearest to it and to the aspect."""
        step = max(WIDTH_STEP, self.head_dim)
        ideal = (target * self.aspect / 12) ** (1 / 3)
        widths = {max(1, round(ideal / step) + offset) * step for offset in (-2, -1, 0, 1, 2)}
        candidates = [
            shape
            for width in sorted(widths)
            for layers in {max(1, round(width / self.aspect) + offset) for offset in range(-2, 5)}
            if _is_valid(shape := self._fields(width, layers), model)
        ]
        if not candidates:
            rule = f"must allow a model of about {target:.3g} parameters with the fields of model (got {self.head_dim})"
            raise FieldError("head_dim", f"{rule}; change it, or model.num_kv_heads")

        def distance(shape: dict[str, Any]) -> float:
            count = count_parameters(ModelConfig.model_validate({**model, **_fields(shape)})).non_embedding
            aspect = shape["model.d_model"] / shape["model.num_layers"]
            return abs(math.log(count / target)) + 0.2 * abs(math.log(aspect / self.aspect))

        return min(candidates, key=distance)

    def _fields(self, width: int, layers: int) -> dict[str, Any]:
        ffn = max(1, round(width * 8 / 3 / 16)) * 16
        heads = max(1, width // self.head_dim)
        return {"model.d_model": width, "model.num_layers": layers, "model.num_heads": heads, "model.d_ff": ffn}


def with_sizes(draft: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sweep with the `sizes` that its `ladder` makes, unless it lists some, as that of a run does.

    Values that are not valid are left to the validation of the whole.
    """
    values = dict(draft)
    ladder, model = values.get("ladder"), values.get("model") or {}
    if ladder is None or values.get("sizes"):
        return values
    fields = model.model_dump(exclude_unset=True) if isinstance(model, ModelConfig) else model
    try:
        config = ladder if isinstance(ladder, LadderConfig) else LadderConfig.model_validate(ladder)
        values["sizes"] = config.sizes({name: fields[name] for name in SHAPING if name in fields})
    except (ValidationError, TypeError):
        return values
    except FieldError as error:
        raise FieldError(f"ladder.{error.field}", error.rule) from None
    return values


def unused_beside(draft: Mapping[str, Any]) -> list[str]:
    """Notes about fields that are given and have no effect, as a ladder sets them in every size."""
    ladder = draft.get("ladder")
    if not isinstance(ladder, Mapping):
        return []
    set_by_all: dict[str, tuple[str, ...]] = {"model": ("d_model", "num_layers", "num_heads", "d_ff")}
    if ladder.get("tokens_per_parameter") is not None:
        set_by_all["train"] = BUDGET_FIELDS
    return [
        f"{section}.{name} has no effect, as ladder sets it in every size"
        for section, names in set_by_all.items()
        for name in names
        if isinstance(draft.get(section), Mapping) and draft[section].get(name) is not None
    ]


def next_size(config: LadderConfig | None, runs: Sequence[RunSpec]) -> dict[str, Any] | None:
    """Overrides of the size that would follow: as much larger than the last as that is larger than the one before.

    It has the last one's aspect and its tokens for each parameter. Where all sizes have equally many layers, so has it;
    likewise tokens. `runs` are those of the sizes, in order. None if the last model is not the largest, or all have
    equally many parameters.
    """
    counts = [count_parameters(run.model).non_embedding for run in runs]
    last, smaller = runs[-1], [count for count in counts if count < counts[-1]]
    if not smaller or counts[-1] < max(counts):
        return None
    target = counts[-1] * (counts[-1] / max(smaller))
    if config is None:
        head_dim = last.model.head_dim if WIDTH_STEP % last.model.head_dim == 0 else WIDTH_STEP
        aspect = last.model.d_model / last.model.num_layers
        if len({run.model.num_layers for run in runs}) == 1:
            aspect *= math.sqrt(target / counts[-1])  # only the width grows
        config = LadderConfig(params=(counts[-1], target), steps=2, aspect=aspect, head_dim=head_dim)
    shape = config.shape(target, {name: getattr(last.model, name) for name in SHAPING})
    tokens = {run.steps * run.tokens_per_step for run in runs}
    if len(tokens) == 1:
        return {**shape, "train.tokens": tokens.pop()}
    ratio = last.steps * last.tokens_per_step / counts[-1]
    return {**shape, "train.tokens_per_parameter": float(f"{ratio:.6g}")}


SHAPING = ("norm", "ffn", "qk_norm", "num_kv_heads", "positions")
"""Fields of the base model on which it depends which shapes are possible, and how many parameters they have."""


def _is_valid(shape: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    try:
        ModelConfig.model_validate({**model, **_fields(shape)})
    except ValidationError:
        return False
    return True


def _fields(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {path.removeprefix("model."): value for path, value in shape.items()}


def _names(parameters: Sequence[int]) -> list[str]:
    """Numbers of parameters to as few digits as tell them apart, at least two: 0.098M, 2.9M, 110M, 1.2B."""
    names: list[str] = []
    for digits in range(2, 10):
        units = [(1e9, "B") if count >= 9.995e8 else (1e6, "M") for count in parameters]
        rounded = [float(f"{n / unit:.{digits}g}") for n, (unit, _) in zip(parameters, units, strict=True)]
        names = [f"{number:g}{letter}" for number, (_, letter) in zip(rounded, units, strict=True)]
        if len(set(names)) == len(names):
            break
    return names
