"""A chart with fewer points, for the page of a run with many trials. The files beside the page have all points."""

from collections.abc import Set
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures.chart import Chart, Layer

MOST_POINTS = 6000
"""A chart whose lines have more points is thinned."""
FEW = 6
"""Points that a thinned line keeps."""


def thinned(chart: Chart, remarkable: Set[str]) -> Chart:
    """The chart, in which the lines of other than `remarkable` trials have few points if it has very many.

    The caption says so. The first and the last point of every line are kept.
    """
    lines = [layer for kind in ("line", "steps") for layer in chart.layers(kind) if "trial" in layer.frame]
    if sum(len(layer.frame) for layer in lines) <= MOST_POINTS:
        return chart
    panels = [replace(panel, layers=[_thinned(layer, remarkable) for layer in panel.layers]) for panel in chart.panels]
    note = f"On this page, all lines but those of the {len(remarkable)} lowest losses are drawn through {FEW} points."
    return replace(chart, panels=panels, caption=f"{chart.caption} {note}")


def _thinned(layer: Layer, remarkable: Set[str]) -> Layer:
    frame = layer.frame
    if layer.kind not in ("line", "steps") or "trial" not in frame:
        return layer
    line = frame["line"] if "line" in frame else pd.Series("", frame.index)
    begins = (line != line.shift()).cumsum()
    place, length = frame.groupby(begins).cumcount(), begins.map(begins.value_counts())
    # Evenly spaced: a point is kept where the rounded share of the line that lies before it grows.
    share = (place * (FEW - 1) / np.maximum(length - 1, 1)).to_numpy()
    before = ((place - 1) * (FEW - 1) / np.maximum(length - 1, 1)).to_numpy()
    kept = (np.floor(share + 1e-9) > np.floor(before + 1e-9)) | (place == 0).to_numpy()
    kept |= frame["trial"].isin(remarkable).to_numpy() | (length <= FEW).to_numpy()
    return replace(layer, frame=frame[kept])
