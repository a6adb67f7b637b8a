"""The cost of a sweep before it runs: `python sweeps/run.py --dry-run` prints it.

Parameter counts, tokens and FLOPs follow from the config alone: no data are read and no model is built. How long the
sweep takes is not estimated, because that depends on the machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lmcore.config import RunSpec
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from sweeps.spec.cost import COST_FIELDS, TIED, costliest
from sweeps.spec.space import Choices
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

UNLIMITED = 240
"""Characters of a line in a file or a pipe."""


@dataclass(frozen=True)
class TrialCost:
    """The cost of one kind of trial without early stopping; the most expensive trial if the space varies the cost."""

    size: str
    experiment: str | None
    """None unless the sweep is an ablation."""
    tied: bool
    planned: bool
    """False if the sweep does not run it: the other tying, or an experiment beyond `search.trials`."""
    params_estimate: int
    """By the textbook formula (`lmcore.params.estimate_parameters`)."""
    params_exact: int
    params_non_embedding: int
    tokens: int
    """Tokens trained on."""
    train_flops: int
    """Forward and backward."""


@dataclass(frozen=True)
class SizeCost:
    """The most that all trials of a size can cost: none is stopped early, and each is the largest of the space."""

    size: str
    trials: int
    tokens: int
    train_flops: int


@dataclass(frozen=True)
class Plan:
    """The cost of a sweep."""

    trials: tuple[TrialCost, ...]
    sizes: tuple[SizeCost, ...]


def plan(spec: SweepSpec) -> Plan:
    """The cost of a sweep, by kind of trial and by size.

    >>> plan(load_spec("configs/quick.yaml")).sizes[0].trials  # doctest: +SKIP
    8
    """
    trials: list[TrialCost] = []
    sizes = []
    for size in spec.size_names:
        count = spec.trials_of(size)
        if spec.search.method == "experiments":
            kinds = [
                _cost(size, experiment.name, spec.run_for(size, experiment.overrides), planned=place < count)
                for place, experiment in enumerate(spec.experiments)
            ]
            run = kinds[:count]
        else:
            searched = _tyings(spec, size)
            kinds = [_cost(size, None, costliest(spec, size, tied), tied in searched) for tied in (False, True)]
            run = kinds[:1] * count  # tying changes neither tokens nor FLOPs
        trials += kinds
        sizes.append(SizeCost(size, count, sum(cost.tokens for cost in run), sum(cost.train_flops for cost in run)))
    return Plan(tuple(trials), tuple(sizes))


def print_plan(spec: SweepSpec, file: TextIO | None = None) -> None:
    """Print the resolved config and its cost to `file` (default: stdout). On a terminal, long cells are folded."""
    console = Console(file=file, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    console.print(dump_yaml(spec), soft_wrap=True)
    experiments = spec.search.method == "experiments"
    notes = list(spec.notes)
    if not spec.vocab_size_known:
        notes.append(
            f"model.vocab_size comes from the data; {spec.model.vocab_size} is assumed until the data are read"
        )
    varied = [path for path in COST_FIELDS if path in spec.space]
    if varied and not experiments:
        notes.append(f"the space varies {', '.join(varied)}; the cost is that of the most expensive values")
    for note in notes:
        console.print(f"Note: {note}.", soft_wrap=True)

    costs = plan(spec)
    rows = [
        (
            cost.size,
            *([cost.experiment] if experiments else []),
            ("yes" if cost.tied else "no") + ("" if cost.planned else " (not run)"),
            *(f"{n:,}" for n in (cost.params_estimate, cost.params_exact, cost.params_non_embedding, cost.tokens)),
            f"{cost.train_flops:.3g}",
        )
        for cost in costs.trials
    ]
    names = ["size", "experiment", "tied"] if experiments else ["size", "tied"]
    numbers = ["params estimate", "params exact", "non-embedding", "tokens", "train FLOPs"]
    console.print(_table("One trial", names, numbers, rows))

    rows = [(size.size, f"{size.trials:,}", f"{size.tokens:,}", f"{size.train_flops:.3g}") for size in costs.sizes]
    table = _table("All trials, at most (no early stopping)", ["size"], ["trials", "tokens", "train FLOPs"], rows)
    if len(costs.sizes) > 1:
        count, tokens, flops = (
            sum(getattr(size, name) for size in costs.sizes) for name in ("trials", "tokens", "train_flops")
        )
        table.add_section()
        table.add_row("in all", f"{count:,}", f"{tokens:,}", f"{flops:.3g}")
    console.print(table)


def _table(title: str, names: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Table:
    """A table of columns of text, `names`, and columns of right-aligned `numbers`."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, overflow="fold", justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _cost(size: str, experiment: str | None, run: RunSpec, planned: bool) -> TrialCost:
    exact = count_parameters(run.model)
    tokens = run.steps * run.tokens_per_step
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
    """The values of tie_embeddings that the trials of a size have."""
    entry = spec.space.get(TIED)
    return set(entry.choices) if isinstance(entry, Choices) else {spec.run_for(size, {}).model.tie_embeddings}
