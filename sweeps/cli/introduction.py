"""The first lines of a sweep, in a user's words: what is searched, how many trials there are, where everything goes."""

from rich.console import Console

from sweeps.cli.output import plain_lines
from sweeps.spec.duration import show_duration
from sweeps.spec.sweep_spec import SweepSpec

PROPOSED = {"grid": "every point of a grid", "random": "drawn at random"}
"""How the other methods are told than as `proposed by NAME`."""
MOST_NAMES = 8


def introduction(spec: SweepSpec) -> list[str]:
    """What the sweep does, in at most two lines.

    >>> introduction(SweepSpec(name="quick", space={"optim.lr": [1e-3, 3e-3]}, search={"trials": 4}))
    ['lmsweep quick: 4 trials, proposed by optuna, weak ones end early (asha)', 'Searched: optim.lr']
    """
    search = spec.search
    experiments = search.method == "experiments"
    limit = "" if search.time is None else show_duration(search.time)
    searched = sum(map(spec.trials_of, spec.size_names))
    if spec.as_many_as_fit:
        parts = [f"as many trials as fit in {limit}"]
    else:
        parts = [_count(searched, "experiment" if experiments else "trial")]
        parts[0] += f" in at most {limit}" if limit else ""
    if not experiments and spec.searched:
        parts.append(PROPOSED.get(search.method, f"proposed by {search.method}"))
    if search.scheduler != "none":
        parts.append(f"weak ones end early ({search.scheduler})")
    if spec.transfers:
        parts.append("each size begins where smaller ones predict its optimum")
    if confirmed := sum(map(spec.confirm_runs_of, spec.size_names)):
        runs = (
            "confirmation runs of the best" if spec.as_many_as_fit else f"up to {_count(confirmed, 'confirmation run')}"
        )
        parts.append(f"then {runs}")
    return [f"lmsweep {spec.name}: {', '.join(parts)}", *_varied(spec)]


def introduce(spec: SweepSpec, console: Console) -> None:
    """Print the introduction."""
    for line in introduction(spec):
        plain_lines(console)(line)


def _varied(spec: SweepSpec) -> list[str]:
    """What differs between the trials, in one line; none if nothing does."""
    parts = []
    if spec.search.method == "experiments":
        parts.append(f"Experiments: {_names([one.name for one in spec.experiments])}")
    elif spec.searched:
        parts.append(f"Searched: {_names(list(spec.searched))}")
    if spec.compare:
        arms = [str(arm.name) for arm in spec.arms]
        parts.append(f"each for {_names(arms)}" if parts else f"Compared: {_names(arms)}")
    if len(spec.size_names) > 1:
        parts.append(f"in the sizes {_names(list(spec.size_names))}")
    return ["; ".join(parts)] if parts else []


def _names(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:MOST_NAMES])} and {more} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
