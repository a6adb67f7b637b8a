"""Records the learning curves that examples/paper_figure.ipynb replays: examples/tying.csv.

    python tests/bench/example_curves.py      # about two minutes on two cores

Every run of the grid of examples/tying.yaml, at two widths, is trained to its end by the project's own packed trainer.
"""

import os
from pathlib import Path

import pandas as pd

from lmcore import columns as col
from lmcore.runfile.paths import apply
from lmcore.trainer import Trainer
from sweeps.spec.load import load_spec
from sweeps.spec.space import grid
from sweeps.sweep import with_data

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDTHS = ({"model.d_model": 32, "model.d_ff": 88}, {"model.d_model": 64, "model.d_ff": 176})


def main() -> None:
    """Train all runs and write the table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    spec, tokens = with_data(load_spec(EXAMPLES / "tying.yaml"))
    settings = grid(spec.space, {})
    rows = []
    for width in WIDTHS:
        runs = [apply(spec.run_for("main", {**one}), width) for one in settings]
        for row in Trainer(runs, tokens):
            setting = settings[row[col.SLOT]]
            named = {"run": f"{width['model.d_model']}-{row[col.SLOT]:02d}", "seed": setting["train.seed"], **width}
            losses = {name: row[name] for name in (col.VAL_LOSS, col.FINAL_VAL_LOSS)}
            fields = {path: value for path, value in setting.items() if path != "train.seed"}
            rows.append({**named, **fields, col.STEP: row[col.STEP], **losses})
    table = pd.DataFrame(rows).sort_values(["run", col.STEP], ignore_index=True)
    table.round(5).to_csv(EXAMPLES / "tying.csv", index=False)


if __name__ == "__main__":
    main()
