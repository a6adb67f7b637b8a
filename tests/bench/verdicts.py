"""Do the answers of a sweep hold? Simulated sweeps whose truth is known, judged by the functions that judge real ones.

    python tests/bench/verdicts.py [--sweeps 1000] [--run runs/quick]     # writes results/verdicts.json; some minutes

Each sweep has one size and two arms of 16 settings. The loss of a run is the setting's true loss, which is quadratic
in three hyperparameters, plus what its seed does to every setting, plus noise. The best 3 of each arm are confirmed
under 3 new seeds by `sweeps.study.race`, and `analysis.verdicts` gives the answer. Scenarios differ in how far the
settings lie apart. `flat` is a tie of all settings and both arms. In `uneven` the noise of a setting grows with its
distance from the optimum, which the pooled estimate of the noise does not know.

Counted over the sweeps: how often the interval of the difference between the arms covers the truth (goal 93 to 97 %);
how often the settings that the answer names hold the truly best one, of the confirmed (goal 95 %) and of all 16; how
often `flat` is called a tie; the mean error of the reported loss in units of its standard error (goal below 0.1), and
what it would be for the search's own lowest loss; the share of confirmation runs that the race saves (goal 30 % in
`typical`).

Windows: two fixed models on validation windows of documents of random length; how often the interval of their
difference covers the truth, with errors clustered by document, and with windows taken as independent. With `--run`, the
same for real models: the standard error of the difference of every two complete trials of a run, over that of a
bootstrap of its documents (goal: within 10 %), and over that of two independent means.
"""

import argparse
import itertools
import json
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

import analysis
from analysis.stats.estimate import Estimate
from analysis.stats.verdicts import verdicts
from lmcore import columns as col
from lmcore.cores import cores, processor
from lmcore.measure.window_difference import clustered_difference
from sweeps.provenance.manifest import commit, versions
from sweeps.study.race import Candidate, race

SETTINGS, TOP, SEEDS = 16, 3, 3
ARMS = ("untied", "tied")
SEED_SD, NOISE_SD = 0.018, 0.018
"""Nats per token: of what a seed does to all settings, and of the rest; 0.025 together, as at 1.3M parameters."""
SCENARIOS = {"flat": 0.0, "close": 0.1, "typical": 1.0, "steep": 3.0, "uneven": 1.0}
"""Nats per token between the optimum and the edge of the space in its most important direction."""
IMPORTANCE = np.array([1.0, 0.3, 0.1])
Array = NDArray[np.float64]
BOOTSTRAPS = 4000


class Sweep(NamedTuple):
    """One simulated sweep: its trials as `analysis.load` returns them, the true losses by setting, and the runs."""

    trials: pd.DataFrame
    truth: dict[str, float]
    runs: int


def simulate(generator: np.random.Generator, curvature: float, uneven: bool) -> Sweep:
    """Search and confirmation of one sweep."""
    seed_effects = generator.normal(0, SEED_SD, 1 + SEEDS)
    truth: dict[str, float] = {}
    sd: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    candidates: dict[str, list[Candidate]] = {}
    for arm in ARMS:
        x = generator.uniform(-1, 1, (SETTINGS, len(IMPORTANCE)))
        losses = {}
        for number, distance in enumerate(curvature * (x**2 @ IMPORTANCE)):
            name = f"xs-{arm}-{number:04d}"
            truth[name] = 4.0 + distance
            sd[name] = NOISE_SD * (1 + 4 * distance if uneven else 1)
            losses[name] = truth[name] + seed_effects[0] + generator.normal(0, sd[name])
            rows.append(_row(name, arm, number, losses[name], seed=0))
        ranked = sorted(losses, key=losses.__getitem__)[:TOP]
        candidates[arm] = [Candidate(name, losses[name]) for name in ranked]

    confirmed: dict[tuple[str, int], float] = {}
    while pending := (standing := race(candidates, confirmed, SEEDS)).pending:
        for name, seed in pending:
            confirmed[name, seed] = truth[name] + seed_effects[1 + seed] + generator.normal(0, sd[name])
    for number, ((name, seed), loss) in enumerate(confirmed.items()):
        arm = name.split("-")[1]
        row = _row(f"xs-{arm}-confirm-{number:04d}", arm, int(name[-4:]), loss, seed=1 + seed)
        rows.append({**row, col.PHASE: col.CONFIRM, col.OF: name, col.LEADER: standing.leaders[arm] == name})
    return Sweep(pd.DataFrame(rows), truth, len(confirmed))


def _row(trial: str, arm: str, setting: int, loss: float, seed: int) -> dict[str, Any]:
    return {
        col.TRIAL: trial,
        col.SIZE: "xs",
        col.ARM: arm,
        col.EXPERIMENT: None,
        col.PHASE: col.SEARCH,
        col.OF: None,
        col.LEADER: False,
        col.STATUS: col.COMPLETE,
        col.VAL_LOSS: loss,
        col.VAL_LOSS_SE: 0.1,
        "params.optim.lr": float(setting),  # stands for the whole setting
        "params.model.tie_embeddings": arm == "tied",
        "params.train.seed": seed,
        "params.data.seed": seed,
        **dict.fromkeys((*col.COUNT_COLUMNS, col.TOKENS), 1_000_000),
    }


def judge(sweep: Sweep) -> dict[str, float]:
    """What one answer got right: numbers that are averaged over sweeps."""
    (size,) = verdicts(sweep.trials).sizes
    leaders = {str(one.name): one for one in size.result.leaders}
    truth_of = {arm: sweep.truth[leaders[arm].setting] for arm in ARMS}
    difference = size.differences[0].difference
    assert isinstance(difference, Estimate)
    search = sweep.trials[sweep.trials[col.PHASE] == col.SEARCH].set_index(col.TRIAL)[col.VAL_LOSS]
    candidates = {arm: [name for name in search.index if f"-{arm}-" in name] for arm in ARMS}
    confirmed = set(sweep.trials[col.OF].dropna())
    found: dict[str, list[float]] = {key: [] for key in ("of_confirmed", "of_all", "error", "naive_error", "named")}
    for arm, leader in leaders.items():
        named = {leader.setting, *leader.same}
        best = min(candidates[arm], key=sweep.truth.__getitem__)
        best_confirmed = min(confirmed & set(candidates[arm]), key=sweep.truth.__getitem__)
        found["of_confirmed"].append(best_confirmed in named)
        found["of_all"].append(best in named | set(leader.unconfirmed))
        found["named"].append(len(named))
        found["error"].append(leader.mean - truth_of[arm])
        lucky = min(candidates[arm], key=search.__getitem__)
        found["naive_error"].append(search[lucky] - sweep.truth[lucky])
    return {
        "covered": difference.low <= truth_of["tied"] - truth_of["untied"] <= difference.high,
        "half_width": (difference.high - difference.low) / 2,
        "tie": size.differences[0].verdict == "tie",
        "saved": 1 - sweep.runs / (len(ARMS) * TOP * SEEDS),
        **{key: float(np.mean(values)) for key, values in found.items()},
    }


def scenario(name: str, curvature: float, sweeps: int) -> dict[str, float]:
    """The figures of one scenario."""
    generator = np.random.default_rng(list(name.encode()))
    table = pd.DataFrame([judge(simulate(generator, curvature, name == "uneven")) for _ in range(sweeps)]).astype(float)
    mean = {str(name): float(value) for name, value in table.mean().items()}
    se = math.hypot(SEED_SD, NOISE_SD) / math.sqrt(SEEDS)
    return {
        "curvature": curvature,
        "difference_covered_percent": round(100 * mean["covered"], 1),
        "half_width_nats": round(mean["half_width"], 4),
        "tie_percent": round(100 * mean["tie"], 1),
        "named_set_holds_best_confirmed_percent": round(100 * mean["of_confirmed"], 1),
        "named_and_unconfirmed_hold_best_of_16_percent": round(100 * mean["of_all"], 1),
        "named_set_size": round(mean["named"], 2),
        "bias_in_se": round(mean["error"] / se, 3),
        "bias_of_lowest_search_loss_in_its_se": round(mean["naive_error"] / math.hypot(SEED_SD, NOISE_SD), 3),
        "runs_saved_percent": round(100 * mean["saved"], 1),
    }


def windows(documents: int, per_document: float, sets: int) -> dict[str, float]:
    """Coverage of the difference of two fixed models: a document's difference has sd 0.1, each of its windows 0.2."""
    generator = np.random.default_rng([documents, int(10 * per_document)])
    covered = {"clustered": 0, "independent": 0}
    for _ in range(sets):
        lengths = 1 + generator.poisson(per_document - 1, documents)
        label = np.repeat(np.arange(documents), lengths)
        delta = 0.05 + generator.normal(0, 0.1, documents)[label] + generator.normal(0, 0.2, len(label))
        base = generator.normal(4, 1, len(label))
        for key, clusters in (("clustered", label), ("independent", np.arange(len(label)))):
            found = clustered_difference(base, base + delta, clusters)
            covered[key] += abs(found.mean - 0.05) <= stats.t.ppf(0.975, found.df) * found.se
    return {"documents": documents, "windows_per_document": per_document} | {
        f"{key}_covered_percent": round(float(100 * count / sets), 1) for key, count in covered.items()
    }


def real_models(run: Path) -> dict[str, Any]:
    """Errors of differences between real models, as ratios: median and range over all pairs of one size."""
    trials = analysis.load(run).trials
    complete = trials[(trials[col.STATUS] == col.COMPLETE) & trials[col.WINDOW_LOSSES].notna()]
    generator = np.random.default_rng(0)
    to_bootstrap, to_independent = [], []
    for _, group in complete.groupby(col.SIZE, sort=False):
        documents = group[col.WINDOW_DOCUMENTS].iloc[0]
        names, cluster = np.unique(documents, return_inverse=True)
        counts = np.bincount(cluster)
        drawn = generator.integers(0, len(names), (BOOTSTRAPS, len(names)))
        for a, b in itertools.combinations(group[col.WINDOW_LOSSES], 2):
            found = clustered_difference(a, b, documents)
            sums = np.bincount(cluster, np.asarray(b, float) - np.asarray(a, float))
            resampled = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
            to_bootstrap.append(found.se / resampled.std(ddof=1))
            to_independent.append(found.se / math.hypot(*(np.std(x, ddof=1) / math.sqrt(len(x)) for x in (a, b))))
    ratios = {"bootstrap_of_documents": to_bootstrap, "independent_means": to_independent}
    return {
        "pairs": len(to_bootstrap),
        "windows": len(documents),
        "documents": len(names),
        "within_10_percent_of_the_bootstrap_percent": round(
            100 * float(np.mean(np.abs(np.array(to_bootstrap) - 1) < 0.1)), 1
        ),
        **{
            f"error_over_{name}": [round(float(np.quantile(found, q)), 3) for q in (0, 0.5, 1)]
            for name, found in ratios.items()
        },
    }


def main() -> None:
    """Simulate, print a line per scenario, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--run", type=Path, help="a run's folder, for errors of real models")
    arguments = parser.parse_args()
    sweeps = arguments.sweeps
    results: dict[str, Any] = {
        "command": f"python tests/bench/verdicts.py --sweeps {sweeps} --run runs/quick",
        "commit": commit(),
        "versions": versions(),
        "hardware": {"machine": platform.machine(), "processor": processor(), "cores": cores()},
        "settings_per_arm": SETTINGS,
        "confirm": {"top": TOP, "seeds": SEEDS},
        "sd_between_seeds_nats": round(math.hypot(SEED_SD, NOISE_SD), 4),
        "sweeps": {},
        "windows": [],
    }
    if arguments.run is not None:
        results["real_models"] = real_models(arguments.run)
        print("real models", results["real_models"], flush=True)
    for name, curvature in SCENARIOS.items():
        results["sweeps"][name] = scenario(name, curvature, sweeps)
        print(name, results["sweeps"][name], flush=True)
    for documents, per_document in ((10, 5.0), (40, 1.5), (40, 10.0), (200, 2.0)):
        results["windows"].append(windows(documents, per_document, 4 * sweeps))
        print("windows", results["windows"][-1], flush=True)
    out = Path(__file__).parent / "results" / "verdicts.json"
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
