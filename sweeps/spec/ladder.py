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

from lmcore.config import Config, ModelConfig, PositiveFloat, RunSpec
from lmcore.params import count_parameters, flops_per_token
from lmcore.runfile.paths import FieldError

WIDTH_STEP = 32
"""Widths are multiples of it, which fill the vector registers of a CPU and the tiles of a GPU."""
MAX_SIZES = 24

Ascending = Annotated[tuple[PositiveFloat, ...], Field(min_length=1, strict=False)]


class LadderConfig(Config):
    """Sizes that are made rather than listed: parameters, shape and tokens.

    >>> [size["name"] for size in LadderConfig(params=(1e5, 3e6), steps=3).sizes({})]
    ['0.098M', '0.51M', '2.9M']
    """

    params: Annotated[tuple[PositiveFloat, ...], Field(min_length=2, max_length=2, strict=False)]
    """Parameters of the smallest and of the largest model, without embedding and output head, such as [1e6, 1e8]."""
    steps: Annotated[int, Field(ge=2, le=MAX_SIZES)] = 4
    """Number of models, at least 2, evenly spaced on a logarithmic scale, ends included."""
    aspect: PositiveFloat = 64.0
    """Width over number of layers, above 0."""
    head_dim: PositiveInt = 32
    """Channels of an attention head, an even number that divides every width: 32, 16 or 8, or 64 where all widths
    are multiples of it."""
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
        """Entries of `sizes:`, in the order of their FLOPs. `model` are the fields of the base model.

        Raises FieldError if two models would be the same.
        """
        shapes = [self.shape(target, model) for target in self._targets()]
        counts = [count_parameters(ModelConfig.model_validate({**model, **_fields(shape)})) for shape in shapes]
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
            config = ModelConfig.model_validate({**model, **_fields(shape)})
            found.append((flops_per_token(config) * count.non_embedding * (ratio or 1.0), size))
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
            self._fields(width, layers)
            for width in sorted(widths)
            for layers in {max(1, round(width / self.aspect) + offset) for offset in range(-2, 5)}
        ]

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
    """The values of a sweep whose `ladder` makes its `sizes`. FieldError if it lists sizes of its own as well.

    Values that are not valid are left to the validation of the whole.
    """
    values = dict(draft)
    ladder = values.get("ladder")
    if ladder is None:
        return values
    model = values.get("model") or {}
    fields = model.model_dump(exclude_unset=True) if isinstance(model, ModelConfig) else model
    try:
        config = ladder if isinstance(ladder, LadderConfig) else LadderConfig.model_validate(ladder)
        made = config.sizes({name: fields[name] for name in SHAPING if name in fields})
    except (ValidationError, TypeError):
        return values
    except FieldError as error:
        raise FieldError(f"ladder.{error.field}", error.rule) from None
    if not (given := values.get("sizes")):
        values["sizes"] = made
    elif [_listed(size) for size in given] != made:
        raise FieldError("sizes", f"must be left out with ladder, which makes them (got {len(given)}); remove one")
    return values


def next_size(config: LadderConfig | None, runs: Sequence[RunSpec]) -> dict[str, Any]:
    """Overrides of the size that would follow: as much larger than the last as that is larger than the one before.

    It has the last one's tokens for each parameter, and its aspect. `runs` are those of the sizes, in order.
    """
    counts = [count_parameters(run.model).non_embedding for run in runs]
    last = runs[-1]
    smaller = max(count for count in counts if count < counts[-1])
    target = counts[-1] * (counts[-1] / smaller)
    if config is None:
        head_dim = last.model.head_dim if WIDTH_STEP % last.model.head_dim == 0 else WIDTH_STEP
        aspect = last.model.d_model / last.model.num_layers
        config = LadderConfig(params=(counts[-1], target), steps=2, aspect=aspect, head_dim=head_dim)
    shape = config.shape(target, {name: getattr(last.model, name) for name in SHAPING})
    ratio = last.steps * last.tokens_per_step / counts[-1]
    return {**shape, "train.tokens_per_parameter": float(f"{ratio:.6g}")}


SHAPING = ("vocab_size", "context_length", "norm", "ffn", "qk_norm")
"""Fields of the base model that change how many parameters, or FLOPs, a shape has."""


def _listed(size: Any) -> dict[str, Any]:
    return {"name": size.name, **size.overrides} if hasattr(size, "overrides") else dict(size)


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
