"""Are the losses between the recorded curves real? `python tests/bench/curves_check.py` trains where they are lowest.

For each size it trains the settings with the lowest predictions under two seeds, and as many drawn at random, and
writes both losses to results/curves-check.json. A minute on one core.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from lmcore import columns as col
from lmcore.cores import processor
from lmcore.trainer import Trainer
from sweeps.provenance.manifest import commit, versions
from sweeps.spec.load import load_spec
from sweeps.sweep import with_data
from tests.bench.search import HERE, lowest_settings, problem, random_settings

OUT = HERE / "results" / "curves-check.json"
COUNT, SEEDS = 4, (0, 1)


def check(size: str) -> dict[str, Any]:
    """Predicted losses of some settings, and the mean of those that they end with when trained."""
    spec, losses, _ = problem(f"curves-{size}")
    losses.check(spec)
    whole, tokens = with_data(load_spec(HERE / "curves.yaml"))
    result = {}
    for name, settings in (
        ("lowest", lowest_settings(f"curves-{size}")),
        ("random", random_settings(f"curves-{size}")),
    ):
        chosen = settings[:COUNT]
        seeded = [{**one, "train.seed": seed, "data.seed": seed} for one in chosen for seed in SEEDS]
        last = {}
        for row in Trainer([whole.run_for(size, one) for one in seeded], tokens):
            last[row[col.SLOT]] = row[col.VAL_LOSS]
        trained = np.array([last[slot] for slot in range(len(seeded))]).reshape(len(chosen), len(SEEDS)).mean(1)
        predicted = [losses.expected_loss(size, spec.run_for(size, one)) for one in chosen]
        result[name] = {
            "settings": chosen,
            "predicted": [round(loss, 4) for loss in predicted],
            "trained": [round(float(loss), 4) for loss in trained],
            "trained_minus_predicted": round(float(np.mean(trained - predicted)), 4),
        }
    return result


def main() -> None:
    """Write the JSON."""
    sizes = {size: check(size) for size in ("xs", "s")}
    about = {"command": "python tests/bench/curves_check.py", "commit": commit(), "versions": versions()}
    OUT.write_text(json.dumps({**about, "hardware": processor(), "sizes": sizes}, indent=1) + "\n")
    for size, found in sizes.items():
        print(size, {name: one["trained_minus_predicted"] for name, one in found.items()})


if __name__ == "__main__":
    main()
