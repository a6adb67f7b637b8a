"""The cost of a sweep before it runs: `python sweeps/run.py --dry-run` prints it.

Parameter counts, tokens, FLOPs and memory follow from the config alone: no data are read and no model is built. How
long the sweep takes depends on the machine, and is told if the speed of a trial is given or measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.text import Text

from lmcore.branches import updates_by
from lmcore.config import RunSpec
from lmcore.device import training_flops
from lmcore.measure.detectable import ASSUMED_NOISE, CONFIDENCE, POWER, detectable_difference
from lmcore.memory import estimate_memory
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from lmcore.terminal.console import PROSE_WIDTH, output_console, print_out, wrapped
from lmcore.terminal.table import Column, FittedTable
from sweeps.cli.rates import Rates, engines_here, trials_in
from sweeps.spec.cost import COST_FIELDS, TIED, costliest
from sweeps.spec.duration import show_duration
from sweeps.spec.space import choices_at, grid_values, owners_of
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.spec.transfer import LEAST

UNLIMITED = 10_000
"""Characters of a line in a file or a pipe, where no column is left out: no other file has them."""
ELSEWHERE = "a pipe"
RANKS = {
    "tied": 1,
    "trials": 1,
    "params exact": 2,
    "confirmation runs": 2,
    "device-hours": 3,
    "memory, MB (estimate)": 4,
    "train FLOPs": 5,
    "tokens": 6,
    "non-embedding": 7,
    "params estimate": 8,
}
"""By heading: of columns that do not fit into the terminal, the one with the highest rank is left out first."""


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
    """Tokens trained on, by the trial and its branches."""
    train_flops: int
    """Forward and backward."""
    memory_bytes: int
    """Estimate of the memory of one trial (`lmcore.memory`)."""


@dataclass(frozen=True)
class SizeCost:
    """The most that all trials of a size can cost: none is stopped early, and each is the largest of the space."""

    size: str
    trials: int
    confirmations: int
    """Confirmation runs, if none is left out."""
    tokens: int
    train_flops: int


@dataclass(frozen=True)
class Plan:
    """The cost of a sweep."""

    trials: tuple[TrialCost, ...]
    sizes: tuple[SizeCost, ...]
    """Empty if there are as many trials as fit in search.time."""


def plan(spec: SweepSpec) -> Plan:
    """The cost of a sweep, by kind of trial and by size.

    >>> plan(load_spec("configs/quick.yaml")).sizes[0].trials  # doctest: +SKIP
    8
    """
    trials: list[TrialCost] = []
    sizes = []
    for size in spec.size_names:
        count, confirmed = spec.trials_of(size), spec.confirm_runs_of(size)
        if spec.search.method == "experiments":
            kinds = [
                _cost(size, experiment.name, spec.run_for(size, experiment.overrides), planned=place < count)
                for place, experiment in enumerate(spec.experiments)
            ]
            run = kinds[:count] * (1 + (spec.confirm.seeds if spec.confirm.top else 0))
        else:
            searched = _tyings(spec, size)
            kinds = [_cost(size, None, costliest(spec, size, tied), tied in searched) for tied in (False, True)]
            # Tying changes neither tokens nor FLOPs.
            run = [] if spec.as_many_as_fit else kinds[:1] * (count + confirmed)
        trials += kinds
        if spec.as_many_as_fit:
            continue
        sizes.append(
            SizeCost(size, count, confirmed, sum(cost.tokens for cost in run), sum(cost.train_flops for cost in run))
        )
    return Plan(tuple(trials), tuple(sizes))


def print_plan(
    spec: SweepSpec, file: TextIO | None = None, rates: Rates | None = None, width: int | None = None
) -> None:
    """Print the resolved config and its cost to `file` (default: stdout).

    `rates` say how fast trials train; without them it is printed how to give them. On a terminal, or with a `width` in
    characters, lines are broken and tables leave out columns that do not fit.
    """
    console = output_console(file, width)
    if not console.is_terminal and width is None:
        console.width = UNLIMITED

    def say(text: str, hanging: str = "") -> None:
        lines = text if console.width == UNLIMITED else wrapped(text, min(PROSE_WIDTH, console.width), hanging)
        console.print(Text(lines, no_wrap=True, overflow="ignore"), crop=False)

    def show(title: str, table: FittedTable) -> None:
        say("")
        console.print(Text(title, "bold"))
        print_out(table, file, console.width)

    console.print(dump_yaml(spec), soft_wrap=True)
    experiments = spec.search.method == "experiments"
    notes = list(spec.notes)
    if not spec.vocab_size_known:
        notes.append(
            f"model.vocab_size comes from the data; {spec.model.vocab_size} is assumed until the data are read"
        )
    owners = owners_of(spec.space)
    varied = [path for path in COST_FIELDS if path in owners]
    if varied and not experiments:
        notes.append(f"the space varies {', '.join(varied)}; the cost is that of the most expensive values")
    if branches := [f"{fraction:g}" for fraction in spec.train.branches or () if fraction < 1]:
        run = spec.run_for(spec.size_names[0], {})
        share = updates_by(run, run.steps) / run.steps - 1
        notes.append(f"the decays of the branches {', '.join(branches)} add {share:.0%} to the tokens of a trial")
    for note in notes:
        say(f"Note: {note}.", "  ")

    costs = plan(spec)
    names = ["size", "experiment", "tied"] if experiments else ["size", "tied"]
    numbers = ["params estimate", "params exact", "non-embedding", "tokens", "train FLOPs", "memory, MB (estimate)"]
    table = _table(names, numbers)
    for cost in costs.trials:
        table.add(
            cost.size,
            *([cost.experiment or ""] if experiments else []),
            ("yes" if cost.tied else "no") + ("" if cost.planned else " (not run)"),
            *(f"{n:,}" for n in (cost.params_estimate, cost.params_exact, cost.params_non_embedding, cost.tokens)),
            f"{cost.train_flops:.3g}",
            f"{cost.memory_bytes / 1e6:,.0f}",
            style="" if cost.planned else "dim",
        )
    show("One trial", table)
    if costs.sizes:
        show("All trials, at most (no early stopping)", _all_trials(spec, costs.sizes, rates))
    say("")
    for line in (*_transfer_lines(spec), *_time_lines(spec, costs, rates), _seeds_line(spec)):
        say(line, "  ")


def _all_trials(spec: SweepSpec, sizes: Sequence[SizeCost], rates: Rates | None) -> FittedTable:
    """The cost of all trials by size and in all, with device-hours if the rates are known."""

    confirmed = any(size.confirmations for size in sizes)

    def cells(count: int, confirmations: int, tokens: int, flops: int, hours: float) -> list[str]:
        counts = [f"{count:,}", *([f"{confirmations:,}"] if confirmed else [])]
        return [*counts, f"{tokens:,}", f"{flops:.3g}", *([] if rates is None else [f"{hours:.3g}"])]

    counts = ["trials", *(["confirmation runs"] if confirmed else [])]
    numbers = [*counts, "tokens", "train FLOPs", *([] if rates is None else ["device-hours"])]
    hours = _device_hours(spec, sizes, rates)
    table = _table(["size"], numbers)
    for s in sizes:
        table.add(s.size, *cells(s.trials, s.confirmations, s.tokens, s.train_flops, hours[s.size]))
    if len(sizes) > 1:
        names = ("trials", "confirmations", "tokens", "train_flops")
        trials, confirmations, tokens, flops = (sum(getattr(size, name) for size in sizes) for name in names)
        table.add("in all", *cells(trials, confirmations, tokens, flops, sum(hours.values())), style="bold")
    return table


def _device_hours(spec: SweepSpec, sizes: Sequence[SizeCost], rates: Rates | None) -> dict[str, float]:
    """Hours of one engine by size; zeros if the rates are not known."""
    if rates is None:
        return dict.fromkeys((size.size for size in sizes), 0.0)
    return {s.size: rates.device_hours(spec.run_for(s.size, {}), s.size, float(s.train_flops)) for s in sizes}


def _time_lines(spec: SweepSpec, costs: Plan, rates: Rates | None) -> list[str]:
    """What is known about the time that the sweep takes."""
    limit = spec.search.time
    if rates is None:
        how = (
            "--measure tries it here for a few seconds, --tokens-per-s N takes the tokens/s of one trial on one engine"
        )
        fits = f"As many trials as fit in {show_duration(limit)}. " if limit and spec.as_many_as_fit else ""
        return [f"{fits}Time: not known without the speed of a trial; {how}."]
    engines = engines_here(spec.train)
    speeds = ", ".join(f"{size} {rate:,.0f}" for size, rate in rates.tokens_per_s.items())
    lines = [f"Speed of one trial on one engine, {rates.source}: tokens/s {speeds}."]
    on = f"on the {engines} engine{'s' if engines > 1 else ''} of this machine"
    left_out = "without start-up and evaluation; slots that train as one program are faster"
    if limit is not None and spec.as_many_as_fit:
        runs = {size: costliest(spec, size) for size in spec.size_names}
        count = trials_in(rates, spec, runs, engines, limit)
        return [*lines, f"Time: {show_duration(limit)}, in which about {count:,} trials fit {on}, {left_out}."]
    hours = sum(_device_hours(spec, costs.sizes, rates).values())
    wall = show_duration(3600 * hours / engines)
    limited = "" if limit is None else f" No trial begins that could not finish in {show_duration(limit)}."
    return [*lines, f"Time: at most {hours:.3g} device-hours, {wall} {on}, {left_out}.{limited}"]


def _transfer_lines(spec: SweepSpec) -> list[str]:
    """How trials are dealt out to sizes that learn from each other, and what that saves."""
    if not spec.transfers:
        return []
    first = spec.size_names[0]
    flops = {size: training_flops(costliest(spec, size)) for size in spec.size_names}
    spent = sum(spec.trials_of(size) * flops[size] for size in flops)
    share = spent / (spec.trials_of(first) * sum(flops.values()))
    start = "Transfer: each size starts from the optimum that smaller sizes predict"
    least = LEAST * len(spec.arms)
    if min(spec.trials_of(size) for size in spec.size_names) < least:
        needed = least * len(spec.size_names)
        return [f"{start}. All sizes have equally many trials, as there are fewer than {needed} to give each {least}."]
    return [
        f"{start}, and has half the trials of the one before it, at least {LEAST} for each arm. With as many for every "
        f"size as for {first}, the search would cost {1 / share:.2g} times as much."
    ]


def seeds_per_setting(spec: SweepSpec) -> int:
    """With how many seeds each setting that is compared is trained: those of a confirmation, or those of a grid."""
    seed = "train.seed"
    values = grid_values(seed, spec.space[seed]) if seed in spec.space else choices_at(spec.space, seed)
    in_grid = len(values) if values and spec.search.method == "grid" else 1
    return max(in_grid, spec.confirm.seeds if spec.confirm.top else 1)


def _settings_per_size(spec: SweepSpec) -> int:
    """How many settings of a size share their seeds, from which the noise between seeds is estimated: at least 2."""
    if not spec.confirm.top:
        return 2
    size = spec.size_names[0]
    return max(2, spec.confirm_runs_of(size) // spec.confirm.seeds)


def _seeds_line(spec: SweepSpec) -> str:
    seeds = seeds_per_setting(spec)
    if seeds < 2:
        return (
            "Seeds: 1 per setting, which cannot tell a difference between settings from one between seeds; "
            "add `confirm: {top: 3, seeds: 3}`."
        )
    times, power = (
        detectable_difference(seeds, _settings_per_size(spec)),
        f"{POWER:.0%} of cases at {CONFIDENCE:.0%} confidence",
    )
    return (
        f"Seeds: {seeds} per setting, which tell two settings apart in {power} if they differ by {times:.2g} times the "
        f"noise between seeds: {times * ASSUMED_NOISE:.2g} nats per token if that noise is {ASSUMED_NOISE:g}, which is "
        "an assumption (measured at 1.3M parameters)."
    )


def _table(names: Sequence[str], numbers: Sequence[str]) -> FittedTable:
    """A table of columns of text, `names`, and columns of right-aligned `numbers`."""
    columns = [Column(name, RANKS.get(name, 0), name in numbers) for name in (*names, *numbers)]
    return FittedTable(columns, ELSEWHERE)


def _cost(size: str, experiment: str | None, run: RunSpec, planned: bool) -> TrialCost:
    exact = count_parameters(run.model)
    tokens = updates_by(run, run.steps) * run.tokens_per_step
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
        memory_bytes=estimate_memory(run).total,
    )


def _tyings(spec: SweepSpec, size: str) -> set[bool]:
    """The values of tie_embeddings that the trials of a size have."""
    owner = owners_of(spec.space).get(TIED)
    own = spec.run_for(size, {}).model.tie_embeddings
    if owner is None:
        return {own}
    return {*choices_at(spec.space, TIED), *(() if spec.space[owner].when is None else (own,))}
