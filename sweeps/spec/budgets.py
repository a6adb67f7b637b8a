"""Equal budgets: trials that are compared train on equal numbers of tokens, to within half an update.

Otherwise a batch of twice the size would win because its trials see twice the data. Only configs are looked at here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmcore.config import RunSpec
from lmcore.params import count_parameters
from lmcore.runfile.paths import BUDGET, FieldError
from sweeps.spec import space as spaces

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

BATCH = "train.batch_size"
PER_PARAMETER = "train.tokens_per_parameter"
COUNTED = tuple(f"model.{name}" for name in ("d_model", "num_layers", "d_ff", "norm", "ffn"))
"""Fields that change the number of parameters without embedding and head, on which PER_PARAMETER depends."""

Overrides = Mapping[str, Any]


def batches_vary(spec: "SweepSpec") -> bool:
    """Whether trials of one size may have different batch sizes."""
    in_space = spec.search.method != "experiments" and BATCH in spaces.owners_of(spec.space)
    return in_space or any(BATCH in overrides for _, overrides in _experiments(spec))


def check(spec: "SweepSpec") -> None:
    """FieldError if trials of a size train on different numbers of tokens and may not.

    They may with `search.allow_unequal_budgets`, but not if they are confirmed.
    """
    if not spec.search.allow_unequal_budgets:
        check_equal(spec)
    elif spec.confirm.top:
        try:
            check_equal(spec)
        except FieldError as error:
            rule = f"must be 0 where trials of a size train on different numbers of tokens (got {spec.confirm.top}"
            remedy = "set train.tokens, or confirm.top: 0"
            raise FieldError("confirm.top", f"{rule}; {error.field} varies it); {remedy}") from None


def check_equal(spec: "SweepSpec") -> None:
    """FieldError if two trials of one size could train on different numbers of tokens.

    Example:
        check_equal(SweepSpec(name="a", space={"train.batch_size": [8, 16]}))  # raises: 200 updates of either size
    """
    owners = spaces.owners_of(spec.space)
    given = [spec.base.train.tokens_per_parameter, *(o.get(PER_PARAMETER) for _, o in _experiments(spec))]
    given += [size.overrides.get(PER_PARAMETER) for size in spec.sizes]
    paths = (*BUDGET, BATCH, *(COUNTED if any(given) or PER_PARAMETER in owners else ()))
    for size in spec.size_names:
        first: float | None = None
        seen = []
        for place, overrides in _varied(spec, size):
            relevant = {path: overrides[path] for path in paths if path in overrides}
            if relevant in seen:
                continue
            seen.append(relevant)
            run = spec.unresolved_run(size, overrides)
            if first is None:
                first = _budget(run)
            tokens = run.steps * run.tokens_per_step
            if abs(tokens - first) > run.tokens_per_step / 2:
                changed = (path for path in {**relevant, **seen[0]} if relevant.get(path) != seen[0].get(path))
                where = place or f"space.{owners[next(changed)]}"
                raise FieldError(where, _rule(run, relevant, round(first), tokens))


def _rule(run: RunSpec, relevant: Overrides, first: int, tokens: int) -> str:
    searched = [path for path in BUDGET if path in relevant]
    used = next((path for path in BUDGET if getattr(run.train, path.split(".")[1]) is not None), "train.steps")
    remedy = f"set train.tokens instead of {used}" if used != "train.tokens" else "raise train.tokens"
    if searched:
        remedy = "leave that out"
    rule = f"must give all trials of a size the same number of training tokens (got {first:,} and {tokens:,})"
    return f"{rule}; {remedy}, or search.allow_unequal_budgets: true"


def _varied(spec: "SweepSpec", size: str) -> list[tuple[str, Overrides]]:
    """What trials of one size override, extreme values of the space at least, each with its place in the file.

    The place is empty for the space, whose entry at fault is not known here.
    """
    if listed := _experiments(spec):
        return listed
    layout, (first, *others) = spec.layout(size), spaces.corners(spec.space)
    # What a corner does not vary has its first value in all of them.
    first = {**{name: spaces.ends(entry)[0] for name, entry in spec.space.items() if spaces.ends(entry)}, **first}
    return [("", layout.overrides({**first, **corner})) for corner in (first, *others)]


def _experiments(spec: "SweepSpec") -> list[tuple[str, Overrides]]:
    """The experiments, if they are what is trained."""
    experiments = spec.experiments if spec.search.method == "experiments" else ()
    return [(f"experiments.{experiment.name}", experiment.overrides) for experiment in experiments]


def _budget(run: RunSpec) -> float:
    """Tokens that a run should train on, before rounding to whole updates."""
    tokens: float = run.steps * run.tokens_per_step
    if run.train.tokens is not None:
        tokens = run.train.tokens
    elif run.train.tokens_per_parameter is not None:
        tokens = run.train.tokens_per_parameter * count_parameters(run.model).non_embedding
    return max(tokens, run.tokens_per_step)
