"""The command `lmsweep coordcheck` and its figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from analysis.figures.coordinates import coordinates_figure

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("embedding", "logits")


def document(steps=3):
    rows = [
        {"width": w, "seed": seed, "step": step, "kind": kind, "size": 1.0, "change": step * w**0.5 + seed}
        for kind in KINDS
        for w in (64, 128)
        for seed in (0, 2)
        for step in range(steps + 1)
    ]
    slopes = [{"kind": kind, "initial": 0.0, "change": 0.5 if kind == "logits" else None} for kind in KINDS]
    return {"run": {"model": {"parametrization": "mup"}}, "flat_slope": 0.35, "flat": False, "slopes": slopes} | {
        "rows": rows
    }


def test_the_figure_has_a_panel_for_each_kind_and_a_line_of_means_over_seeds_for_each_update():
    figure = coordinates_figure(document())
    assert [panel.title for panel in figure.chart.panels] == ["embedding", "logits (+0.50)"]
    lines = [layer for layer in figure.chart.panels[1].layers if layer.kind == "line"]
    assert [line.frame["x"].tolist() for line in lines] == [[64.0, 128.0]] * 3
    assert np.allclose(lines[1].frame["y"], [2 * 8 + 1, 2 * 128**0.5 + 1])
    assert "means over 2 seeds" in figure.caption


def test_the_command_measures_draws_and_ends_with_the_verdict(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    (tmp_path / "text" / "b.txt").write_text("pack my box with five dozen liquor jugs. " * 400)
    config = tmp_path / "my.yaml"
    model = {"vocab_size": 300, "d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 16}
    data = {"source": str(tmp_path / "text"), "vocab_size": 300, "val_fraction": 0.4}
    config.write_text(json.dumps({"model": model, "data": data}))
    command = [sys.executable, str(ROOT / "lmsweep.py"), "coordcheck", "--config", str(config)]
    done = subprocess.run(
        [*command, "--widths", "32", "64", "--steps", "1", "--seeds", "1", "--out", "out"],
        cwd=tmp_path,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # the standard parametrization
    assert "Not flat" in done.stdout
    assert done.stdout.endswith("Written to out: coordinates.json, coordinates.svg, coordinates.png\n")
    assert (tmp_path / "out" / "coordinates.png").stat().st_size > 10_000
