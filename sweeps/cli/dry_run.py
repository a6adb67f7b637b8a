"""What a sweep will cost, before anything is spent: the dry run.

Parameter counts, tokens and FLOPs follow from the spec alone; no data is read and no model is built. How long it takes
is not said here, because that depends on the machine. `python sweeps/run.py --dry-run` prints it.
"""

import itertools
from dataclasses import dataclass
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lmcore.config import RunSpec
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.spec.space import Choices, Range, corners
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

TIED = "model.tie_embeddings"
# Fields that the cost of a trial depends on, besides tying; it grows with every one that is a number.
COST_FIELDS = (
    "model.d_model",
    "model.num_layers",
    "model.d_ff",
    "model.norm",
    "model.ffn",
    "train.steps",
    "train.batch_size",
)
WIDE = 240


@dataclass(frozen=True)
class TrialCost:
    """What one trial of a kind costs at most, if it is not stopped early."""

    size: str
    experiment: str | None
    """None outside ablations."""
    tied: bool
    planned: bool
    """False for the tying that the sweep does not try, listed for comparison."""
    params_estimate: int
    """The textbook formula."""
    params_exact: int
    params_non_embedding: int
    tokens: int
    """Trained on."""
    train_flops: int
    """Forward and backward."""


@dataclass(frozen=True)
class SizeCost:
    """Upper bound of what all trials of a size cost: none is stopped early, each is as large as the space allows."""

    size: str
    trials: int
    tokens: int
    train_flops: int


@dataclass(frozen=True)
class Plan:
    """The cost of a sweep, by kind of trial and by size."""

    trials: tuple[TrialCost, ...]
    sizes: tuple[SizeCost, ...]


def plan(spec: SweepSpec) -> Plan:
    """The cost of a sweep; where the space varies shapes, steps or batch size, that of its costliest trial."""
    trials: list[TrialCost] = []
    sizes = []
    for size in spec.size_names:
        count = spec.trials_of(size)
        if spec.search.method == "experiments":
            listed = [
                _cost(size, experiment.name, spec.run_for(size, experiment.overrides), planned=place < count)
                for place, experiment in enumerate(spec.experiments)
            ]
            run = listed[:count]
        else:
            tyings = _tyings(spec, size)
            listed = [_cost(size, None, _costliest(spec, size, tied), tied in tyings) for tied in (False, True)]
            # Tying changes neither tokens nor FLOPs.
            run = listed[:1] * count
        trials += listed
        tokens, flops = sum(cost.tokens for cost in run), sum(cost.train_flops for cost in run)
        sizes.append(SizeCost(size, count, tokens, flops))
    return Plan(tuple(trials), tuple(sizes))


def print_plan(spec: SweepSpec, file: TextIO | None = None) -> None:
    """Print the resolved spec and its cost to `file` (standard output); lines are never cut, folded on a terminal."""
    console = Console(file=file, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    costs = plan(spec)
    console.print(dump_yaml(spec), soft_wrap=True)
    for note in spec.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    if not spec.vocab_size_known:
        assumed = f"{spec.model.vocab_size} tokens are assumed until the data are read"
        console.print(f"Note: model.vocab_size is the data's; {assumed}.", soft_wrap=True)
    searched = [path for path in COST_FIELDS if path in spec.space]
    if searched and spec.search.method != "experiments":
        console.print(f"Note: the costliest value is counted of {', '.join(searched)}.", soft_wrap=True)

    experiments = spec.search.method == "experiments"
    table = _table("One trial", "size", *(["experiment"] if experiments else []), "tied")
    for heading in ("params estimate", "params exact", "non-embedding", "tokens", "train FLOPs"):
        table.add_column(heading, justify="right", overflow="fold")
    for cost in costs.trials:
        table.add_row(
            cost.size,
            *([cost.experiment] if experiments else []),
            ("yes" if cost.tied else "no") + ("" if cost.planned else " (not run)"),
            f"{cost.params_estimate:,}",
            f"{cost.params_exact:,}",
            f"{cost.params_non_embedding:,}",
            f"{cost.tokens:,}",
            f"{cost.train_flops:.3g}",
        )
    console.print(table)

    table = _table("All trials, at most (no early stopping)", "size")
    for heading in ("trials", "tokens", "train FLOPs"):
        table.add_column(heading, justify="right", overflow="fold")
    for size in costs.sizes:
        table.add_row(size.size, f"{size.trials:,}", f"{size.tokens:,}", f"{size.train_flops:.3g}")
    if len(costs.sizes) > 1:
        totals = [
            sum(column) for column in zip(*((s.trials, s.tokens, s.train_flops) for s in costs.sizes), strict=True)
        ]
        table.add_section()
        table.add_row("in all", f"{totals[0]:,}", f"{totals[1]:,}", f"{totals[2]:.3g}")
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cost(size: str, experiment: str | None, run: RunSpec, planned: bool) -> TrialCost:
    exact = count_parameters(run.model)
    tokens = run.train.steps * run.tokens_per_step
    return TrialCost(
        size=size,
        experiment=experiment,
        tied=run.model.tie_embeddings,
        planned=planned,
        params_estimate=estimate_parameters(run.model),
        params_exact=exact.total,
        params_non_embedding=exact.non_embedding,
        tokens=tokens,
        train_flops=tokens * flops_per_token(run.model),
    )


def _tyings(spec: SweepSpec, size: str) -> set[bool]:
    """The values of tie_embeddings that trials of a size can have."""
    entry = spec.space.get(TIED)
    return set(entry.choices) if isinstance(entry, Choices) else {spec.run_for(size, {}).model.tie_embeddings}


def _costliest(spec: SweepSpec, size: str, tied: bool) -> RunSpec:
    """The run of most FLOPs that the space leads to."""
    values = {path: _costly_values(spec.space[path]) for path in COST_FIELDS if path in spec.space}
    # Heads that divide every width of the space: the spec has checked the first corner's with each.
    first = next(corners(spec.space))
    runs = [
        spec.run_for(size, {**first, **dict(zip(values, combination, strict=True)), TIED: tied})
        for combination in itertools.product(*values.values())
    ]
    return max(runs, key=lambda run: _cost(size, None, run, planned=True).train_flops)


def _costly_values(entry: Range | Choices) -> tuple[Any, ...]:
    """The largest value, or all that have no order."""
    if isinstance(entry, Range):
        return (entry.high,)
    if all(isinstance(choice, int | float) for choice in entry.choices):
        return (max(entry.choices),)
    return entry.choices
