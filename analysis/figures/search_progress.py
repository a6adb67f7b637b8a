"""The best loss so far against the number of trials: what the search found when, and what more trials would bring."""

import numpy as np
import pandas as pd

from analysis.figures.chart import Axis, Chart, Layer, Look, Panel
from analysis.figures.colours import GREY, INK
from analysis.figures.marks import ENDS, WORDS, diverged_layers, hovers, listed, loss_limits, sized, whole_ticks
from analysis.figures.report_figure import ReportFigure
from analysis.runs.load import Run
from analysis.tables.formatting import decimal, tally
from analysis.tables.search_progress import ORDER, improvement, search_progress
from analysis.tables.trials import LR_PATH
from lmcore import columns as col

WITHOUT_ORDER = ("grid", "experiments")  # search methods whose order says nothing
FEWEST = 4  # trials of a group
MOST_PANELS = 6
FEWEST_FOR_A_QUARTER = 8


def progress_figure(run: Run) -> ReportFigure | None:
    """A panel per size and arm; None for a grid or a list of experiments, whose order means nothing.

    Trials are in the order in which they ended. Those of the confirmation follow behind a line.
    """
    if run.manifest.get("search", {}).get("method") in WITHOUT_ORDER or run.trials[col.EXPERIMENT].notna().any():
        return None
    trials = run.trials[run.trials[LR_PATH].notna()]
    groups = [one for one in _searches(trials) if (one[1][col.PHASE] == col.SEARCH).sum() >= FEWEST][:MOST_PANELS]
    progress = {label: search_progress(own, run.rows) for label, own in groups}
    progress = {label: own for label, own in progress.items() if np.isfinite(own["best"]).any()}
    if not progress:
        return None
    panels = [_panel(own, label if len(progress) > 1 else "") for label, own in progress.items()]
    height = 3.4 if len(panels) == 1 else 2.3
    caption = _caption(progress)
    return ReportFigure(Chart("search_progress", "Best loss of the search", caption, panels, 2, False, height))


def _searches(trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The trials of each size and arm: each is searched by itself, whatever it varies."""
    arms = trials[col.ARM].astype(object).where(trials[col.ARM].notna(), "")
    many = trials[col.SIZE].nunique() > 1
    names = [", ".join(filter(None, [s if many else "", a])) for s, a in zip(trials[col.SIZE], arms, strict=True)]
    return [(str(name), own) for name, own in trials.groupby(np.array(names, object), sort=False)]


def _panel(progress: pd.DataFrame, label: str) -> Panel:
    searched = progress[progress[col.PHASE] == col.SEARCH]
    limits = loss_limits(progress[col.LOSS])
    best = searched[np.isfinite(searched["best"])]
    end = pd.DataFrame({ORDER: [searched[ORDER].max() + 0.5], "best": [best["best"].iloc[-1]]})
    line = pd.concat([best[[ORDER, "best"]], end]).set_axis(["x", "y"], axis=1).reset_index(drop=True)
    layers = [Layer("steps", line.astype("float64"), Look(INK, width=1.8), "best so far")]
    for status in (col.PRUNED, col.PAUSED, col.RUNNING):
        own = searched[(searched[col.STATUS] == status) & np.isfinite(searched[col.LOSS])]
        if len(own):
            mark = sized(Look(GREY, "o", 4.5, hollow=True) if status == col.PRUNED else ENDS[status], len(searched))
            layers.append(Layer("points", _points(own), mark, WORDS[status]))
    complete = progress[(progress[col.STATUS] == col.COMPLETE) & np.isfinite(progress[col.LOSS])]
    for phase, name, marker in ((col.SEARCH, "complete", "o"), (col.CONFIRM, "confirmation", "D")):
        if len(own := complete[complete[col.PHASE] == phase]):
            layers.append(Layer("points", _points(own), sized(Look(INK, marker, 5), len(searched)), name))
    layers += diverged_layers(progress[progress[col.STATUS] == col.DIVERGED], ORDER, limits[1])
    if (progress[col.PHASE] == col.CONFIRM).any():
        rule = pd.DataFrame({"x": [searched[ORDER].max() + 0.5]})
        layers.append(Layer("rule", rule, Look(INK, dash="dotted", width=1.0), "confirmation begins"))
    last = int(progress[ORDER].max())
    x = Axis("trials ended", ticks=whole_ticks(0, last), limits=(0.0, last + 1.0))
    return Panel(x, Axis("loss (nats per token)", limits=limits), layers, label)


def _points(own: pd.DataFrame) -> pd.DataFrame:
    frame = pd.DataFrame({"x": own[ORDER].astype("float64"), "y": own[col.LOSS].astype("float64")})
    return frame.assign(trial=own[col.TRIAL].tolist(), hover=hovers(own)).reset_index(drop=True)


def _caption(progress: dict[str, pd.DataFrame]) -> str:
    everything = pd.concat(progress.values())
    searched = everything[everything[col.PHASE] == col.SEARCH]
    parts = [f"Lowest validation loss of a complete trial so far, n = {len(searched)} trials of the search"]
    parts[0] += f" ({tally(searched[col.STATUS])}), in the order in which they ended. "
    parts[0] += "Trials that were stopped early are drawn at their last loss."
    gains = {
        label: improvement(own)
        for label, own in progress.items()
        if (own[col.PHASE] == col.SEARCH).sum() >= FEWEST_FOR_A_QUARTER
    }
    falling = [f"{decimal(gain)}{f' in {label}' if label else ''}" for label, gain in gains.items() if gain > 0]
    flat = [label for label, gain in gains.items() if gain == 0]
    if falling:
        parts.append(f"The last quarter of the trials improved the best by {listed(falling)}.")
    if flat:
        where = f" in {listed(flat)}" if any(flat) else ""
        parts.append(f"The last quarter of the trials did not improve the best{where}.")
    if len(gains) < len(progress):
        parts.append(f"Fewer than {FEWEST_FOR_A_QUARTER} trials do not show what more would bring.")
    return " ".join(parts)
