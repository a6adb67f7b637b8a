"""The most expensive trial that a size can have: what a trial that is not known yet may cost."""

from typing import TYPE_CHECKING, Any

from lmcore.config import RunSpec
from lmcore.device import spent_flops
from lmcore.memory import estimate_memory
from sweeps.spec.grid import product
from sweeps.spec.space import Choices, Entry, Layout, Range, corners, ends, expression_of, samples

if TYPE_CHECKING:
    from sweeps.spec.sweep_spec import SweepSpec

TIED = "model.tie_embeddings"
# Fields that determine the FLOPs or the memory of a trial, besides tying. Both grow with those that are numbers.
COST_FIELDS = (
    "model.d_model",
    "model.num_layers",
    "model.num_kv_heads",
    "model.d_ff",
    "model.norm",
    "model.qk_norm",
    "model.ffn",
    "model.dropout",
    "train.steps",
    "train.tokens",
    "train.tokens_per_parameter",
    "train.batch_size",
    "train.micro_batch_size",
    "train.dtype",
)


def costliest(spec: "SweepSpec", size: str, tied: bool | None = None) -> RunSpec:
    """The run of `size` with the most FLOPs in the space, or of the experiments that are trained.

    Of several with the same FLOPs, it is the one that needs the most memory.

    >>> costliest(load_spec("configs/quick.yaml"), "xs").steps  # doctest: +SKIP
    200
    """
    tying = {} if tied is None else {TIED: tied}
    if spec.search.method == "experiments":
        listed = spec.experiments[: max(1, spec.trials_of(size))]
        runs = [spec.run_for(size, {**experiment.overrides, **tying}) for experiment in listed]
    else:
        layout = spec.layout(size)
        # The number of heads must divide every width, for example. SweepSpec has checked that the first corner's does.
        first = next(corners(spec.space))
        runs = [
            spec.run_for(size, {**layout.overrides({**first, **combination}), **tying})
            for combination in product(_costly_values(layout))
        ]
    return max(runs, key=lambda run: (spent_flops(run), estimate_memory(run).total))


def _costly_values(layout: Layout) -> dict[str, tuple[Any, ...]]:
    """Proposals of which one combination is the most expensive, for the entries that determine the cost.

    An entry that an expression or a condition refers to may need any of its values for that.
    """
    chosen = {layout.owners[path] for path in COST_FIELDS if path in layout.owners}
    used: set[str] = set()
    for name in reversed(layout.order):
        if name in chosen | used:
            used |= set(layout.references[name])
    names = [name for name in layout.order if name in chosen | used]
    return {
        name: samples(name, layout.space[name]) if name in used else _costly_ends(layout.space[name])
        for name in names
        if ends(layout.space[name])
    }


def _costly_ends(entry: Entry) -> tuple[Any, ...]:
    """The largest value, or all values if they are not numbers; both ends of what is multiplied."""
    if isinstance(entry, Range):
        return (entry.high,) if expression_of(entry) is None else ends(entry)
    if isinstance(entry, Choices) and all(isinstance(choice, int | float) for choice in entry.choices):
        return (max(entry.choices),) if expression_of(entry) is None else ends(entry)
    return ends(entry)
