"""The tables and the figure of results/search.json: `python tests/bench/search_figure.py` draws docs/images/search.png.

docs/generate.py puts the tables into docs/benchmarks.md.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search.json"
FIGURE = HERE.parents[1] / "docs" / "images" / "search.png"
PEERS = {
    "tune": "Ray Tune: ASHA (factor 4) + OptunaSearch",
    "tune-2": "Ray Tune: ASHA (factor 2) + OptunaSearch",
    "tune-3": "Ray Tune: ASHA (factor 3) + OptunaSearch",
    "syne-bohb": "Syne Tune: BOHB",
    "syne-asha-cqr": "Syne Tune: ASHA + CQR",
    "random": "random search",
    "default": "lmsweep's default",
}
DRAWN = {"default": "C0", "tune": "C1", "syne-bohb": "C2", "random": "C7"}


def tables() -> str:
    """Markdown: one table for each problem, number of slots and budget, best first."""
    results = json.loads(RESULTS.read_text())
    return "\n".join(_table(label, entry) for label, entry in results.items())


def _table(label: str, entry: dict[str, Any]) -> str:
    problem, slots, budget = _parts(label)
    arms = sorted(entry["summary"].items(), key=lambda item: item[1]["regret"][0])
    lines = [
        f"**{problem}, {slots} slots, the training of {budget} whole runs**\n",
        "| search | regret, nats per token | minus plain Tune's | plain Tune's last regret after | seeds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in arms:
        share = one.get("share_to_tunes_regret")
        reached = f"{share:.0%} of the training" if share is not None else "not reached"
        cells = [PEERS.get(name, f"`{name}`"), _interval(one["regret"]), _interval(one.get("minus_tune")), reached]
        lines.append(f"| {' | '.join(cells)} | {one['seeds']} |")
    return "\n".join(lines) + "\n" + _against_random(entry["arms"], int(budget))


def _against_random(arms: dict[str, Any], budget: int) -> str:
    """Where on the way the default's mean regret is above that of random search, and by how much."""
    if not {"default", "random"} <= arms.keys():
        return ""
    default, random = (np.array(arms[name]["regrets"]) for name in ("default", "random"))
    pairs = min(len(default), len(random))
    difference = default[:pairs] - random[:pairs]
    worse = np.flatnonzero(difference.mean(0) > 0)
    if not len(worse):
        points = difference.shape[1]
        return f"\nAt none of {points} budgets on the way is the default's mean regret above that of random search.\n"
    worst = worse[difference.mean(0)[worse].argmax()]
    half = stats.t.ppf(0.975, pairs - 1) * stats.sem(difference[:, worst])
    at = ", ".join(f"{(one + 1) / difference.shape[1] * budget:g}" for one in worse)
    return (
        f"\nThe default's mean regret is above that of random search after the training of {at} whole runs, by at\n"
        f"most {difference.mean(0)[worst]:.4f} ± {half:.4f} in pairs; at none of the other budgets on the way.\n"
    )


def _interval(pair: list[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.4f} ± {pair[1]:.4f}"


def _parts(label: str) -> tuple[str, str, str]:
    problem, slots, budget = label.split()
    return problem, slots.partition("=")[2], budget.partition("=")[2]


def draw() -> None:
    """Mean regret against training, with 95 % bands: a panel for each entry that has the default and plain Tune."""
    import matplotlib.pyplot as plt

    results = {
        label: entry
        for label, entry in json.loads(RESULTS.read_text()).items()
        if {"default", "tune"} <= entry["arms"].keys()
    }
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(results) :]:
        axis.remove()
    for axis, (label, entry) in zip(axes.flat, results.items(), strict=False):
        problem, slots, budget = _parts(label)
        for name, color in DRAWN.items():
            if name in entry["arms"]:
                table = np.array(entry["arms"][name]["regrets"])
                share = np.arange(1, table.shape[1] + 1) / table.shape[1] * int(budget)
                mean, half = table.mean(0), stats.t.ppf(0.975, len(table) - 1) * stats.sem(table)
                axis.plot(share, mean, color=color, label=PEERS[name])
                axis.fill_between(share, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        axis.set_yscale("log")
        axis.set_title(f"{problem}, {slots} slots", fontsize=10)
        axis.set_xlabel("training of all trials, in whole runs")
        axis.set_ylabel("regret, nats per token")
    axes[0, 0].legend(fontsize=7, frameon=False)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    draw()
